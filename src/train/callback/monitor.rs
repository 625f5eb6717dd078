//! What early stopping and the reduction on a plateau share: the figure they watch, and how long they wait.

use crate::bounds;
use crate::error::Result;
use crate::train::metrics::EpochRecord;
use crate::train::range::check_not_negative;

/// A figure of an epoch's validation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Monitor {
    /// The validation loss: lower is better.
    #[default]
    ValLoss,
    /// The validation accuracy: higher is better.
    ValAccuracy,
}

impl Monitor {
    pub(super) fn of(self, record: &EpochRecord) -> Option<f64> {
        match self {
            Self::ValLoss => record.val_loss,
            Self::ValAccuracy => record.val_accuracy,
        }
    }

    /// Whether a value beats the best so far by more than `min_delta`; the first finite one always does. As in Keras,
    /// NaN and infinity never do: nothing could beat a NaN, and a checkpoint's JSON has neither.
    fn improves(self, value: f64, best: Option<f64>, min_delta: f64) -> bool {
        let beats = |best: f64| match self {
            Self::ValLoss => value + min_delta < best,
            Self::ValAccuracy => value - min_delta > best,
        };
        value.is_finite() && best.is_none_or(beats)
    }
}

/// What is watched, and how long nothing may get better: Keras's `MonitorCallback`.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Patience {
    pub(super) monitor: Monitor,
    /// Epochs without anything better.
    pub(super) patience: usize,
    /// By more than how much a figure must be better.
    pub(super) min_delta: f64,
}

/// Where the waiting stands.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Waiting {
    best: Option<f64>,
    /// Epochs since the best one, or since the callback began to count again.
    pub(super) wait: usize,
}

impl Patience {
    pub(super) fn new(patience: usize, min_delta: f64) -> Self {
        Self {
            monitor: Monitor::default(),
            patience,
            min_delta,
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        bounds::within("patience", self.patience, 0..=bounds::COUNT)?;
        check_not_negative("min_delta", self.min_delta)
    }

    /// Whether an epoch is the best so far; the waiting then starts again.
    pub(super) fn is_best(&self, waiting: &mut Waiting, value: f64) -> bool {
        let better = self.monitor.improves(value, waiting.best, self.min_delta);
        if better {
            waiting.best = Some(value);
            waiting.wait = 0;
        }
        better
    }

    /// Counts an epoch that is not the best; whether that is one too many.
    pub(super) fn is_over(&self, waiting: &mut Waiting) -> bool {
        waiting.wait += 1;
        waiting.wait >= self.patience
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_finite_figures_improve() {
        let loss = Monitor::ValLoss;
        for value in [f64::NAN, f64::INFINITY] {
            assert!(!loss.improves(value, None, 0.0));
            assert!(!loss.improves(value, Some(1.0), 0.0));
        }
        assert!(loss.improves(1e300, None, 0.0));
        assert!(loss.improves(0.5, Some(1.0), 0.4) && !loss.improves(0.5, Some(1.0), 0.6));
        let accuracy = Monitor::ValAccuracy;
        assert!(accuracy.improves(0.0, None, 0.1));
        assert!(accuracy.improves(0.7, Some(0.5), 0.1) && !accuracy.improves(0.7, Some(0.5), 0.3));
    }
}
