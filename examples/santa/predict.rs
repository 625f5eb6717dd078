//! `santa predict`: pictures in, verdicts out.

use std::path::PathBuf;

use candle_core::Device;
use headstart::Classifier;

use crate::End;
use crate::say::{reader_left, say};

/// What `santa predict` takes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A model saved by a training run.
    model: PathBuf,
    /// Pictures to classify.
    #[arg(required = true)]
    pictures: Vec<PathBuf>,
}

/// Prints one line per picture; a picture that cannot be read is named and the others go on.
pub(crate) fn run(options: &Options) -> Result<End, Box<dyn std::error::Error>> {
    let model = Classifier::load(&options.model, &Device::Cpu)?;
    let mut failures = 0;
    for picture in &options.pictures {
        match model.predict(picture) {
            Ok(prediction) => say!("{}: {prediction}", picture.display())?,
            Err(error) => {
                eprintln!("{error}");
                failures += 1;
            }
        }
        if reader_left() {
            break;
        }
    }
    match failures {
        0 => Ok(End::Done),
        _ => Err(format!("{failures} of {} without a verdict", options.pictures.len()).into()),
    }
}
