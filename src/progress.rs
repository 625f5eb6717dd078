//! What the crate writes to the standard error: progress bars and warnings, behind one switch.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU8, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

/// What the crate writes to the standard error, in this process: see [`set_verbosity`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Nothing.
    Silent,
    /// Warnings, such as a damaged checkpoint that was skipped.
    Warnings,
    /// Warnings, and how far the work is: where the standard error is a terminal, progress bars of downloads, feature
    /// caches and epochs; elsewhere a line for each epoch and each long computation.
    #[default]
    Progress,
}

static VERBOSITY: AtomicU8 = AtomicU8::new(Verbosity::Progress as u8);

/// Sets what the crate writes to the standard error, from now on and in the whole process: the one switch for all
/// progress bars and warnings. The default is [`Verbosity::Progress`].
///
/// ```
/// use headstart::progress::{Verbosity, set_verbosity};
///
/// set_verbosity(Verbosity::Warnings); // no bars
/// ```
pub fn set_verbosity(verbosity: Verbosity) {
    VERBOSITY.store(verbosity as u8, Ordering::Relaxed);
}

fn allows(verbosity: Verbosity) -> bool {
    VERBOSITY.load(Ordering::Relaxed) >= verbosity as u8
}

/// A bar of so many steps, in indicatif's template language. indicatif hides it where the standard error is no
/// terminal.
pub(crate) fn bar(length: u64, template: &str) -> ProgressBar {
    if !allows(Verbosity::Progress) {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(length);
    set_template(&bar, template);
    bar
}

/// Gives a bar another template.
pub(crate) fn set_template(bar: &ProgressBar, template: &str) {
    // A template that does not parse would be a mistake of ours: the bar then looks as indicatif likes.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

/// Tells how far the work is where there are no bars: in a log.
pub(crate) fn line(line: &str) {
    if allows(Verbosity::Progress) && !std::io::stderr().is_terminal() {
        tell(line);
    }
}

/// Tells the user.
pub(crate) fn warn(warning: &str) {
    if allows(Verbosity::Warnings) {
        tell(&format!("warning: {warning}"));
    }
}

/// Writes a line to the standard error. Nobody may be listening any more, which is no reason to stop.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}
