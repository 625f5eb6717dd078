//! Lowers the learning rate when validation no longer gets better.

use std::ops::ControlFlow;

use super::callback::{Callback, CallbackState, EpochEnd, Stop, TrainBegin, state_error};
use super::monitor::Monitor;
use crate::{Error, Result};

/// A [`Callback`] that multiplies the learning rate by `factor` after `patience` epochs in a row without a
/// better validation: Keras's `ReduceLROnPlateau`. What is multiplied is the rate the phase's schedule starts
/// from. Each phase counts afresh, from its own rate.
///
/// ```
/// use headstart::{ReduceOnPlateau, RmsProp, Trainer};
///
/// let trainer = Trainer::new(RmsProp::new(1e-4))
///     .epochs(50)
///     .callback(ReduceOnPlateau::new(0.2, 3).min_learning_rate(1e-6));
/// ```
#[derive(Clone, Debug)]
pub struct ReduceOnPlateau {
    options: Options,
    state: State,
}

#[derive(Clone, Debug, serde::Serialize)]
struct Options {
    monitor: Monitor,
    factor: f64,
    patience: usize,
    min_delta: f64,
    cooldown: usize,
    min_learning_rate: f64,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct State {
    best: Option<f64>,
    /// Epochs since the best one or the last reduction.
    wait: usize,
    /// Epochs left in which none is counted.
    cooldown: usize,
}

impl ReduceOnPlateau {
    /// Multiplies the learning rate by `factor`, above 0 and below 1, after so many epochs without a better
    /// validation. Keras's defaults are a factor of 0.1 and a patience of 10.
    ///
    /// Defaults: looks at the validation loss, which must get better by more than 1e-4; no cooldown; no least
    /// learning rate.
    pub fn new(factor: f64, patience: usize) -> Self {
        Self {
            options: Options {
                monitor: Monitor::default(),
                factor,
                patience,
                min_delta: 1e-4,
                cooldown: 0,
                min_learning_rate: 0.0,
            },
            state: State::default(),
        }
    }

    /// Sets the figure that must get better; the default is the validation loss.
    pub fn monitor(mut self, monitor: Monitor) -> Self {
        self.options.monitor = monitor;
        self
    }

    /// Sets by more than how much it must get better, 0 or more; the default is 1e-4.
    pub fn min_delta(mut self, min_delta: f64) -> Self {
        self.options.min_delta = min_delta;
        self
    }

    /// Sets how many epochs after a reduction do not count; the default is 0.
    pub fn cooldown(mut self, epochs: usize) -> Self {
        self.options.cooldown = epochs;
        self
    }

    /// Sets the learning rate below which none is reduced, 0 or more; the default is 0.
    pub fn min_learning_rate(mut self, learning_rate: f64) -> Self {
        self.options.min_learning_rate = learning_rate;
        self
    }

    /// The learning rate after an epoch whose figure is `value`.
    fn reduced(&mut self, value: f64, learning_rate: f64) -> f64 {
        let (options, state) = (&self.options, &mut self.state);
        if state.cooldown > 0 {
            state.cooldown -= 1;
            state.wait = 0;
        }
        if options
            .monitor
            .improves(value, state.best, options.min_delta)
        {
            state.best = Some(value);
            state.wait = 0;
        } else if state.cooldown == 0 {
            state.wait += 1;
            if state.wait >= options.patience && learning_rate > options.min_learning_rate {
                state.cooldown = options.cooldown;
                state.wait = 0;
                return (learning_rate * options.factor).max(options.min_learning_rate);
            }
        }
        learning_rate
    }
}

impl Callback for ReduceOnPlateau {
    fn on_train_begin(&mut self, _run: &TrainBegin<'_>) -> Result<()> {
        let Options {
            factor,
            min_delta,
            min_learning_rate,
            ..
        } = self.options;
        if !(factor > 0.0 && factor < 1.0) {
            return Err(Error::option("factor", factor, "above 0 and below 1"));
        }
        for (option, value) in [
            ("min_delta", min_delta),
            ("min_learning_rate", min_learning_rate),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::option(option, value, "0 or more"));
            }
        }
        self.on_phase_begin()
    }

    fn on_phase_begin(&mut self) -> Result<()> {
        self.state = State::default();
        Ok(())
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        let value = self.options.monitor.of(epoch.record);
        *epoch.phase_learning_rate = self.reduced(value, *epoch.phase_learning_rate);
        Ok(ControlFlow::Continue(()))
    }

    fn settings(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "reduce_on_plateau": self.options }))
    }

    fn state(&self) -> Result<CallbackState> {
        Ok(CallbackState {
            values: serde_json::to_value(&self.state).map_err(state_error)?,
            tensors: Vec::new(),
        })
    }

    fn restore(&mut self, state: CallbackState) -> Result<()> {
        self.state = serde_json::from_value(state.values).map_err(state_error)?;
        Ok(())
    }
}
