//! What may watch a run, and stop it.

use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Tensor, Var};

use super::history::{EpochRecord, History};
use super::metrics::Evaluation;
use crate::{Error, Result, atomic_file};

/// Watches a run: its epochs and steps, and may end it. Every method has an empty body by default; an error
/// ends the run with it.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use headstart::train::{EpochEnd, Stop};
/// use headstart::{Callback, Result, RmsProp, Trainer};
///
/// /// Ends the run when validation is good enough.
/// struct GoodEnough(f64);
///
/// impl Callback for GoodEnough {
///     fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
///         if epoch.record.val_accuracy >= self.0 {
///             return Ok(ControlFlow::Break(Stop::Run));
///         }
///         Ok(ControlFlow::Continue(()))
///     }
/// }
///
/// let trainer = Trainer::new(RmsProp::new(2e-5)).epochs(100).callback(GoodEnough(0.95));
/// ```
pub trait Callback: Send {
    /// Before the first epoch; also before the first one of a resumed run.
    ///
    /// # Errors
    /// Its own, which end the run.
    fn on_train_begin(&mut self, _run: &TrainBegin<'_>) -> Result<()> {
        Ok(())
    }

    /// Before the first step of a phase. A run without phases is one phase.
    ///
    /// # Errors
    /// Its own, which end the run.
    fn on_phase_begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// Before each epoch.
    ///
    /// # Errors
    /// Its own, which end the run.
    fn on_epoch_begin(&mut self, _epoch: &EpochBegin) -> Result<()> {
        Ok(())
    }

    /// After each step. Breaking leaves the run as it is after that step, with a checkpoint if the trainer
    /// keeps any, so that it can be resumed.
    ///
    /// # Errors
    /// Its own, which end the run.
    fn on_step_end(&mut self, _step: &StepEnd) -> Result<ControlFlow<()>> {
        Ok(ControlFlow::Continue(()))
    }

    /// After each epoch's validation.
    ///
    /// # Errors
    /// Its own, which end the run.
    fn on_epoch_end(&mut self, _epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        Ok(ControlFlow::Continue(()))
    }

    /// After the last epoch of a phase, with the variables that were open in it.
    ///
    /// # Errors
    /// Its own, which end the run.
    fn on_phase_end(&mut self, _variables: &[(String, Var)]) -> Result<()> {
        Ok(())
    }

    /// When the run leaves: at its end, or before it when it was told to stop.
    ///
    /// # Errors
    /// Its own, which end the run.
    fn on_train_end(&mut self, _history: &History) -> Result<()> {
        Ok(())
    }

    /// The options on which the run depends, under the callback's name, for one that changes it: they must be
    /// the same when the run is resumed. A callback without has no state in checkpoints.
    fn settings(&self) -> Option<serde_json::Value> {
        None
    }

    /// What a checkpoint must keep for the run to go on as if nothing had been.
    ///
    /// # Errors
    /// Its own, which end the run.
    fn state(&self) -> Result<CallbackState> {
        Ok(CallbackState::default())
    }

    /// Takes over what [`state`](Self::state) gave, between `on_train_begin` and the first epoch.
    ///
    /// # Errors
    /// Its own, which end the run.
    fn restore(&mut self, _state: CallbackState) -> Result<()> {
        Ok(())
    }
}

/// A callback that somebody else also holds, to look into it after the run.
impl<C: Callback> Callback for Arc<Mutex<C>> {
    fn on_train_begin(&mut self, run: &TrainBegin<'_>) -> Result<()> {
        lock(self).on_train_begin(run)
    }
    fn on_phase_begin(&mut self) -> Result<()> {
        lock(self).on_phase_begin()
    }
    fn on_epoch_begin(&mut self, epoch: &EpochBegin) -> Result<()> {
        lock(self).on_epoch_begin(epoch)
    }
    fn on_step_end(&mut self, step: &StepEnd) -> Result<ControlFlow<()>> {
        lock(self).on_step_end(step)
    }
    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        lock(self).on_epoch_end(epoch)
    }
    fn on_phase_end(&mut self, variables: &[(String, Var)]) -> Result<()> {
        lock(self).on_phase_end(variables)
    }
    fn on_train_end(&mut self, history: &History) -> Result<()> {
        lock(self).on_train_end(history)
    }
    fn settings(&self) -> Option<serde_json::Value> {
        lock(self).settings()
    }
    fn state(&self) -> Result<CallbackState> {
        lock(self).state()
    }
    fn restore(&mut self, state: CallbackState) -> Result<()> {
        lock(self).restore(state)
    }
}

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
    /// The epochs a resumed run has behind it; empty for a fresh one.
    pub history: &'a History,
    /// What the user should know, such as a damaged checkpoint that was passed over.
    pub warnings: &'a [String],
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
    /// How many of them a resumed epoch has behind it.
    pub done: usize,
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
    /// Share of the epoch's pictures so far that were classified right.
    pub accuracy: f64,
    /// The learning rate the step was made with, before any multiplier of a block.
    pub learning_rate: f64,
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
    /// The open variables by name: a callback may read and set them.
    pub variables: &'a [(String, Var)],
    pub(super) tensors: &'a dyn Fn() -> Vec<(String, Tensor)>,
}

impl EpochEnd<'_> {
    /// Writes every weight of the model to a safetensors file, whole or not at all, under the names it has in
    /// a saved classifier.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save_weights(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = safetensors::serialize((self.tensors)(), None)
            .map_err(|error| Error::io(path)(std::io::Error::other(error)))?;
        atomic_file::write(path, |file| file.write_all(&bytes))
    }
}

/// What a callback keeps in a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct CallbackState {
    /// Figures; floating-point numbers come back as they were.
    pub values: serde_json::Value,
    /// Tensors by name.
    pub tensors: Vec<(String, Tensor)>,
}

/// The state of a built-in callback that is not what it saved.
pub(super) fn state_error(error: serde_json::Error) -> Error {
    Error::option("callback state", error, "what the callback gave")
}

/// The callbacks of a trainer, in the order they are told. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Callbacks(Vec<Arc<Mutex<dyn Callback>>>);

impl Callbacks {
    pub(super) fn push(&mut self, callback: impl Callback + 'static) {
        self.0.push(Arc::new(Mutex::new(callback)));
    }

    /// Tells each one; the first error ends it.
    pub(super) fn each(&self, mut tell: impl FnMut(&mut dyn Callback) -> Result<()>) -> Result<()> {
        self.0
            .iter()
            .try_for_each(|callback| tell(&mut *lock(callback)))
    }

    /// Those that change the run, with their settings.
    pub(super) fn settings(&self) -> Vec<serde_json::Value> {
        self.0
            .iter()
            .filter_map(|callback| lock(callback).settings())
            .collect()
    }

    /// The state of those that change the run.
    pub(super) fn states(&self) -> Result<Vec<CallbackState>> {
        let callbacks = self.0.iter().map(|callback| lock(callback));
        let kept = callbacks.filter(|callback| callback.settings().is_some());
        kept.map(|callback| callback.state()).collect()
    }

    /// Gives each its state back, in the order of [`states`](Self::states).
    pub(super) fn restore(&self, states: Vec<CallbackState>) -> Result<()> {
        let mut states = states.into_iter();
        self.each(|callback| match callback.settings() {
            Some(_) => states
                .next()
                .map_or(Ok(()), |state| callback.restore(state)),
            None => Ok(()),
        })
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} callbacks", self.0.len())
    }
}

/// A callback that panicked once is no worse than before.
fn lock<C: ?Sized>(callback: &Mutex<C>) -> MutexGuard<'_, C> {
    callback.lock().unwrap_or_else(PoisonError::into_inner)
}
