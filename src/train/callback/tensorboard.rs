//! A run's figures as TensorBoard reads them.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use prost::Message;

use super::events::{EpochEnd, Stop, TrainBegin};
use super::hooks::Callback;
use crate::error::{Error, Result};

/// A [`Callback`] that writes an event file for TensorBoard: `loss/train`, `loss/validation`, `accuracy/train`,
/// `accuracy/validation` and `learning_rate`, by epoch. A folder that holds a run already gets another one below,
/// `run-2` and so on, which TensorBoard shows beside it. A resumed run adds a file of its own to the last one, which
/// takes the place of what was written there after the checkpoint.
///
/// ```no_run
/// use headstart::{RmsProp, Trainer};
/// use headstart::train::callback::TensorBoard;
///
/// // tensorboard --logdir runs
/// let trainer = Trainer::new(RmsProp::new(2e-5)).callback(TensorBoard::new("runs/santa"));
/// ```
#[derive(Debug)]
pub struct TensorBoard {
    folder: PathBuf,
    file: Option<(PathBuf, File)>,
}

impl TensorBoard {
    /// Writes to this folder, which is made if need be.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            file: None,
        }
    }

    fn write(&mut self, step: usize, what: What) -> Result<()> {
        let Some((path, file)) = &mut self.file else {
            return Ok(());
        };
        let event = Event {
            wall_time: seconds(),
            step: step as i64,
            what: Some(what),
        };
        file.write_all(&record(&event.encode_to_vec()))
            .map_err(Error::io(&*path))
    }
}

impl Callback for TensorBoard {
    fn on_train_begin(&mut self, run: &TrainBegin<'_>) -> Result<()> {
        let folder = folder_of_run(&self.folder, !run.history.epochs.is_empty())?;
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        self.file = Some(new_file(&folder)?);
        self.write(0, What::FileVersion("brain.Event:2".into()))?;
        let done = run.history.epochs.len();
        if done > 0 {
            // Tells the reader to forget what earlier files have from this step on.
            let status = SESSION_START;
            self.write(done + 1, What::SessionLog(SessionLog { status }))?;
        }
        Ok(())
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        let record = epoch.record;
        let value = [
            ("loss/train", Some(record.loss)),
            ("loss/validation", record.val_loss),
            ("accuracy/train", Some(record.accuracy)),
            ("accuracy/validation", record.val_accuracy),
            ("learning_rate", Some(epoch.learning_rate)),
        ];
        let value = value.into_iter().filter_map(|(tag, value)| {
            Some(Value {
                tag: tag.into(),
                simple_value: value? as f32,
            })
        });
        let value = value.collect();
        self.write(record.epoch, What::Summary(Summary { value }))?;
        Ok(ControlFlow::Continue(()))
    }
}

/// Where a run's files go: after those of the last run there is, if it is resumed, else into a folder without any.
fn folder_of_run(folder: &Path, resumed: bool) -> Result<PathBuf> {
    let mut last = folder.to_owned();
    for number in 2.. {
        let next = folder.join(format!("run-{number}"));
        if !holds_run(&last)? || resumed && !holds_run(&next)? {
            break;
        }
        last = next;
    }
    Ok(last)
}

/// Whether there are event files in a folder, which may not be there.
fn holds_run(folder: &Path) -> Result<bool> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(Error::io(folder))?,
    };
    for entry in entries {
        let name = entry.map_err(Error::io(folder))?.file_name();
        if name.to_string_lossy().starts_with("events.out.tfevents.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A file whose name says when it was begun: TensorBoard reads them in the order of their names, so that one comes
/// after those that are there, whatever the clock says.
fn new_file(folder: &Path) -> Result<(PathBuf, File)> {
    let now = (seconds() as u64).max(latest(folder)?);
    let mut index = 0;
    loop {
        let path = folder.join(format!(
            "events.out.tfevents.{now:010}.{index:03}.headstart"
        ));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => index += 1,
            Err(error) => return Err(Error::io(path)(error)),
        }
    }
}

/// When the last file of a folder was begun, by its name; 0 without one.
fn latest(folder: &Path) -> Result<u64> {
    let mut latest = 0;
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name();
        let name = name.to_string_lossy();
        let begun = name.strip_prefix("events.out.tfevents.");
        let begun = begun.and_then(|rest| rest.split('.').next()?.parse().ok());
        // Ten digits are compared as text.
        latest = latest.max(begun.filter(|begun| *begun < 10_000_000_000).unwrap_or(0));
    }
    Ok(latest)
}

/// Since 1970.
fn seconds() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}

/// TFRecord framing (tensorflow/core/lib/io/record_writer.h): length, its checksum, data, its checksum.
fn record(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    let masked = |data: &[u8]| {
        let sum = crc32c::crc32c(data);
        sum.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
    };
    [&length[..], &masked(&length), data, &masked(data)].concat()
}

/// What of tensorflow/core/util/event.proto and framework/summary.proto is written.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.SessionStatus.START`
const SESSION_START: i32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    /// tf.io.TFRecordWriter's bytes of the record b"headstart" (tensorflow 2.21.0).
    #[test]
    fn a_record_is_framed_as_tensorflow_does() {
        let hex: String = record(b"headstart")
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(hex, "090000000000000037f971396865616473746172748ede1cbb");
    }
}
