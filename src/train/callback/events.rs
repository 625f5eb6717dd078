//! The events a callback is called with.

use std::fmt;
use std::path::Path;

use candle_core::{Tensor, Var};

use crate::atomic_file;
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
    /// Makes the list of every weight of the model.
    weights: &'a dyn Fn() -> Vec<(String, Tensor)>,
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
            weights: &Vec::new,
        }
    }

    /// With what [`save_weights`](Self::save_weights) writes.
    pub(in crate::train) fn with_weights(
        mut self,
        weights: &'a dyn Fn() -> Vec<(String, Tensor)>,
    ) -> Self {
        self.weights = weights;
        self
    }

    /// Writes every weight of the model to a safetensors file, whole or not at all, under the names it has in
    /// a saved classifier. An event made by hand has none.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    pub fn save_weights(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = safetensors::serialize((self.weights)(), None)
            .map_err(Error::format("the weights", path))?;
        atomic_file::write(path, |file| file.write_all(&bytes))
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
