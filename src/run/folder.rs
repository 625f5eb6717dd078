//! A folder of results: whose it is, what is in it, and what is never written over unasked.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::Record;
use super::settings::Settings;
use crate::atomic_file;
use crate::error::{Error, Result};
use crate::model::{Classifier, ConvBase};
use crate::train::RunFolder;
use crate::train::metrics::{Evaluation, History, Scores};

/// How a run begins in a folder that may hold one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Nothing of another run may be there.
    New,
    /// With what was left there, finished or not.
    Resume,
    /// Whatever is there of another run is removed.
    Force,
}

/// The folder of a run, which belongs to it until it is dropped: `model.safetensors`, `history.csv`, `history.json`,
/// `metrics.json`, and `checkpoints`.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    /// None for another rank than the first, which writes nothing.
    taken: Option<RunFolder>,
}

/// What `metrics.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Metrics {
    /// The scores on pictures that nothing was decided by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<Evaluation>,
    /// The scores on those that each epoch was validated on, where there are none to test on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Evaluation>,
    /// The expected calibration error of these: see [`Scores::calibration_error`].
    pub calibration_error: Option<f64>,
    /// Mean wall-clock seconds of an epoch.
    pub seconds_per_epoch: f64,
    /// Every setting, defaults included.
    pub settings: Settings,
    /// The version of this crate.
    pub version: String,
    /// When it was trained, and on what machine; runs of earlier versions do not say.
    #[serde(default)]
    pub record: Record,
}

impl Metrics {
    /// The scores of one part, `test` or `validation`, by a run of these settings that ended now on this machine.
    pub fn new(part: &str, scores: &Scores, history: &History, settings: &Settings) -> Self {
        let evaluation = Some(scores.evaluation.clone());
        let (test, validation) = match part {
            "test" => (evaluation, None),
            _ => (None, evaluation),
        };
        Self {
            test,
            validation,
            calibration_error: scores.calibration_error(),
            seconds_per_epoch: history.seconds_per_epoch(),
            settings: settings.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            record: Record::now(),
        }
    }

    /// The scores, and the name of the part they are of.
    pub fn judged(&self) -> Option<(&'static str, &Evaluation)> {
        let test = self.test.as_ref().map(|scores| ("test", scores));
        test.or_else(|| {
            self.validation
                .as_ref()
                .map(|scores| ("validation", scores))
        })
    }
}

impl Run {
    /// Takes a folder for a run.
    ///
    /// # Errors
    /// [`Error::Run`] for a folder that holds a run, finished or left, unless it is resumed or to be written over;
    /// [`Error::Checkpoint`] for one that another process works in.
    pub fn begin(folder: impl Into<PathBuf>, start: Start) -> Result<Self> {
        let folder = folder.into();
        let taken = RunFolder::take(&folder)?;
        let run = Self {
            folder,
            taken: Some(taken),
        };
        let finished = run.model().exists();
        let left =
            std::fs::read_dir(run.checkpoints()).is_ok_and(|mut files| files.next().is_some());
        let refuse = |reason: &str| {
            Err(Error::Run {
                path: run.folder.clone(),
                source: reason.into(),
            })
        };
        match start {
            Start::New if finished => refuse(
                "it holds a finished run: --force writes over it, --resume with more --epochs trains it longer, \
                 --out DIR goes elsewhere",
            ),
            Start::New if left => refuse(
                "it holds a run that was left: --resume goes on with it, --force begins again, \
                 --out DIR goes elsewhere",
            ),
            Start::Resume if finished && !left => refuse(
                "it holds a finished run without checkpoints, which cannot be gone on with: --force writes over it",
            ),
            Start::Force => run.clear().map(|()| run),
            _ => Ok(run),
        }
    }

    /// The folder of a run that another process, rank 0 of several, has taken: this one reads checkpoints there, and
    /// writes nothing.
    pub fn of_rank_0(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            taken: None,
        }
    }

    /// Whether this process has taken the folder, and may write to it.
    pub fn is_taken(&self) -> bool {
        self.taken.is_some()
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the trained model is saved.
    pub fn model(&self) -> PathBuf {
        self.folder.join("model.safetensors")
    }

    /// Where checkpoints are.
    pub fn checkpoints(&self) -> PathBuf {
        self.folder.join("checkpoints")
    }

    /// Removes what a run leaves.
    fn clear(&self) -> Result<()> {
        let ignore_missing = |path: PathBuf, outcome: std::io::Result<()>| match outcome {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(path)(error))
            }
            _ => Ok(()),
        };
        for name in [
            "model.safetensors",
            "history.csv",
            "history.json",
            "metrics.json",
            "report.html",
        ] {
            let path = self.folder.join(name);
            ignore_missing(path.clone(), std::fs::remove_file(path))?;
        }
        let path = self.checkpoints();
        ignore_missing(path.clone(), std::fs::remove_dir_all(path))
    }

    /// Writes what each epoch reached.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save_history(&self, history: &History) -> Result<()> {
        history.save_csv(self.folder.join("history.csv"))?;
        save_json(&self.folder.join("history.json"), history)
    }

    /// Writes the model.
    ///
    /// # Errors
    /// Those of [`Classifier::save`].
    pub fn save_model(&self, model: &Classifier<ConvBase>) -> Result<()> {
        model.save(self.model())
    }

    /// Writes the figures.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save_metrics(&self, metrics: &Metrics) -> Result<()> {
        save_json(&self.folder.join("metrics.json"), metrics)
    }

    /// What each epoch of the run in a folder reached.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    pub fn history_of(folder: impl AsRef<Path>) -> Result<History> {
        load_json(&folder.as_ref().join("history.json"))
    }

    /// The figures of the run in a folder.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    pub fn metrics_of(folder: impl AsRef<Path>) -> Result<Metrics> {
        load_json(&folder.as_ref().join("metrics.json"))
    }
}

fn save_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(Error::format("figures as JSON", path))?;
    atomic_file::write(path, |file| writeln!(file, "{text}"))
}

fn load_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = crate::files::read(path, crate::bounds::FILE).map_err(Error::io(path))?;
    serde_json::from_slice(&bytes).map_err(Error::format("figures as JSON", path))
}
