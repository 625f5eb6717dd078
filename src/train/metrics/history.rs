//! What each epoch of a run reached.

use std::path::Path;

use crate::atomic_file;
use crate::error::Result;

/// One epoch's figures.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean training loss over the pictures of the epoch, as the weights moved.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Share of training pictures that were classified correctly, as the weights moved.
    #[serde(deserialize_with = "number")]
    pub accuracy: f64,
    /// Mean validation loss after the epoch.
    #[serde(deserialize_with = "number")]
    pub val_loss: f64,
    /// Share of validation pictures that are classified correctly after the epoch.
    #[serde(deserialize_with = "number")]
    pub val_accuracy: f64,
    /// Wall-clock seconds of the epoch, validation included.
    pub seconds: f64,
}

impl EpochRecord {
    pub(in crate::train) fn csv_line(&self) -> String {
        format!(
            "{},{},{},{},{},{:.3}",
            self.epoch, self.loss, self.accuracy, self.val_loss, self.val_accuracy, self.seconds
        )
    }
}

/// JSON has no NaN and writes null.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let number = <Option<f64> as serde::Deserialize>::deserialize(deserializer)?;
    Ok(number.unwrap_or(f64::NAN))
}

/// The epochs of a run, in order.
///
/// ```
/// use headstart::train::metrics::History;
///
/// let history = History::default();
/// let folder = tempfile::tempdir().unwrap();
/// history.save_csv(folder.path().join("history.csv"))?;
/// let csv = std::fs::read_to_string(folder.path().join("history.csv")).unwrap();
/// assert_eq!(csv, "epoch,loss,accuracy,val_loss,val_accuracy,seconds\n");
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct History {
    /// One record per finished epoch.
    pub epochs: Vec<EpochRecord>,
}

impl History {
    /// The last epoch's record, if any epoch was finished.
    pub fn last(&self) -> Option<&EpochRecord> {
        self.epochs.last()
    }

    /// Mean wall-clock seconds of an epoch; 0 when there is none.
    pub fn seconds_per_epoch(&self) -> f64 {
        let total: f64 = self.epochs.iter().map(|epoch| epoch.seconds).sum();
        total / self.epochs.len().max(1) as f64
    }

    /// Writes one line per epoch under a header, whole or not at all. Figures are written so that reading
    /// them back gives the same numbers; seconds with three decimals.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) naming the file.
    pub fn save_csv(&self, path: impl AsRef<Path>) -> Result<()> {
        atomic_file::write(path.as_ref(), |file| {
            writeln!(file, "epoch,loss,accuracy,val_loss,val_accuracy,seconds")?;
            for epoch in &self.epochs {
                writeln!(file, "{}", epoch.csv_line())?;
            }
            Ok(())
        })
    }
}
