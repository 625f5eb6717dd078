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

    /// Whether a value beats the best so far by more than `min_delta`; the first one always does.
    pub(super) fn improves(self, value: f64, best: Option<f64>, min_delta: f64) -> bool {
        best.is_none_or(|best| match self {
            Self::ValLoss => value + min_delta < best,
            Self::ValAccuracy => value - min_delta > best,
        })
    }
}
