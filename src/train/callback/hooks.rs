//! The trait of everything that watches a run.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{Tensor, Var};
use serde_json::Value;

use super::events::{EpochBegin, EpochEnd, StepEnd, Stop, TrainBegin};
use crate::error::{Error, Result};
use crate::train::metrics::History;

/// Watches a run: its epochs and steps, and may end it. Every method does nothing by default.
///
/// # Errors
/// Any method may fail, with an error of its own, which ends the run.
///
/// ```
/// use std::ops::ControlFlow;
///
/// use headstart::train::callback::{Callback, EpochEnd, Stop};
/// use headstart::{Result, RmsProp, Trainer};
///
/// /// Ends the run when validation is good enough.
/// struct GoodEnough(f64);
///
/// impl Callback for GoodEnough {
///     fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
///         if epoch.record.val_accuracy >= Some(self.0) {
///             return Ok(ControlFlow::Break(Stop::Run));
///         }
///         Ok(ControlFlow::Continue(()))
///     }
/// }
///
/// let trainer = Trainer::new(RmsProp::new(2e-5)).epochs(100).callback(GoodEnough(0.95));
/// ```
///
/// Events can be made by hand, to [test a callback](crate::train::callback) without training anything.
pub trait Callback: Send {
    /// Refuses options out of range, before a run touches anything.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The file that it keeps, if it keeps one: a run with two callbacks that keep the same is refused.
    fn file(&self) -> Option<PathBuf> {
        None
    }

    /// Before the first epoch; also before the first one of a resumed run.
    fn on_train_begin(&mut self, _run: &TrainBegin<'_>) -> Result<()> {
        Ok(())
    }

    /// Before the first step of a phase. A run without phases is one phase.
    fn on_phase_begin(&mut self) -> Result<()> {
        Ok(())
    }

    /// Before each epoch.
    fn on_epoch_begin(&mut self, _epoch: &EpochBegin) -> Result<()> {
        Ok(())
    }

    /// After each step. Breaking stops the run as it is after that step, with a checkpoint if the trainer
    /// keeps any, so that it can be resumed.
    fn on_step_end(&mut self, _step: &StepEnd) -> Result<ControlFlow<()>> {
        Ok(ControlFlow::Continue(()))
    }

    /// After each epoch's validation.
    fn on_epoch_end(&mut self, _epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        Ok(ControlFlow::Continue(()))
    }

    /// After the last epoch of a phase, with the variables that were trainable in it.
    fn on_phase_end(&mut self, _variables: &[(String, Var)]) -> Result<()> {
        Ok(())
    }

    /// When the run stops: at its end, or before it when it was asked to.
    fn on_train_end(&mut self, _history: &History) -> Result<()> {
        Ok(())
    }

    /// The options on which the run depends, under the callback's name, for one that changes it: they must be
    /// the same when the run is resumed. A callback that returns `None` keeps no state in checkpoints.
    fn settings(&self) -> Option<Value> {
        None
    }

    /// What a checkpoint must keep for a resumed run to go on as if it had never been interrupted.
    fn state(&self) -> Result<CallbackState> {
        Ok(CallbackState::default())
    }

    /// Takes over what [`state`](Self::state) gave, between `on_train_begin` and the first epoch.
    fn restore(&mut self, _state: CallbackState) -> Result<()> {
        Ok(())
    }
}

/// A callback that is shared, so that it can be looked into after the run.
impl<C: Callback> Callback for Arc<Mutex<C>> {
    fn check(&self) -> Result<()> {
        lock(self).check()
    }
    fn file(&self) -> Option<PathBuf> {
        lock(self).file()
    }
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
    fn settings(&self) -> Option<Value> {
        lock(self).settings()
    }
    fn state(&self) -> Result<CallbackState> {
        lock(self).state()
    }
    fn restore(&mut self, state: CallbackState) -> Result<()> {
        lock(self).restore(state)
    }
}

/// A callback that panicked once is no worse than before.
pub(super) fn lock<C: ?Sized>(callback: &Mutex<C>) -> MutexGuard<'_, C> {
    callback.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a callback keeps in a checkpoint.
#[derive(Clone, Debug, Default)]
pub struct CallbackState {
    /// Figures; floating-point numbers come back as they were.
    pub values: Value,
    /// Tensors by name.
    pub tensors: Vec<(String, Tensor)>,
}

impl CallbackState {
    /// The figures of a built-in callback.
    pub(super) fn of(values: &impl serde::Serialize) -> Result<Self> {
        Ok(Self {
            values: serde_json::to_value(values).map_err(foreign)?,
            tensors: Vec::new(),
        })
    }

    /// The figures back.
    pub(super) fn parse<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.values).map_err(foreign)
    }
}

fn foreign(error: serde_json::Error) -> Error {
    Error::mismatch("callback state", error, "what the callback gave")
}
