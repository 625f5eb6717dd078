//! Lowers the learning rate when validation no longer gets better.

use std::ops::ControlFlow;

use serde_json::{Value, json};

use super::events::{EpochEnd, Stop};
use super::hooks::{Callback, CallbackState};
use super::monitor::{Monitor, Patience, Waiting};
use crate::bounds;
use crate::error::{Error, Result};
use crate::train::metrics::EpochRecord;
use crate::train::range::check_not_negative;

/// A [`Callback`] that multiplies the learning rate by `factor` after `patience` epochs in a row without a
/// better validation: Keras's `ReduceLROnPlateau`. What is multiplied is the rate the phase's schedule starts
/// from. Each phase counts afresh, from its own rate. An epoch without validation pictures does not count.
///
/// ```
/// use headstart::{RmsProp, Trainer};
/// use headstart::train::callback::ReduceLrOnPlateau;
///
/// let trainer = Trainer::new(RmsProp::new(1e-4))
///     .epochs(50)
///     .callback(ReduceLrOnPlateau::new(0.2, 3).min_learning_rate(1e-6));
/// ```
#[derive(Clone, Debug)]
pub struct ReduceLrOnPlateau {
    options: Options,
    state: State,
}

#[derive(Clone, Debug, serde::Serialize)]
struct Options {
    #[serde(flatten)]
    patience: Patience,
    factor: f64,
    cooldown: usize,
    min_learning_rate: f64,
}

#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
struct State {
    waiting: Waiting,
    /// Epochs left in which none is counted.
    cooldown: usize,
}

impl ReduceLrOnPlateau {
    /// Multiplies the learning rate by `factor`, above 0 and below 1, after so many epochs without a better
    /// validation. Keras's defaults are a factor of 0.1 and a patience of 10.
    ///
    /// Defaults: looks at the validation loss, which must get better by more than 1e-4; no cooldown; no least
    /// learning rate.
    pub fn new(factor: f64, patience: usize) -> Self {
        Self {
            options: Options {
                patience: Patience::new(patience, 1e-4),
                factor,
                cooldown: 0,
                min_learning_rate: 0.0,
            },
            state: State::default(),
        }
    }

    /// Sets the figure that must get better; the default is the validation loss.
    pub fn monitor(mut self, monitor: Monitor) -> Self {
        self.options.patience.monitor = monitor;
        self
    }

    /// Sets by more than how much it must get better, 0 or more; the default is 1e-4.
    pub fn min_delta(mut self, min_delta: f64) -> Self {
        self.options.patience.min_delta = min_delta;
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

    /// The learning rate after an epoch.
    fn reduced(&mut self, record: &EpochRecord, learning_rate: f64) -> f64 {
        let (options, state) = (&self.options, &mut self.state);
        // Without a validation there is nothing to wait for.
        let Some(value) = options.patience.monitor.of(record) else {
            return learning_rate;
        };
        if state.cooldown > 0 {
            state.cooldown -= 1;
            state.waiting.wait = 0;
        }
        if options.patience.is_best(&mut state.waiting, value) || state.cooldown > 0 {
            return learning_rate;
        }
        let over = options.patience.is_over(&mut state.waiting);
        if !over || learning_rate <= options.min_learning_rate {
            return learning_rate;
        }
        state.cooldown = options.cooldown;
        state.waiting.wait = 0;
        (learning_rate * options.factor).max(options.min_learning_rate)
    }
}

impl Callback for ReduceLrOnPlateau {
    fn check(&self) -> Result<()> {
        let Options {
            patience,
            factor,
            cooldown,
            min_learning_rate,
        } = &self.options;
        if !(*factor > 0.0 && *factor < 1.0) {
            return Err(Error::option("factor", factor, "above 0 and below 1"));
        }
        bounds::within("cooldown", *cooldown, 0..=bounds::COUNT)?;
        check_not_negative("min_learning_rate", *min_learning_rate)?;
        patience.check()
    }

    fn on_phase_begin(&mut self) -> Result<()> {
        self.state = State::default();
        Ok(())
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        *epoch.phase_learning_rate = self.reduced(epoch.record, *epoch.phase_learning_rate);
        Ok(ControlFlow::Continue(()))
    }

    fn settings(&self) -> Option<Value> {
        Some(json!({ "reduce_lr_on_plateau": self.options }))
    }

    fn state(&self) -> Result<CallbackState> {
        CallbackState::of(&self.state)
    }

    fn restore(&mut self, state: CallbackState) -> Result<()> {
        self.state = state.parse()?;
        Ok(())
    }
}
