//! `headstart`: transfer learning for pictures without writing code.

mod bases;
mod compare;
mod evaluate;
mod explain;
mod export;
mod options;
mod predict;
mod report;
mod say;
mod study;
mod train;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use headstart::Error;
use headstart::train::communicator::{self, Communicator};

/// Trains picture classifiers on top of pretrained networks, and uses them.
///
/// Put the pictures into one folder per class, and train:
///
///   headstart train pictures
///
/// That holds some pictures out to validate and test on, trains a new head and the last blocks of a base that comes
/// with the program, and leaves a folder with the model, its figures and a report to open in a browser. Then:
///
///   headstart predict runs/pictures photo.jpg
///
/// What is asked for is written to the standard output, and everything else to the standard error; with --json,
/// figures come as JSON. The exit code is 0 when all went well, 1 when something failed, 2 when the command was not
/// understood, and 130 after Ctrl-C.
#[derive(Parser)]
#[command(
    name = "headstart",
    version,
    verbatim_doc_comment,
    max_term_width = 100
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Train(Box<train::Options>),
    Predict(predict::Options),
    Evaluate(evaluate::Options),
    Explain(explain::Options),
    Export(export::Options),
    Report(report::Options),
    Study(study::Options),
    Compare(compare::Options),
    Bases(bases::BasesOptions),
    Fetch(bases::FetchOptions),
    /// Prints the completions for a shell.
    ///
    /// For bash: headstart completions bash > ~/.local/share/bash-completion/completions/headstart
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// How a command ended, if not by an error.
enum End {
    Done,
    /// By Ctrl-C.
    Left,
}

/// Why a command failed.
enum Failure {
    /// The command line cannot be meant so.
    Usage(String),
    Failed(Box<dyn std::error::Error>),
}

impl<E: Into<Box<dyn std::error::Error>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// An option out of range as a mistake on the command line, by the option's name there.
fn usage(error: Error) -> Failure {
    match error {
        Error::InvalidOption {
            option,
            found,
            allowed,
        } => Failure::Usage(format!(
            "--{} {found}; allowed: {allowed}",
            option.replace('_', "-")
        )),
        error => Failure::Failed(error.into()),
    }
}

fn main() -> ExitCode {
    let command = Cli::parse().command;
    match check_ranks(&command).and_then(|()| run(command)) {
        Ok(End::Done) => ExitCode::SUCCESS,
        // As a shell says of a process that an interrupt ended.
        Ok(End::Left) => ExitCode::from(130),
        Err(Failure::Usage(reason)) => {
            say::warn(&format!(
                "error: {reason}\n\nFor more information, try '--help'."
            ));
            ExitCode::from(2)
        }
        Err(Failure::Failed(error)) => {
            say::warn(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Refuses several processes of a command that does not share its work among them: all would do the same and write to
/// the same files.
fn check_ranks(command: &Command) -> Result<(), Failure> {
    if matches!(
        command,
        Command::Train(_) | Command::Predict(_) | Command::Evaluate(_) | Command::Study(_)
    ) {
        return Ok(());
    }
    match communicator::world()?.size() {
        1 => Ok(()),
        size => Err(Failure::Usage(format!(
            "{size} processes were started; `train`, `predict`, `evaluate` and `study` share work among them, other \
             commands are for one"
        ))),
    }
}

fn run(command: Command) -> Result<End, Failure> {
    match command {
        Command::Train(options) => train::run(*options),
        Command::Predict(options) => predict::run(&options),
        Command::Evaluate(options) => evaluate::run(&options),
        Command::Explain(options) => explain::run(&options),
        Command::Export(options) => export::run(&options),
        Command::Report(options) => report::run(&options),
        Command::Study(options) => study::run(&options),
        Command::Compare(options) => compare::run(&options),
        Command::Bases(options) => bases::list(&options),
        Command::Fetch(options) => bases::fetch(&options),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "headstart", &mut script);
            say::text(&String::from_utf8_lossy(&script))
        }
    }
}
