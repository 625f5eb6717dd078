//! A run's epochs as JSON lines that can be read while it goes on.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::append::{self, append_line};
use super::events::{EpochEnd, Stop, TrainBegin};
use super::hooks::Callback;
use crate::error::{Error, Result};
use crate::train::metrics::{EpochRecord, History};

/// A [`Callback`] that keeps a file with one JSON object per epoch: the [`EpochRecord`]'s fields. Another run's lines
/// stay before this one's, which begin at epoch 1 again; a resumed run goes on from where it is resumed. A file that
/// holds something else is an error.
#[derive(Clone, Debug)]
pub struct JsonLinesLogger {
    path: PathBuf,
}

impl JsonLinesLogger {
    /// Writes to this file, after what it holds of earlier runs.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn line(&self, record: &EpochRecord) -> Result<String> {
        serde_json::to_string(record).map_err(Error::format("an epoch's record", &self.path))
    }
}

impl Callback for JsonLinesLogger {
    fn file(&self) -> Option<PathBuf> {
        Some(self.path.clone())
    }

    fn on_train_begin(&mut self, run: &TrainBegin<'_>) -> Result<()> {
        let History { epochs } = run.history;
        let lines = epochs.iter().map(|record| self.line(record));
        let lines: Vec<String> = lines.collect::<Result<_>>()?;
        let record = |line: &str| serde_json::from_str::<EpochRecord>(line).ok();
        let is_line = |line: &str| record(line).is_some();
        let is_first = |line: &str| record(line).is_some_and(|record| record.epoch == 1);
        append::begin(&self.path, None, &lines, is_line, is_first)
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        append_line(&self.path, &self.line(epoch.record)?)?;
        Ok(ControlFlow::Continue(()))
    }
}
