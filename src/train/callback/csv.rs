//! A run's epochs in a CSV file that can be read while it goes on.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::append::{self, append_line};
use super::events::{EpochEnd, Stop, TrainBegin};
use super::hooks::Callback;
use crate::error::Result;
use crate::train::metrics::CSV_HEADER;

/// A [`Callback`] that keeps a CSV file as [`History::save_csv`](crate::train::metrics::History::save_csv) writes it,
/// one more line after every epoch. Another run's lines stay before this one's, which begin at epoch 1 again; a resumed
/// run goes on from where it is resumed. A file that holds something else is an error, and so is one that another
/// callback of the run keeps.
#[derive(Clone, Debug)]
pub struct CsvLogger {
    path: PathBuf,
}

impl CsvLogger {
    /// Writes to this file, after what it holds of earlier runs.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Callback for CsvLogger {
    fn file(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    fn on_train_begin(&mut self, run: &TrainBegin<'_>) -> Result<()> {
        let lines: Vec<String> = run.history.epochs.iter().map(|e| e.csv_line()).collect();
        let columns = CSV_HEADER.split(',').count();
        let is_line = |line: &str| line.split(',').count() == columns;
        let is_first = |line: &str| line.starts_with("1,");
        append::begin(&self.path, Some(CSV_HEADER), &lines, is_line, is_first)
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        append_line(&self.path, &epoch.record.csv_line())?;
        Ok(ControlFlow::Continue(()))
    }
}
