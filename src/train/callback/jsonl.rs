//! A run's epochs as JSON lines that can be read while it goes on.

use std::ops::ControlFlow;
use std::path::PathBuf;

use super::append::append_line;
use super::events::{EpochEnd, Stop, TrainBegin};
use super::hooks::Callback;
use crate::atomic_file;
use crate::error::{Error, Result};
use crate::train::metrics::{EpochRecord, History};

/// A [`Callback`] that keeps a file with one JSON object per epoch: the [`EpochRecord`]'s fields. A resumed
/// run's file begins with the epochs before it was resumed.
#[derive(Clone, Debug)]
pub struct JsonLinesLogger {
    path: PathBuf,
}

impl JsonLinesLogger {
    /// Writes to this file, over what it held.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn line(&self, record: &EpochRecord) -> Result<String> {
        serde_json::to_string(record).map_err(Error::format("an epoch's record", &self.path))
    }
}

impl Callback for JsonLinesLogger {
    fn on_train_begin(&mut self, run: &TrainBegin<'_>) -> Result<()> {
        let History { epochs } = run.history;
        let lines = epochs.iter().map(|record| self.line(record));
        let lines: Vec<String> = lines.collect::<Result<_>>()?;
        atomic_file::write(&self.path, |file| {
            lines.iter().try_for_each(|line| writeln!(file, "{line}"))
        })
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        append_line(&self.path, &self.line(epoch.record)?)?;
        Ok(ControlFlow::Continue(()))
    }
}
