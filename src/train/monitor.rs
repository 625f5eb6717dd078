//! The figure that early stopping and reduction on a plateau look at.

use super::history::EpochRecord;

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
    pub(super) fn of(self, record: &EpochRecord) -> f64 {
        match self {
            Self::ValLoss => record.val_loss,
            Self::ValAccuracy => record.val_accuracy,
        }
    }

    /// Whether a value beats the best so far by more than `min_delta`; the first finite one always does. As in Keras, NaN
    /// and infinity never do: nothing could beat a NaN, and a checkpoint's JSON has neither.
    pub(super) fn improves(self, value: f64, best: Option<f64>, min_delta: f64) -> bool {
        let beats = |best: f64| match self {
            Self::ValLoss => value + min_delta < best,
            Self::ValAccuracy => value - min_delta > best,
        };
        value.is_finite() && best.is_none_or(beats)
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
