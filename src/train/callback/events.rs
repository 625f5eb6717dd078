//! The events a callback is called with.

use std::fmt;
use std::path::Path;

use candle_core::Var;

use crate::error::{Error, Result};
use crate::train::metrics::{EpochRecord, Evaluation, History};

/// What ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The phase: the run goes on with the next one, if there is any.
    Phase,
    /// The run.
    Run,
}

/// A run about to begin.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct TrainBegin<'a> {
    /// How many epochs all phases have.
    pub epochs: usize,
    /// The epochs before the run was resumed; empty for a fresh one.
    pub history: &'a History,
    /// What the user should know, such as a damaged checkpoint that was skipped. It is also printed: see
    /// [`Verbosity`](crate::progress::Verbosity).
    pub warnings: &'a [String],
}

impl<'a> TrainBegin<'a> {
    /// A run of so many epochs after those of `history`, without warnings.
    pub fn new(epochs: usize, history: &'a History) -> Self {
        Self {
            epochs,
            history,
            warnings: &[],
        }
    }
}

/// An epoch about to begin.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct EpochBegin {
    /// Counted from 1, over all phases.
    pub epoch: usize,
    /// How many epochs all phases have.
    pub epochs: usize,
    /// How many steps the epoch has.
    pub steps: usize,
    /// How many of them were made before the run was resumed.
    pub done: usize,
}

impl EpochBegin {
    /// The `epoch`-th of so many epochs, of so many steps, from its first step on.
    pub fn new(epoch: usize, epochs: usize, steps: usize) -> Self {
        Self {
            epoch,
            epochs,
            steps,
            done: 0,
        }
    }
}

/// A step that was made.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct StepEnd {
    /// Counted from 1, over all phases.
    pub epoch: usize,
    /// Step within the epoch, counted from 1.
    pub step: usize,
    /// How many steps the epoch has.
    pub steps: usize,
    /// Mean loss over the epoch's pictures so far.
    pub loss: f64,
    /// Share of the epoch's pictures so far that were classified correctly.
    pub accuracy: f64,
    /// The learning rate the step was made with, before any multiplier of a block.
    pub learning_rate: f64,
}

impl StepEnd {
    /// The `step`-th of so many steps of an epoch, with a loss, accuracy and learning rate of 0.
    pub fn new(epoch: usize, step: usize, steps: usize) -> Self {
        Self {
            epoch,
            step,
            steps,
            loss: 0.0,
            accuracy: 0.0,
            learning_rate: 0.0,
        }
    }
}

/// An epoch that was finished and validated.
#[non_exhaustive]
pub struct EpochEnd<'a> {
    /// The epoch's figures.
    pub record: &'a EpochRecord,
    /// Its validation in full.
    pub validation: &'a Evaluation,
    /// Every epoch so far, this one included.
    pub history: &'a History,
    /// Epochs of this phase so far, this one included.
    pub phase_epoch: usize,
    /// The learning rate of the epoch's last step, before any multiplier of a block.
    pub learning_rate: f64,
    /// What the schedule of the rest of the phase starts from: a callback may change it.
    pub phase_learning_rate: &'a mut f64,
    /// The trainable variables by name: a callback may read and set them.
    pub variables: &'a [(String, Var)],
    /// Writes the model to a file.
    save: &'a dyn Fn(&Path) -> Result<()>,
}

impl<'a> EpochEnd<'a> {
    /// The end of an epoch of a phase that began with the run, made at `learning_rate`, without variables.
    pub fn new(
        record: &'a EpochRecord,
        validation: &'a Evaluation,
        history: &'a History,
        learning_rate: &'a mut f64,
    ) -> Self {
        Self {
            record,
            validation,
            history,
            phase_epoch: record.epoch,
            learning_rate: *learning_rate,
            phase_learning_rate: learning_rate,
            variables: &[],
            save: &|path| {
                let found = "an event made by hand, which has no model";
                Err(Error::mismatch(
                    path.display().to_string(),
                    found,
                    "the event of a run",
                ))
            },
        }
    }

    /// With what [`save_weights`](Self::save_weights) does.
    pub(in crate::train) fn with_save(mut self, save: &'a dyn Fn(&Path) -> Result<()>) -> Self {
        self.save = save;
        self
    }

    /// Writes the model as it is now to a file, whole or not at all, as [`Classifier::save`] does:
    /// [`Classifier::load`] reads all of it, and [`Weights::file`] its base.
    ///
    /// [`Classifier::save`]: crate::Classifier::save
    /// [`Classifier::load`]: crate::Classifier::load
    /// [`Weights::file`]: crate::Weights::file
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; [`Error::NotFinite`] for a weight that is none; [`Error::InvalidOption`] for a
    /// base of one's own without [`saved_as`](crate::model::Backbone::saved_as); [`Error::Mismatch`] for an event that
    /// was made by hand.
    pub fn save_weights(&self, path: impl AsRef<Path>) -> Result<()> {
        (self.save)(path.as_ref())
    }
}

impl fmt::Debug for EpochEnd<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpochEnd")
            .field("record", self.record)
            .field("phase_epoch", &self.phase_epoch)
            .field("learning_rate", &self.learning_rate)
            .field("phase_learning_rate", &self.phase_learning_rate)
            .finish_non_exhaustive()
    }
}
