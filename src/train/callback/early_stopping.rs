//! Ends a phase when validation no longer gets better, and goes back to where it was best.

use std::ops::ControlFlow;

use candle_core::{Tensor, Var};
use serde_json::{Value, json};

use super::events::{EpochEnd, Stop};
use super::hooks::{Callback, CallbackState};
use super::monitor::{Monitor, Patience, Waiting};
use crate::error::{Error, Result};

/// A [`Callback`] that ends a phase after `patience` epochs in a row without a better validation, and gives the
/// trainable variables the values of the phase's best epoch: Keras's `EarlyStopping(restore_best_weights=True)`. The
/// best weights come back however the phase ends, by an error too. Each phase counts afresh. An epoch without
/// validation pictures does not count.
///
/// ```
/// use headstart::train::callback::Monitor;
/// use headstart::{EarlyStopping, RmsProp, Trainer};
///
/// let trainer = Trainer::new(RmsProp::new(2e-5))
///     .epochs(100)
///     .callback(EarlyStopping::new(5).monitor(Monitor::ValAccuracy));
/// ```
#[derive(Clone, Debug)]
pub struct EarlyStopping {
    options: Patience,
    waiting: Waiting,
    /// Copies of the trainable variables after the best epoch.
    best_weights: Vec<(String, Tensor)>,
}

impl EarlyStopping {
    /// Waits so many epochs for something better; 0 ends at the first one that is no better. The default looks
    /// at the validation loss and takes any improvement.
    pub fn new(patience: usize) -> Self {
        Self {
            options: Patience::new(patience, 0.0),
            waiting: Waiting::default(),
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
    fn check(&self) -> Result<()> {
        self.options.check()
    }

    fn on_phase_begin(&mut self) -> Result<()> {
        self.waiting = Waiting::default();
        self.best_weights.clear();
        Ok(())
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        // Without a validation there is nothing to wait for.
        let Some(value) = self.options.monitor.of(epoch.record) else {
            return Ok(ControlFlow::Continue(()));
        };
        if self.options.is_best(&mut self.waiting, value) {
            let variables = epoch.variables.iter();
            self.best_weights = variables
                .map(|(name, var)| Ok((name.clone(), var.as_detached_tensor().copy()?)))
                .collect::<Result<_>>()?;
            return Ok(ControlFlow::Continue(()));
        }
        // Keras never ends after the first epoch.
        if self.options.is_over(&mut self.waiting) && epoch.phase_epoch > 1 {
            return Ok(ControlFlow::Break(Stop::Phase));
        }
        Ok(ControlFlow::Continue(()))
    }

    fn on_phase_end(&mut self, variables: &[(String, Var)]) -> Result<()> {
        for (name, var) in variables {
            if let Some((_, best)) = self.best_weights.iter().find(|(own, _)| own == name) {
                if best.shape() != var.shape() {
                    return Err(Error::Shape {
                        what: format!("the best weights of {name}"),
                        expected: format!("{:?}", var.dims()),
                        found: best.dims().to_vec(),
                    });
                }
                var.set(&best.to_device(var.device())?)?;
            }
        }
        Ok(())
    }

    fn settings(&self) -> Option<Value> {
        Some(json!({ "early_stopping": self.options }))
    }

    fn state(&self) -> Result<CallbackState> {
        Ok(CallbackState {
            tensors: self.best_weights.clone(),
            ..CallbackState::of(&self.waiting)?
        })
    }

    fn restore(&mut self, state: CallbackState) -> Result<()> {
        self.waiting = state.parse()?;
        self.best_weights = state.tensors;
        Ok(())
    }
}
