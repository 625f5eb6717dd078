//! `headstart evaluate`: how good a saved model is on labelled pictures.

use std::path::PathBuf;

use headstart::Dataset;
use headstart::train::communicator::{self, Communicator};

use crate::options::load;
use crate::{End, Failure, say};

/// Scores a model on pictures whose classes are known. Several processes that `mpirun` started share the pictures, and
/// the first prints.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A saved model, or the folder of a run.
    model: PathBuf,
    /// A folder, or a tar archive, with one folder of pictures for each class of the model.
    #[arg(value_name = "DIR")]
    pictures: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Opens labelled pictures with a model's classes.
pub(crate) fn open(pictures: &std::path::Path, classes: &[String]) -> headstart::Result<Dataset> {
    match pictures.is_file() {
        true => Dataset::open_tar_with_classes(&[pictures], classes),
        false => Dataset::open_with_classes(pictures, classes),
    }
}

/// Prints the figures.
pub(crate) fn run(options: &Options) -> Result<End, Failure> {
    let ranks = communicator::world()?;
    let model = load(&options.model)?;
    let dataset = open(&options.pictures, model.class_names())?;
    let evaluation = model.score_together(&dataset, ranks.clone())?.evaluation;
    match options.json {
        _ if ranks.rank() > 0 => Ok(End::Done),
        true => say::json(&evaluation),
        false => say::text(&evaluation.to_string()),
    }
}
