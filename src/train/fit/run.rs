//! A run from its first epoch, or from a checkpoint, to its last.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use candle_core::Tensor;
use serde_json::Value;

use super::checkpoint::{Checkpoint, checksum_without};
use super::options::Options;
use super::phase::Phase;
use super::position::{Mean, Next, Position};
use super::settings::settings;
use super::step::TrainStep;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::progress;
use crate::train::batches::BatchSource;
use crate::train::callback::{
    CallbackState, Callbacks, EpochBegin, EpochEnd, ProgressBar, StepEnd, Stop, TrainBegin,
};
use crate::train::metrics::{EpochRecord, Evaluation, Evaluator, History, LossOptions};

/// A run going on.
pub(super) struct Run<'a, B> {
    options: &'a Options,
    model: &'a mut Classifier<B>,
    train: &'a Dataset,
    validation: &'a Dataset,
    phases: Vec<Phase>,
    callbacks: Callbacks,
    settings: Value,
    position: Position,
    /// The optimizer's state when the run, or a phase, takes over from another.
    optimizer: Vec<(String, Tensor)>,
    /// The names of the variables of every phase so far.
    trained: BTreeSet<String>,
    /// The checksum of all other weights.
    frozen: u32,
}

/// Whether a run goes on, or stops early because a callback or the stop flag asked it to.
type Flow = ControlFlow<()>;

/// What the epochs of a phase are made of.
struct PhaseRun<'a> {
    phase: &'a Phase,
    step: TrainStep,
    train: BatchSource,
    validation: BatchSource,
}

impl<'a, B: Backbone> Run<'a, B> {
    /// A run by options that were checked.
    pub(super) fn new(
        options: &'a Options,
        model: &'a mut Classifier<B>,
        train: &'a Dataset,
        validation: &'a Dataset,
    ) -> Self {
        let phases = options.plan();
        let mut callbacks = options.callbacks.clone();
        callbacks.push(ProgressBar::default());
        Self {
            settings: settings(options, &phases, model, train, validation),
            position: Position::start(options.phase_learning_rate(&phases[0])),
            options,
            model,
            train,
            validation,
            phases,
            callbacks,
            optimizer: Vec::new(),
            trained: BTreeSet::new(),
            frozen: 0,
        }
    }

    /// Trains to the end, or until asked to stop.
    pub(super) fn run(mut self) -> Result<History> {
        self.begin()?;
        while self.position.next != Next::Nothing {
            let phase = self.phases[self.position.phase].clone();
            if self.phase(&phase)?.is_break() {
                return self.finish();
            }
            match self.phases.get(self.position.phase + 1) {
                Some(next) if self.position.next != Next::RunEnd => {
                    let learning_rate = self.options.phase_learning_rate(next);
                    self.position.enter_next_phase(learning_rate);
                }
                _ => {
                    self.position.next = Next::Nothing;
                    self.save(&[])?;
                }
            }
        }
        self.finish()
    }

    /// Makes the folder of checkpoints ready, resumes from the newest checkpoint, and notifies the callbacks.
    fn begin(&mut self) -> Result<()> {
        let resume = self.options.resume.as_deref();
        if let Some(checkpoints) = &self.options.checkpoints {
            let resumed = resume.is_some_and(|folder| same_folder(folder, &checkpoints.folder));
            checkpoints.prepare(resumed)?;
        }
        let (mut states, mut warnings) = (None, Vec::new());
        if let Some(folder) = resume {
            let newest;
            (newest, warnings) = Checkpoint::newest(folder)?;
            if let Some(checkpoint) = newest {
                states = Some(self.resume_from(checkpoint, folder)?);
            }
        }
        warnings.iter().for_each(|warning| progress::warn(warning));
        let mut begin = TrainBegin::new(self.epochs(), &self.position.history);
        begin.warnings = &warnings;
        self.callbacks
            .each(|callback| callback.on_train_begin(&begin))?;
        states.map_or(Ok(()), |states| self.callbacks.restore(states))
    }

    fn finish(self) -> Result<History> {
        let history = self.position.history;
        self.callbacks
            .each(|callback| callback.on_train_end(&history))?;
        Ok(history)
    }

    /// How many epochs all phases have.
    fn epochs(&self) -> usize {
        self.phases.iter().map(|phase| phase.epochs).sum()
    }

    /// Resumes where a checkpoint was: unfreezes what its phases unfroze, and restores weights and state. Returns the
    /// callbacks' state, for after `on_train_begin`.
    fn resume_from(&mut self, checkpoint: Checkpoint, folder: &Path) -> Result<Vec<CallbackState>> {
        checkpoint.check_settings(folder, &self.settings)?;
        let unfit = |reason: String| Error::Checkpoint {
            path: folder.to_owned(),
            source: reason.into(),
        };
        let names = checkpoint.weights.iter().map(|(name, _)| name.clone());
        let names: BTreeSet<String> = names.collect();
        if checksum_without(&self.model.tensors(), &names) != checkpoint.frozen {
            return Err(unfit(
                "the frozen weights are not those the run was begun with".into(),
            ));
        }
        // A block that an earlier phase trained and a later one froze takes its weights while it is trainable.
        for phase in self.phases.iter().take(checkpoint.position.phase + 1) {
            phase.set_trainable(self.model)?;
            for (name, var) in self.model.variables() {
                let saved = checkpoint.weights.iter().find(|(own, _)| *own == name);
                let (_, tensor) = saved.ok_or_else(|| unfit(format!("no weights of {name}")))?;
                if tensor.shape() != var.shape() {
                    return Err(unfit(format!("{name} has shape {:?}", tensor.dims())));
                }
                var.set(&tensor.to_device(var.device())?.to_dtype(var.dtype())?)?;
            }
        }
        self.trained = names;
        self.frozen = checkpoint.frozen;
        self.position = checkpoint.position;
        self.optimizer = checkpoint.optimizer;
        Ok(checkpoint.callbacks)
    }

    /// The epochs of a phase that are left.
    fn phase(&mut self, phase: &Phase) -> Result<Flow> {
        phase.set_trainable(self.model)?;
        let mut step = TrainStep::new(self.model, self.options);
        // State of variables that stay trainable goes on; newly unfrozen ones start without.
        step.restore(std::mem::take(&mut self.optimizer))?;
        self.trained
            .extend(step.variables.iter().map(|(name, _)| name.clone()));
        if self.options.checkpoints.is_some() {
            self.frozen = checksum_without(&self.model.tensors(), &self.trained);
        }
        if self.position.at_phase_start() {
            self.callbacks.each(|callback| callback.on_phase_begin())?;
        }
        let mut running = PhaseRun {
            phase,
            step,
            train: self.options.training_batches(self.model, self.train)?,
            validation: self
                .options
                .validation_batches(self.model, self.validation)?,
        };
        while self.position.next == Next::Epoch {
            if self.epoch(&mut running)?.is_break() {
                self.save(&running.step.state()?)?;
                return Ok(Flow::Break(()));
            }
            let finished = self.position.history.epochs.len();
            let checkpoints = self.options.checkpoints.as_ref();
            if checkpoints.is_some_and(|checkpoints| checkpoints.due_after_epoch(finished)) {
                self.save(&running.step.state()?)?;
            }
        }
        let step = running.step;
        self.callbacks
            .each(|callback| callback.on_phase_end(&step.variables))?;
        self.optimizer = step.state()?;
        Ok(Flow::Continue(()))
    }

    /// One pass over the training pictures, or the rest of one, and its validation.
    fn epoch(&mut self, running: &mut PhaseRun<'_>) -> Result<Flow> {
        let begun = Instant::now();
        running.train.prepare(self.model, self.position.epoch())?;
        running.validation.prepare(self.model, 0)?;
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
        let Some(evaluation) = self.validate(&running.validation)? else {
            return Ok(Flow::Break(()));
        };
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

    fn train_epoch(&mut self, running: &mut PhaseRun<'_>) -> Result<Flow> {
        let epoch = self.position.epoch();
        if self.options.stop_requested() {
            return Ok(Flow::Break(()));
        }
        let begun = Instant::now();
        let steps = running.train.batches();
        let batches = running.train.epoch(&*self.model, epoch).enumerate();
        for (index, batch) in batches.skip(self.position.step) {
            let batch = batch?;
            let made = self.position.phase_steps;
            let learning_rate = self.learning_rate(running.phase, steps, made);
            let place = (epoch, index + 1);
            let output = running.step.run(self.model, &batch, place, learning_rate)?;
            let position = &mut self.position;
            position.mean.add(&output, batch.labels.len());
            position.step = index + 1;
            position.phase_steps += 1;
            if self.notify_step(epoch, steps, learning_rate)?.is_break() {
                return Ok(Flow::Break(()));
            }
            let checkpoints = self.options.checkpoints.as_ref();
            if checkpoints.is_some_and(|checkpoints| checkpoints.due_after_step(index + 1)) {
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
        leave |= self.options.stop_requested();
        Ok(match leave {
            true => Flow::Break(()),
            false => Flow::Continue(()),
        })
    }

    /// The score on the validation pictures; none when asked to stop.
    fn validate(&self, batches: &BatchSource) -> Result<Option<Evaluation>> {
        // As in Keras, the reported loss is the one that is trained, but classes weigh the same.
        let loss = LossOptions {
            class_weights: Vec::new(),
            ..self.options.loss.clone()
        };
        let mut evaluator = Evaluator::new(self.model);
        for batch in batches.epoch(self.model, 0) {
            if self.options.stop_requested() {
                return Ok(None);
            }
            evaluator.add(self.model, &batch?, &loss)?;
        }
        Ok(Some(evaluator.evaluation(self.model)))
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
        let weights = || model.tensors();
        let rate = &mut position.learning_rate;
        let mut end = EpochEnd::new(record, validation, &position.history, rate);
        end = end.with_weights(&weights);
        end.phase_epoch = position.phase_epochs;
        end.learning_rate = learning_rate;
        end.variables = &running.step.variables;
        let next = &mut position.next;
        self.callbacks.each(|callback| {
            match callback.on_epoch_end(&mut end)? {
                ControlFlow::Continue(()) => {}
                ControlFlow::Break(Stop::Run) => *next = Next::RunEnd,
                // Another may have ended the run.
                ControlFlow::Break(Stop::Phase) if *next == Next::RunEnd => {}
                ControlFlow::Break(Stop::Phase) => *next = Next::PhaseEnd,
            }
            Ok(())
        })
    }

    /// The learning rate of a phase's step, counted from 0, where an epoch has so many.
    fn learning_rate(&self, phase: &Phase, steps_per_epoch: usize, step: usize) -> f64 {
        let steps = phase.epochs * steps_per_epoch;
        phase
            .schedule
            .learning_rate(self.position.learning_rate, step, steps)
    }

    /// Writes a checkpoint of the run as it is, if any are kept.
    fn save(&self, optimizer: &[(String, Tensor)]) -> Result<()> {
        let Some(checkpoints) = &self.options.checkpoints else {
            return Ok(());
        };
        let mut weights = self.model.tensors();
        weights.retain(|(name, _)| self.trained.contains(name));
        checkpoints.save(&Checkpoint {
            settings: self.settings.clone(),
            position: self.position.clone(),
            weights,
            frozen: self.frozen,
            optimizer: optimizer.to_vec(),
            callbacks: self.callbacks.states()?,
        })
    }
}

fn same_folder(a: &Path, b: &Path) -> bool {
    let whole = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    whole(a) == whole(b)
}
