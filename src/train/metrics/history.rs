//! A run's history as CSV.

use std::path::Path;

use crate::atomic_file;
use crate::error::Result;
use crate::history::{EpochRecord, History};

/// The names of the columns.
pub(in crate::train) const CSV_HEADER: &str = "epoch,loss,accuracy,val_loss,val_accuracy,seconds";

impl EpochRecord {
    /// Its line of CSV: nothing stands where a figure is absent.
    pub(in crate::train) fn csv_line(&self) -> String {
        let figure = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        format!(
            "{},{},{},{},{},{:.3}",
            self.epoch,
            self.loss,
            self.accuracy,
            figure(self.val_loss),
            figure(self.val_accuracy),
            self.seconds
        )
    }
}

impl History {
    /// Writes one line per epoch under a header, whole or not at all. Figures are written so that reading
    /// them back gives the same numbers, an absent one as nothing; seconds with three decimals.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) naming the file.
    pub fn save_csv(&self, path: impl AsRef<Path>) -> Result<()> {
        atomic_file::write(path.as_ref(), |file| {
            writeln!(file, "{CSV_HEADER}")?;
            for epoch in &self.epochs {
                writeln!(file, "{}", epoch.csv_line())?;
            }
            Ok(())
        })
    }
}
