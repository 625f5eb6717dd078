//! `headstart compare`: runs beside each other.

use std::path::PathBuf;

use headstart::report::Report;

use crate::{End, Failure, say};

/// Compares runs: a table of their figures and of the settings that differ, and with --out a page with their curves.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The folders of two runs or more.
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Writes a page of HTML with the table and the curves.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the table.
pub(crate) fn run(options: &Options) -> Result<End, Failure> {
    let comparison = Report::compare(&options.runs)?;
    if let Some(out) = &options.out {
        comparison.write(out)?;
    }
    match options.json {
        true => say::json(&comparison),
        false => say::text(&comparison.to_string()),
    }
}
