//! What is written: results to the standard output, whose reader may leave, and the rest to the standard error.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{End, Failure};

static LEFT: AtomicBool = AtomicBool::new(false);

/// The width of the terminal, or that of a page.
pub(crate) fn columns() -> usize {
    let size = terminal_size::terminal_size();
    size.map_or(80, |(width, _)| usize::from(width.0))
}

/// Writes a text to the standard output. A reader that left, as in `headstart predict … | head`, is no reason to fail.
pub(crate) fn out(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            LEFT.store(true, Ordering::Relaxed);
            Ok(())
        }
        outcome => outcome,
    }
}

/// Whether nobody reads any more.
pub(crate) fn reader_left() -> bool {
    LEFT.load(Ordering::Relaxed)
}

/// Writes a text that is all there is to say.
pub(crate) fn text(text: &str) -> Result<End, Failure> {
    out(text)?;
    Ok(End::Done)
}

/// Writes a value as JSON, on lines of its own.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<End, Failure> {
    text(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Writes a line to the standard error. Nobody may be listening, which is no reason to stop.
pub(crate) fn warn(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
