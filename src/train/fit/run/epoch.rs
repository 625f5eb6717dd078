//! An epoch of a run: what it needs, its steps, its record, and what comes next.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use super::{Flow, PhaseRun, Run, flow};
use crate::error::{Error, Result};
use crate::finite;
use crate::model::Backbone;
use crate::train::callback::{EpochBegin, EpochEnd, StepEnd, Stop};
use crate::train::fit::phase::Phase;
use crate::train::fit::position::{Mean, Next, Position};
use crate::train::metrics::{EpochRecord, Evaluation};
use crate::train::range::not_negative;

impl<B: Backbone> Run<'_, B> {
    /// One pass over the training pictures, or the rest of one, and its validation.
    pub(super) fn epoch(&mut self, running: &mut PhaseRun<'_>) -> Result<Flow> {
        let begun = Instant::now();
        if self.prepare(running)?.is_break() {
            return Ok(Flow::Break(()));
        }
        let before = self.position.seconds;
        let steps = running.train.batches();
        let mut begin = EpochBegin::new(self.position.epoch(), self.epochs(), steps);
        begin.done = self.position.step;
        self.callbacks
            .each(|callback| callback.on_epoch_begin(&begin))?;
        let flow = self.train_epoch(running)?;
        self.position.seconds = before + begun.elapsed().as_secs_f64();
        if flow.is_break() {
            return Ok(flow);
        }
        self.tell_skipped()?;
        if self.position.mean.is_empty() {
            return Err(Error::Dataset {
                path: self.train.root().to_owned(),
                source: "none of the training pictures can be used".into(),
            });
        }
        let Some(evaluation) = self.validate(&running.validation)? else {
            return Ok(Flow::Break(()));
        };
        self.tell_skipped()?;
        let record = EpochRecord {
            epoch: begin.epoch,
            loss: self.position.mean.loss(),
            accuracy: self.position.mean.accuracy(),
            val_loss: evaluation.loss,
            val_accuracy: evaluation.accuracy,
            seconds: before + begun.elapsed().as_secs_f64(),
        };
        self.finish_epoch(running, &record, &evaluation)?;
        Ok(Flow::Continue(()))
    }

    /// Computes the features that an epoch needs, looks at the pictures where that is no work in vain, and tells of
    /// those that cannot be used before there is a step.
    fn prepare(&mut self, running: &PhaseRun<'_>) -> Result<Flow> {
        let epoch = self.position.epoch();
        let (first, options) = (self.ranks.is_first(), self.options);
        let stop = || first && options.stop_requested();
        let look = !self.looked;
        for (source, epoch) in [(&running.train, epoch), (&running.validation, 0)] {
            let mut prepared = source.prepare(self.model, epoch, &stop);
            if look && matches!(prepared, Ok(Flow::Continue(()))) {
                prepared = source.look(&stop);
            }
            if self.decide(prepared)?.is_break() {
                return Ok(Flow::Break(()));
            }
        }
        self.looked = true;
        self.tell_skipped()?;
        Ok(Flow::Continue(()))
    }

    fn train_epoch(&mut self, running: &mut PhaseRun<'_>) -> Result<Flow> {
        let epoch = self.position.epoch();
        if self.decide(Ok(flow(self.stop_requested())))?.is_break() {
            return Ok(Flow::Break(()));
        }
        let begun = Instant::now();
        let steps = running.train.batches();
        let (mut step, done) = (0, self.position.step);
        for batch in running.train.shares(&*self.model, epoch) {
            let share = self.ranks.share(batch)?;
            // A batch without a picture that can be used is no step.
            step += usize::from(share.pictures > 0);
            if share.pictures == 0 || step <= done {
                continue;
            }
            let made = self.position.phase_steps;
            let learning_rate = self.learning_rate(running.phase, steps, made);
            let (ranks, place) = (&self.ranks, (epoch, step));
            let run = running
                .step
                .run(ranks, self.model, &share, place, learning_rate);
            let output = run?;
            let position = &mut self.position;
            position.mean.add(&output, share.pictures);
            position.step = step;
            position.phase_steps += 1;
            let notified = self.notify_step(epoch, steps, learning_rate);
            if self.decide(notified)?.is_break() {
                return Ok(Flow::Break(()));
            }
            let checkpoints = self.checkpoints.as_ref();
            if checkpoints.is_some_and(|checkpoints| checkpoints.due_after_step(step)) {
                let before = self.position.seconds;
                self.position.seconds += begun.elapsed().as_secs_f64();
                self.save(&running.step.state()?)?;
                self.position.seconds = before;
            }
        }
        Ok(Flow::Continue(()))
    }

    /// Notifies the callbacks of a step, and asks whether to stop.
    fn notify_step(&self, epoch: usize, steps: usize, learning_rate: f64) -> Result<Flow> {
        let Position { step, mean, .. } = &self.position;
        let end = StepEnd {
            loss: mean.loss(),
            accuracy: mean.accuracy(),
            learning_rate,
            ..StepEnd::new(epoch, *step, steps)
        };
        let mut leave = false;
        self.callbacks.each(|callback| {
            leave |= callback.on_step_end(&end)?.is_break();
            Ok(())
        })?;
        leave |= self.stop_requested();
        Ok(flow(leave))
    }

    /// Records an epoch's figures, notifies the callbacks, and decides what comes next.
    fn finish_epoch(
        &mut self,
        running: &PhaseRun<'_>,
        record: &EpochRecord,
        validation: &Evaluation,
    ) -> Result<()> {
        let last_step = self.position.phase_steps.saturating_sub(1);
        let learning_rate = self.learning_rate(running.phase, running.train.batches(), last_step);
        let position = &mut self.position;
        position.history.epochs.push(record.clone());
        position.phase_epochs += 1;
        (position.step, position.mean, position.seconds) = (0, Mean::default(), 0.0);
        if position.phase_epochs == running.phase.epochs {
            position.next = Next::PhaseEnd;
        }
        let model = &*self.model;
        let save = |path: &Path| model.save_if_described(path);
        let rate = &mut position.learning_rate;
        let mut end = EpochEnd::new(record, validation, &position.history, rate);
        end = end.with_save(&save);
        end.phase_epoch = position.phase_epochs;
        end.learning_rate = learning_rate;
        end.variables = &running.step.variables;
        let next = &mut position.next;
        let called = self.callbacks.each(|callback| {
            match callback.on_epoch_end(&mut end)? {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(Stop::Run) => *next = Next::RunEnd,
                // Another may have ended the run.
                ControlFlow::Break(Stop::Phase) if *next == Next::RunEnd => {}
                ControlFlow::Break(Stop::Phase) => *next = Next::PhaseEnd,
            }
            Ok(())
        });
        let own = called.and_then(|()| match position.learning_rate {
            rate if not_negative(rate) => Ok((position.next, rate)),
            found => Err(Error::option("phase_learning_rate", found, "0 or more")),
        });
        (position.next, position.learning_rate) = self.ranks.decide(own)?;
        // A callback may have set a variable.
        self.ranks.follow(&running.step.variables)?;
        let variables = running.step.variables.iter();
        let variables = variables.map(|(name, var)| (name.clone(), var.as_detached_tensor()));
        match finite::first_tensor(variables)? {
            None => Ok(()),
            Some((tensor, value)) => Err(Error::Diverged {
                epoch: record.epoch,
                step: last_step + 1,
                tensor,
                value,
            }),
        }
    }

    /// The learning rate of a phase's step, counted from 0, where an epoch has so many.
    pub(super) fn learning_rate(&self, phase: &Phase, steps_per_epoch: usize, step: usize) -> f64 {
        let steps = phase.epochs * steps_per_epoch;
        phase
            .schedule
            .learning_rate(self.position.learning_rate, step, steps)
    }
}
