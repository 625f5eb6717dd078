//! Logs of a line for each epoch: runs one after the other, none over another.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Result};
use crate::{atomic_file, bounds, files};

/// Makes a log ready for a run that begins with these lines: none, or those of the epochs before it was resumed. What
/// the file holds already stays, of earlier runs; of this one, lines past where it is resumed go. The file begins with
/// `header`, which one that holds something else has not.
pub(super) fn begin(
    path: &Path,
    header: Option<&str>,
    lines: &[String],
    is_line: impl Fn(&str) -> bool,
    is_first: impl Fn(&str) -> bool,
) -> Result<()> {
    let held = match files::read(path, bounds::FILE) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(Error::io(path)(error)),
    };
    let mut kept: Vec<&str> = held.lines().collect();
    if let (Some(header), false) = (header, kept.is_empty()) {
        require(path, kept.remove(0) == header)?;
    }
    // A killed process may have left half a line.
    if !held.is_empty() && !held.ends_with('\n') {
        kept.pop();
    }
    require(path, kept.iter().all(|line| is_line(line)))?;
    if !lines.is_empty() {
        let last_run = kept
            .iter()
            .rposition(|line| is_first(line))
            .unwrap_or(kept.len());
        if kept[last_run..]
            .iter()
            .zip(lines)
            .all(|(held, own)| held == own)
        {
            kept.truncate(last_run);
        }
    }
    let kept: Vec<&str> = header.into_iter().chain(kept).collect();
    atomic_file::write(path, |file| {
        let all = kept.iter().copied().chain(lines.iter().map(String::as_str));
        all.into_iter()
            .try_for_each(|line| writeln!(file, "{line}"))
    })
}

fn require(path: &Path, is_log: bool) -> Result<()> {
    if is_log {
        return Ok(());
    }
    let reason =
        "it holds something else, which is not written over: choose another file, or delete it";
    Err(Error::format("a log of epochs", path)(reason))
}

/// Adds a line to a file, in one write.
pub(super) fn append_line(path: &Path, line: &str) -> Result<()> {
    let file = files::open_with(path, OpenOptions::new().append(true));
    file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .map_err(Error::io(path))
}
