//! A run's epochs in a file that can be read while it goes on.

use std::fs::OpenOptions;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::callback::{Callback, EpochEnd, Stop, TrainBegin};
use super::history::{EpochRecord, History};
use crate::{Error, Result, atomic_file};

/// A [`Callback`] that keeps a CSV file as [`History::save_csv`] writes it, a line further after every epoch. A
/// resumed run's file begins with the epochs it has behind it.
#[derive(Clone, Debug)]
pub struct CsvLog {
    path: PathBuf,
}

impl CsvLog {
    /// Writes to this file, over what it held.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Callback for CsvLog {
    fn on_train_begin(&mut self, run: &TrainBegin<'_>) -> Result<()> {
        run.history.save_csv(&self.path)
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        append(&self.path, &epoch.record.csv_line())?;
        Ok(ControlFlow::Continue(()))
    }
}

/// A [`Callback`] that keeps a file with one JSON object per epoch: the [`EpochRecord`]'s fields. A resumed
/// run's file begins with the epochs it has behind it.
#[derive(Clone, Debug)]
pub struct JsonLines {
    path: PathBuf,
}

impl JsonLines {
    /// Writes to this file, over what it held.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn line(&self, record: &EpochRecord) -> Result<String> {
        serde_json::to_string(record).map_err(|error| Error::io(&self.path)(error.into()))
    }
}

impl Callback for JsonLines {
    fn on_train_begin(&mut self, run: &TrainBegin<'_>) -> Result<()> {
        let History { epochs } = run.history;
        let lines = epochs.iter().map(|record| self.line(record));
        let lines: Vec<String> = lines.collect::<Result<_>>()?;
        atomic_file::write(&self.path, |file| {
            lines.iter().try_for_each(|line| writeln!(file, "{line}"))
        })
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        append(&self.path, &self.line(epoch.record)?)?;
        Ok(ControlFlow::Continue(()))
    }
}

/// Adds a line to a file, in one write.
fn append(path: &PathBuf, line: &str) -> Result<()> {
    let file = OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .map_err(Error::io(path))
}
