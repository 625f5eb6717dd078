//! What each epoch of a run reached, as plain data: an error may carry it too.

/// One epoch's figures. Those of validation are absent where there was no picture to validate on.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: usize,
    /// Mean training loss over the pictures of the epoch, as the weights moved.
    pub loss: f64,
    /// Share of training pictures that were classified correctly, as the weights moved.
    pub accuracy: f64,
    /// Mean validation loss after the epoch.
    pub val_loss: Option<f64>,
    /// Share of validation pictures that are classified correctly after the epoch.
    pub val_accuracy: Option<f64>,
    /// Wall-clock seconds of the epoch, validation included.
    pub seconds: f64,
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
}
