//! Lines on the standard output, whose reader may leave, as in `santa predict … | head`.

use std::fmt;
use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static LEFT: AtomicBool = AtomicBool::new(false);

/// Writes a line. A reader that left is no reason to lose a run.
pub(crate) fn line(line: fmt::Arguments<'_>) -> std::io::Result<()> {
    match writeln!(std::io::stdout().lock(), "{line}") {
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

/// `println!` that neither panics nor stops when the reader has left.
macro_rules! say {
    ($($text:tt)*) => { $crate::say::line(format_args!($($text)*)) };
}
pub(crate) use say;
