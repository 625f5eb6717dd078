//! Ends a phase when validation no longer gets better, and goes back to where it was best.

use std::ops::ControlFlow;

use candle_core::{Tensor, Var};

use super::callback::{Callback, CallbackState, EpochEnd, Stop, TrainBegin, state_error};
use super::monitor::Monitor;
use crate::{Error, Result};

/// A [`Callback`] that ends a phase after `patience` epochs in a row without a better validation, and gives the
/// open variables the values of the phase's best epoch: Keras's `EarlyStopping(restore_best_weights=True)`. The
/// best weights come back however the phase ends. Each phase counts afresh.
///
/// ```
/// use headstart::train::Monitor;
/// use headstart::{EarlyStopping, RmsProp, Trainer};
///
/// let trainer = Trainer::new(RmsProp::new(2e-5))
///     .epochs(100)
///     .callback(EarlyStopping::new(5).monitor(Monitor::ValAccuracy));
/// ```
#[derive(Clone, Debug)]
pub struct EarlyStopping {
    options: Options,
    state: State,
    /// Copies of the open variables after the best epoch.
    best_weights: Vec<(String, Tensor)>,
}

#[derive(Clone, Debug, serde::Serialize)]
struct Options {
    monitor: Monitor,
    patience: usize,
    min_delta: f64,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct State {
    best: Option<f64>,
    /// Epochs since the best one.
    wait: usize,
}

impl EarlyStopping {
    /// Waits so many epochs for something better; 0 ends at the first one that is no better. The default looks
    /// at the validation loss and takes any improvement.
    pub fn new(patience: usize) -> Self {
        Self {
            options: Options {
                monitor: Monitor::default(),
                patience,
                min_delta: 0.0,
            },
            state: State::default(),
            best_weights: Vec::new(),
        }
    }

    /// Sets the figure that must get better; the default is the validation loss.
    pub fn monitor(mut self, monitor: Monitor) -> Self {
        self.options.monitor = monitor;
        self
    }

    /// Sets by more than how much it must get better, 0 or more; the default is 0.
    pub fn min_delta(mut self, min_delta: f64) -> Self {
        self.options.min_delta = min_delta;
        self
    }
}

impl Callback for EarlyStopping {
    fn on_train_begin(&mut self, _run: &TrainBegin<'_>) -> Result<()> {
        let min_delta = self.options.min_delta;
        if !(min_delta.is_finite() && min_delta >= 0.0) {
            return Err(Error::option("min_delta", min_delta, "0 or more"));
        }
        self.on_phase_begin()
    }

    fn on_phase_begin(&mut self) -> Result<()> {
        self.state = State::default();
        self.best_weights.clear();
        Ok(())
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        let Options {
            monitor,
            patience,
            min_delta,
        } = self.options;
        let value = monitor.of(epoch.record);
        if monitor.improves(value, self.state.best, min_delta) {
            self.state = State {
                best: Some(value),
                wait: 0,
            };
            let variables = epoch.variables.iter();
            self.best_weights = variables
                .map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?)))
                .collect::<Result<_>>()?;
            return Ok(ControlFlow::Continue(()));
        }
        self.state.wait += 1;
        // Keras never ends after the first epoch.
        if self.state.wait >= patience && epoch.phase_epoch > 1 {
            return Ok(ControlFlow::Break(Stop::Phase));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn on_phase_end(&mut self, variables: &[(String, Var)]) -> Result<()> {
        for (name, var) in variables {
            if let Some((_, best)) = self.best_weights.iter().find(|(own, _)| own == name) {
                var.set(&best.to_device(var.device())?)?;
            }
        }
        Ok(())
    }

    fn settings(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "early_stopping": self.options }))
    }

    fn state(&self) -> Result<CallbackState> {
        Ok(CallbackState {
            values: serde_json::to_value(&self.state).map_err(state_error)?,
            tensors: self.best_weights.clone(),
        })
    }

    fn restore(&mut self, state: CallbackState) -> Result<()> {
        self.state = serde_json::from_value(state.values).map_err(state_error)?;
        self.best_weights = state.tensors;
        Ok(())
    }
}
