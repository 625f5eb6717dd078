//! `headstart study`: what pictures are good for and which of them to look at, before anything is trained.

use std::path::{Path, PathBuf};

use headstart::best_device;
use headstart::run::{Parts, Settings};
use headstart::study::Study;
use headstart::train::communicator::{self, Communicator};

use crate::{End, Failure, say, usage};

/// Looks at labelled pictures with a frozen base: how good a classifier gets and how sure that is, which labels are
/// likely wrong, which pictures are there twice, whether more would help. It takes about a minute for a thousand
/// pictures, and changes none. Several processes that `mpirun` started share what takes long, which is the pictures;
/// the first prints and writes.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// One folder of pictures for each class, or folders `train`, `validation` and `test` of them.
    pictures: PathBuf,
    /// The base, by its name: `headstart bases` lists them [default: the compact base, which comes with the program].
    #[arg(long, value_name = "NAME")]
    base: Option<String>,
    /// Weights of the base: `compact`, `imagenet` (fetched once, then cached), or a file [default: imagenet with
    /// --base, else compact].
    #[arg(long, value_name = "compact|imagenet|FILE")]
    weights: Option<String>,
    /// Side, in pixels, that pictures are resized to [default: what the base's weights were trained on].
    #[arg(long, value_name = "PIXELS")]
    size: Option<usize>,
    /// A folder for the page as JSON (study.json), suspects.csv, and the classifier that the study fitted
    /// (study.safetensors). It may be a run's: the run's report shows what the study found.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Prints JSON instead of the page.
    #[arg(long)]
    json: bool,
}

/// Prints the page.
pub(crate) fn run(options: &Options) -> Result<End, Failure> {
    let ranks = communicator::world()?;
    let settings = Settings {
        base: options.base.clone(),
        weights: options.weights.clone(),
        ..Settings::default()
    };
    let base = settings.open_base(&best_device()).map_err(usage)?;
    let mut asked = Study::options().communicator(ranks.clone());
    if let Some(side) = options.size {
        asked = asked.input_size(side, side);
    }
    // A run names pictures so, too.
    let (train, parts) = Parts::all(&std::path::absolute(&options.pictures)?)?;
    for (name, part) in &parts {
        asked = asked.part(*name, part);
    }
    let study = asked.run(&base.frozen(), &train)?;
    if ranks.rank() > 0 {
        return Ok(End::Done);
    }
    if let Some(out) = &options.out {
        std::fs::create_dir_all(out)?;
        study.write_json(out.join("study.json"))?;
        study.suspects().write_csv(out.join("suspects.csv"))?;
        study.model.save(out.join("study.safetensors"))?;
    }
    match options.json {
        true => say::json(&study.to_json()),
        false => say::text(&format!("{study}\n{}", hint(options.out.as_deref()))),
    }
}

/// What to do with a study in a run's folder.
fn hint(out: Option<&Path>) -> String {
    match out.filter(|out| out.join("config.toml").exists()) {
        Some(run) => format!(
            "`headstart report {}` adds it to the run's report.\n",
            run.display()
        ),
        None => String::new(),
    }
}
