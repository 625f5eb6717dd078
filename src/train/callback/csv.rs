//! A run's epochs in a CSV file that can be read while it goes on.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::append::append_line;
use super::events::{EpochEnd, Stop, TrainBegin};
use super::hooks::Callback;
use crate::error::Result;

/// A [`Callback`] that keeps a CSV file as [`History::save_csv`](crate::train::metrics::History::save_csv) writes it,
/// one more line after every epoch. A resumed run's file begins with the epochs before it was resumed.
#[derive(Clone, Debug)]
pub struct CsvLogger {
    path: PathBuf,
}

impl CsvLogger {
    /// Writes to this file, over what it held.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Callback for CsvLogger {
    fn on_train_begin(&mut self, run: &TrainBegin<'_>) -> Result<()> {
        run.history.save_csv(&self.path)
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        append_line(&self.path, &epoch.record.csv_line())?;
        Ok(ControlFlow::Continue(()))
    }
}
