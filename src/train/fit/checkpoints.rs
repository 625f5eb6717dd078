//! Options: where checkpoints go, how often, and how many are kept.

use std::path::PathBuf;

use super::checkpoint::{self, Checkpoint};
use super::run_folder::RunFolder;
use crate::error::{Error, Result};
use crate::{atomic_file, bounds};

/// Where checkpoints of a run go, how often, and how many are kept.
///
/// A checkpoint is one safetensors file: the trained weights, the optimizer's and the callbacks' state, the
/// place in the run, the history, and the settings. Frozen weights are not in it, only a checksum of them. It is
/// written beside, flushed and renamed, so that a run killed at any instant leaves whole checkpoints only.
///
/// The folder belongs to one run at a time ([`RunFolder`](crate::train::RunFolder)): another is refused while it goes
/// on. Leftovers of a killed one are cleared away.
///
/// ```no_run
/// # use headstart::{Classifier, Dataset, Result};
/// use headstart::{Checkpoints, RmsProp, Trainer};
///
/// # fn fit(model: &mut Classifier, train: &Dataset, validation: &Dataset) -> Result<()> {
/// // The same program starts the run and, started again, goes on with it.
/// let history = Trainer::new(RmsProp::new(2e-5))
///     .epochs(50)
///     .checkpoint(Checkpoints::new("runs/santa").every(5))
///     .resume("runs/santa")
///     .fit(model, train, validation)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoints {
    pub(super) folder: PathBuf,
    every: usize,
    every_steps: Option<usize>,
    keep: usize,
}

impl Checkpoints {
    /// Checkpoints in this folder, which is made if need be: after every epoch, the last 3 kept.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            every: 1,
            every_steps: None,
            keep: 3,
        }
    }

    /// Sets after how many epochs each one is written; the default is 1. The end of the run always has one.
    pub fn every(mut self, epochs: usize) -> Self {
        self.every = epochs;
        self
    }

    /// Also writes one after so many steps within an epoch; off by default.
    pub fn every_steps(mut self, steps: usize) -> Self {
        self.every_steps = Some(steps);
        self
    }

    /// Sets how many of the last ones are kept; the default is 3.
    pub fn keep(mut self, checkpoints: usize) -> Self {
        self.keep = checkpoints;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        for (option, value) in [
            ("every", self.every),
            ("every_steps", self.every_steps.unwrap_or(1)),
            ("keep", self.keep),
        ] {
            bounds::within(option, value, 1..=bounds::COUNT)?;
        }
        Ok(())
    }

    pub(super) fn due_after_epoch(&self, epochs: usize) -> bool {
        epochs.is_multiple_of(self.every)
    }

    pub(super) fn due_after_step(&self, step: usize) -> bool {
        self.every_steps
            .is_some_and(|every| step.is_multiple_of(every))
    }

    /// Makes the folder ready for a run, and takes it.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when another run has it, or when it holds the checkpoints of a run that is not resumed:
    /// they would be mistaken for this one's.
    pub(super) fn prepare(&self, resumed: bool) -> Result<RunFolder> {
        let taken = RunFolder::take(&self.folder)?;
        if !resumed && !checkpoint::list(&self.folder)?.is_empty() {
            let reason = "the folder holds checkpoints of a run that is not resumed: go on with that run \
                          (`Trainer::resume`), choose another folder, or delete this one";
            return Err(Error::Checkpoint {
                path: self.folder.clone(),
                source: reason.into(),
            });
        }
        atomic_file::clear_leftovers(&self.folder)?;
        Ok(taken)
    }

    /// Writes one and removes those that are too many. Only earlier ones count: later files
    /// belong to an abandoned continuation.
    pub(super) fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        let place = checkpoint.position.place();
        checkpoint.write(&self.folder.join(checkpoint::file_name(place)))?;
        let mut earlier = checkpoint::list(&self.folder)?;
        earlier.retain(|(other, _)| *other <= place);
        for (_, path) in earlier.into_iter().rev().skip(self.keep) {
            std::fs::remove_file(&path).map_err(Error::io(path))?;
        }
        Ok(())
    }
}
