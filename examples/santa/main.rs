//! Santa or not Santa: transfer learning from class folders to a saved classifier.
//!
//! ```text
//! cargo run --release --example santa -- --help
//! ```

mod predict;
mod say;
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Trains a picture classifier on class folders, on top of a pretrained base.
///
/// Without options: the compact base that comes with the crate, its last block trained too, on drawings of people that
/// come with the repository. It takes less than a minute.
///
/// DIR holds three folders, `train`, `validation` and `test`, each with one folder of pictures per class
/// (`santa`, `not_santa`, or any names of yours). The base's blocks stay frozen but for those you name with
/// `--unfreeze`; a new head is trained on top. The run writes history.csv, metrics.json and
/// model.safetensors to the folder `--out`, which belongs to it alone; `santa predict` uses the model.
#[derive(Parser)]
#[command(
    name = "santa",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  \
        santa\n  \
        santa --data pictures --base tf_efficientnet_lite0 --weights imagenet --size 160\n  \
        santa --data pictures --weights vgg16.safetensors --base vgg16 --unfreeze none --preprocess unit\n  \
        santa --data pictures --unfreeze block4 --epochs 20 --out runs/fine-tuned\n  \
        santa predict runs/santa/model.safetensors photo.jpg"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    train: train::Options,
}

#[derive(Subcommand)]
enum Command {
    /// Classifies pictures with a saved model.
    Predict(predict::Options),
}

/// How a command ended, if not by an error.
enum End {
    Done,
    /// By Ctrl-C.
    Left,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Some(Command::Predict(options)) => predict::run(&options),
        None => train::run(&cli.train),
    };
    match outcome {
        Ok(End::Done) => ExitCode::SUCCESS,
        // As a shell says of a process that an interrupt ended.
        Ok(End::Left) => ExitCode::from(130),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
