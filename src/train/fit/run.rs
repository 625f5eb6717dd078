//! A run from its first epoch, or from a checkpoint, to its last.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use candle_core::Tensor;
use serde_json::Value;

use super::checkpoint::{Checkpoint, checksum_without};
use super::checkpoints::Checkpoints;
use super::intention::{self, Intention};
use super::options::Options;
use super::phase::Phase;
use super::position::{Mean, Next, Position};
use super::ranks::Ranks;
use super::run_folder::RunFolder;
use super::settings::settings;
use super::step::TrainStep;
use super::{enough, pictures};
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::finite;
use crate::model::{Backbone, Classifier};
use crate::progress;
use crate::train::batches::BatchSource;
use crate::train::callback::{
    CallbackState, Callbacks, EpochBegin, EpochEnd, ProgressBar, StepEnd, Stop, TrainBegin,
};
use crate::train::metrics::{EpochRecord, Evaluation, Evaluator, History, LossOptions};
use crate::train::range::not_negative;

/// A run going on.
pub(super) struct Run<'a, B> {
    options: &'a Options,
    ranks: Ranks,
    model: &'a mut Classifier<B>,
    train: &'a Dataset,
    validation: &'a Dataset,
    phases: Vec<Phase>,
    /// Of rank 0 alone.
    callbacks: Callbacks,
    /// Where checkpoints go; where the run is resumed from, unless it is said otherwise. Of rank 0 alone.
    checkpoints: Option<Checkpoints>,
    settings: Value,
    /// What tells the pictures from others, where checkpoints are kept.
    pictures: Option<[String; 2]>,
    position: Position,
    /// The optimizer's state when the run, or a phase, takes over from another.
    optimizer: Vec<(String, Tensor)>,
    /// The names of the variables of every phase so far.
    trained: BTreeSet<String>,
    /// The checksum of all other weights.
    frozen: u32,
    /// Whether a phase is under way, so that its callbacks hear of its end.
    in_phase: bool,
    /// Whether the pictures were looked at.
    looked: bool,
    /// How many skipped pictures, of training and validation, the user was told of.
    told: [usize; 2],
}

/// What the two datasets are for.
const PARTS: [&str; 2] = ["training", "validation"];

/// Whether a run goes on, or stops early because a callback or the stop flag asked it to.
type Flow = ControlFlow<()>;

fn flow(leave: bool) -> Flow {
    match leave {
        true => Flow::Break(()),
        false => Flow::Continue(()),
    }
}

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
        let ranks = Ranks::new(options.communicator.clone());
        let mut callbacks = Callbacks::default();
        if ranks.is_first() {
            callbacks = options.callbacks.clone();
            callbacks.push(ProgressBar::default());
        }
        Self {
            settings: settings(options, &phases, model, train, validation),
            position: Position::start(options.phase_learning_rate(&phases[0])),
            checkpoints: options.checkpoints().filter(|_| ranks.is_first()),
            options,
            ranks,
            model,
            train,
            validation,
            phases,
            callbacks,
            pictures: None,
            optimizer: Vec::new(),
            trained: BTreeSet::new(),
            frozen: 0,
            in_phase: false,
            looked: false,
            told: [0, 0],
        }
    }

    /// Trains to the end, or until asked to stop. An error does not lose what the run has earned.
    pub(super) fn run(mut self) -> Result<History> {
        // The folder is this run's until the end.
        let begun = self.take_folder().and_then(|taken| {
            self.begin()?;
            Ok(taken)
        });
        let taken = begun.inspect_err(|error| self.ranks.leave(error))?;
        let outcome = self.go_on().and_then(|()| self.finish());
        drop(taken);
        outcome.map_err(|cause| {
            self.ranks.leave(&cause);
            self.interrupted(cause)
        })
    }

    fn take_folder(&self) -> Result<Option<RunFolder>> {
        let Some(checkpoints) = &self.checkpoints else {
            return Ok(None);
        };
        let resume = self.options.resume.as_deref();
        let resumed = resume.is_some_and(|folder| same_folder(folder, &checkpoints.folder));
        checkpoints.prepare(resumed).map(Some)
    }

    fn go_on(&mut self) -> Result<()> {
        while self.position.next != Next::Nothing {
            let phase = self.phases[self.position.phase].clone();
            if self.phase(&phase)?.is_break() {
                return Ok(());
            }
            match self.phases.get(self.position.phase + 1) {
                Some(next) if self.position.next != Next::RunEnd => {
                    let learning_rate = self.options.phase_learning_rate(next);
                    self.position.enter_next_phase(learning_rate);
                }
                _ => {
                    self.position.next = Next::Nothing;
                    // With the optimizer's state, for a run that is made longer.
                    self.save(&self.optimizer)?;
                }
            }
        }
        Ok(())
    }

    /// The error of a run that ends with `cause`: callbacks that keep the best weights give them back, and the history
    /// comes along.
    fn interrupted(&mut self, cause: Error) -> Error {
        if self.in_phase {
            let variables = self.model.variables();
            // It is the cause that the user has to hear of.
            let _ = self
                .callbacks
                .each(|callback| callback.on_phase_end(&variables));
        }
        let history = std::mem::take(&mut self.position.history);
        if history.epochs.is_empty() {
            return cause;
        }
        Error::Interrupted {
            history: Box::new(history),
            cause: Box::new(cause),
        }
    }

    /// Resumes from the newest checkpoint, and notifies the callbacks.
    fn begin(&mut self) -> Result<()> {
        // Rank 0 has the folder ready.
        self.ranks.gather(Ok(()))?;
        if self.checkpoints.is_some() {
            self.pictures = Some([self.train, self.validation].map(pictures::list));
        }
        let (mut states, mut warnings) = (None, enough::warnings(self.train, self.validation));
        if let Some(folder) = self.options.resume.as_deref() {
            let (newest, skipped) = Checkpoint::newest(folder)?;
            warnings.extend(skipped);
            if let Some(checkpoint) = newest {
                states = Some(self.resume_from(checkpoint, folder)?);
            }
        }
        for (index, what) in PARTS.into_iter().enumerate() {
            let dataset = self.part(index);
            self.told[index] = dataset.skipped().len();
            warnings.extend(dataset.skipped_summary(what));
        }
        self.agree()?;
        self.warn(&warnings);
        let mut begin = TrainBegin::new(self.epochs(), &self.position.history);
        begin.warnings = &warnings;
        self.callbacks
            .each(|callback| callback.on_train_begin(&begin))?;
        match states {
            Some(states) if self.ranks.is_first() => self.callbacks.restore(states),
            _ => Ok(()),
        }
    }

    /// Makes sure that all ranks are about to do the same.
    fn agree(&self) -> Result<()> {
        if self.ranks.is_alone() {
            return Ok(());
        }
        let (ranks, pictures) = (self.ranks.size(), self.train.len());
        if ranks > pictures {
            let allowed = format!("at most {pictures}, as there are training pictures");
            return Err(Error::option(
                "communicator",
                format!("of {ranks} ranks"),
                allowed,
            ));
        }
        let datasets = (self.train, self.validation);
        let own = Intention::new(&self.settings, &self.position, self.model, datasets);
        intention::compare(&self.ranks.gather(Ok(own))?)
    }

    fn warn(&self, warnings: &[String]) {
        if self.ranks.is_first() {
            warnings.iter().for_each(|warning| progress::warn(warning));
        }
    }

    /// The training pictures or those of validation.
    fn part(&self, index: usize) -> &'a Dataset {
        [self.train, self.validation][index]
    }

    /// Tells the user of pictures that were skipped since the last time, and ends a run that has too few left.
    fn tell_skipped(&mut self) -> Result<()> {
        for (index, what) in PARTS.into_iter().enumerate() {
            let dataset = self.part(index);
            self.hear_of_skipped(dataset, self.told[index])?;
            let skipped = dataset.skipped().len();
            if skipped > self.told[index] {
                self.told[index] = skipped;
                self.warn(dataset.skipped_summary(what).as_slice());
            }
            dataset.check_usable()?;
        }
        Ok(())
    }

    /// Notes what other ranks skipped of a dataset, if this or another one skipped more than `known`.
    fn hear_of_skipped(&self, dataset: &Dataset, known: usize) -> Result<()> {
        if self.ranks.is_alone() {
            return Ok(());
        }
        let mut skipped = dataset.skipped();
        if skipped.len() <= known {
            skipped.clear();
        }
        let skipped = skipped
            .into_iter()
            .map(|problem| (problem.path, problem.reason));
        let all: Vec<Vec<(PathBuf, String)>> = self.ranks.gather(Ok(skipped.collect()))?;
        for (path, reason) in all.into_iter().flatten() {
            let source = reason.into();
            dataset.handle(&path.clone(), Error::Picture { path, source })?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<History> {
        let history = std::mem::take(&mut self.position.history);
        let outcome = self
            .callbacks
            .each(|callback| callback.on_train_end(&history));
        self.ranks.gather(outcome)?;
        Ok(history)
    }

    /// How many epochs all phases have.
    fn epochs(&self) -> usize {
        self.phases.iter().map(|phase| phase.epochs).sum()
    }

    /// Resumes where a checkpoint was: unfreezes what its phases unfroze, and restores weights and state. Returns the
    /// callbacks' state, for after `on_train_begin`.
    fn resume_from(&mut self, checkpoint: Checkpoint, folder: &Path) -> Result<Vec<CallbackState>> {
        let pictures = self.pictures.clone().unwrap_or_default();
        if self.ranks.is_first() {
            checkpoint.check_settings(folder, &self.settings, &pictures)?;
        }
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
        let steps = self.train.len().div_ceil(self.options.batch_size);
        let impossible = |reason| {
            unfit(format!(
                "the run cannot be where the checkpoint says: {reason}"
            ))
        };
        let checked = checkpoint
            .position
            .check(&self.phases, steps, self.train.len());
        checked.map_err(impossible)?;
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
        let planned = checkpoint.phase_epochs();
        self.trained = names;
        self.frozen = checkpoint.frozen;
        self.position = checkpoint.position;
        self.make_longer(planned);
        self.optimizer = checkpoint.optimizer;
        Ok(checkpoint.callbacks)
    }

    /// Goes on with a phase that came to its end, where it has more epochs now than the ones it was `planned` with.
    fn make_longer(&mut self, planned: Option<u64>) {
        let position = &mut self.position;
        let (made, wanted) = (position.phase_epochs, self.phases[position.phase].epochs);
        // One that a callback ended stays so.
        let ran_out = planned == Some(made as u64);
        if matches!(position.next, Next::PhaseEnd | Next::Nothing) && ran_out && wanted > made {
            position.next = Next::Epoch;
        } else if position.next == Next::Epoch && made == wanted && position.step == 0 {
            position.next = Next::PhaseEnd;
        }
    }

    /// The epochs of a phase that are left.
    fn phase(&mut self, phase: &Phase) -> Result<Flow> {
        phase.set_trainable(self.model)?;
        let mut step = TrainStep::new(self.model, self.options);
        // State of variables that stay trainable goes on; newly unfrozen ones start without.
        step.restore(std::mem::take(&mut self.optimizer))?;
        self.trained
            .extend(step.variables.iter().map(|(name, _)| name.clone()));
        if self.checkpoints.is_some() {
            self.frozen = checksum_without(&self.model.tensors(), &self.trained);
        }
        if self.position.at_phase_start() {
            self.callbacks.each(|callback| callback.on_phase_begin())?;
        }
        self.ranks.follow(&step.variables)?;
        self.in_phase = true;
        let mut running = PhaseRun {
            phase,
            step,
            train: self.options.training_batches(
                self.model,
                self.train,
                phase.epochs,
                &self.ranks,
            )?,
            validation: self.options.validation_batches(
                self.model,
                self.validation,
                &self.ranks,
            )?,
        };
        while self.position.next == Next::Epoch {
            if self.epoch(&mut running)?.is_break() {
                self.save(&running.step.state()?)?;
                return Ok(Flow::Break(()));
            }
            let finished = self.position.history.epochs.len();
            let checkpoints = self.checkpoints.as_ref();
            if checkpoints.is_some_and(|checkpoints| checkpoints.due_after_epoch(finished)) {
                self.save(&running.step.state()?)?;
            }
        }
        let step = running.step;
        self.in_phase = false;
        let variables = &step.variables;
        let ended = self
            .callbacks
            .each(|callback| callback.on_phase_end(variables));
        self.ranks.gather(ended)?;
        // A callback may have given the best weights back.
        self.ranks.follow(variables)?;
        self.optimizer = step.state()?;
        Ok(Flow::Continue(()))
    }

    /// One pass over the training pictures, or the rest of one, and its validation.
    fn epoch(&mut self, running: &mut PhaseRun<'_>) -> Result<Flow> {
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

    /// Whether the run goes on, as rank 0 has it.
    fn decide(&self, own: Result<Flow>) -> Result<Flow> {
        let leave = self.ranks.decide(own.map(|flow| flow.is_break()))?;
        Ok(flow(leave))
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

    /// Whether the stop flag says so, which counts on rank 0.
    fn stop_requested(&self) -> bool {
        self.ranks.is_first() && self.options.stop_requested()
    }

    /// The score on the validation pictures; none when asked to stop.
    fn validate(&self, batches: &BatchSource) -> Result<Option<Evaluation>> {
        // As in Keras, the reported loss is the one that is trained, but classes weigh the same.
        let loss = LossOptions {
            class_weights: Vec::new(),
            ..self.options.loss.clone()
        };
        let own = self.validate_own(batches, &loss);
        let mut all = self.ranks.gather(own)?.into_iter();
        let Some(Some(mut first)) = all.next() else {
            return Ok(None);
        };
        all.flatten().for_each(|other| first.add_all(other));
        Ok(Some(first.evaluation(self.model)))
    }

    /// The figures of this rank's validation pictures; none when asked to stop.
    fn validate_own(&self, batches: &BatchSource, loss: &LossOptions) -> Result<Option<Evaluator>> {
        let mut evaluator = Evaluator::new(self.model);
        for batch in batches.epoch(self.model, 0) {
            if self.stop_requested() {
                return Ok(None);
            }
            let added = evaluator.add(self.model, &batch?, loss);
            added.map_err(|error| self.diverged(error))?;
        }
        Ok(Some(evaluator))
    }

    /// An error of the epoch's last step, where a number is none that may be.
    fn diverged(&self, error: Error) -> Error {
        match error {
            Error::NotFinite { what, value } => Error::Diverged {
                epoch: self.position.epoch(),
                step: self.position.step,
                tensor: what,
                value,
            },
            other => other,
        }
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
    fn learning_rate(&self, phase: &Phase, steps_per_epoch: usize, step: usize) -> f64 {
        let steps = phase.epochs * steps_per_epoch;
        phase
            .schedule
            .learning_rate(self.position.learning_rate, step, steps)
    }

    /// Writes a checkpoint of the run as it is, if any are kept.
    fn save(&self, optimizer: &[(String, Tensor)]) -> Result<()> {
        let Some(checkpoints) = &self.checkpoints else {
            return Ok(());
        };
        let mut weights = self.model.tensors();
        weights.retain(|(name, _)| self.trained.contains(name));
        checkpoints.save(&Checkpoint {
            settings: self.settings.clone(),
            pictures: self.pictures.clone(),
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
