//! What each epoch of a run reached.

use std::path::Path;

use crate::{Result, atomic_file};

/// One epoch's figures.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean training loss over the pictures of the epoch, as the weights moved.
    pub loss: f64,
    /// Share of training pictures that were classified right, as the weights moved.
    pub accuracy: f64,
    /// Mean validation loss after the epoch.
    pub val_loss: f64,
    /// Share of validation pictures that are classified right after the epoch.
    pub val_accuracy: f64,
    /// Wall-clock seconds of the epoch, validation included.
    pub seconds: f64,
}

/// The epochs of a run, in order.
///
/// ```
/// use headstart::History;
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
            for e in &self.epochs {
                writeln!(
                    file,
                    "{},{},{},{},{},{:.3}",
                    e.epoch, e.loss, e.accuracy, e.val_loss, e.val_accuracy, e.seconds
                )?;
            }
            Ok(())
        })
    }
}
