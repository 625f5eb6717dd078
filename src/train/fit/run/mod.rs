//! A run from its first epoch, or from a checkpoint, to its last.

mod begin;
mod epoch;
mod skipped;
mod validation;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::Tensor;
use serde_json::Value;

use super::checkpoint::Checkpoint;
use super::checkpoints::Checkpoints;
use super::options::Options;
use super::phase::Phase;
use super::position::{Next, Position};
use super::run_folder::RunFolder;
use super::settings::settings;
use super::step::TrainStep;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::train::batches::BatchSource;
use crate::train::callback::{Callbacks, ProgressBar};
use crate::train::checksum::checksum_without;
use crate::train::metrics::History;
use crate::train::ranks::Ranks;

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

    /// Whether the run goes on, as rank 0 has it.
    fn decide(&self, own: Result<Flow>) -> Result<Flow> {
        let leave = self.ranks.decide(own.map(|flow| flow.is_break()))?;
        Ok(flow(leave))
    }

    /// Whether the stop flag says so, which counts on rank 0.
    fn stop_requested(&self) -> bool {
        self.ranks.is_first() && self.options.stop_requested()
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
