//! `santa predict`: pictures in, verdicts out.

use std::path::PathBuf;

use candle_core::Device;
use headstart::Classifier;

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
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let model = Classifier::load(&options.model, &Device::Cpu)?;
    let mut failure = None;
    for picture in &options.pictures {
        match model.predict(picture) {
            Ok(prediction) => println!("{}: {prediction}", picture.display()),
            Err(error) => {
                eprintln!("{error}");
                failure = Some(error);
            }
        }
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}
