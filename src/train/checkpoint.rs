//! Runs on disk, so that they can go on: one file per checkpoint, whole or not there.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::{SafeTensors, View};
use serde_json::Value;

use super::callback::CallbackState;
use super::run::Position;
use crate::{Error, Result, atomic_file};

/// The metadata entries: a description as JSON, and a checksum over it and every tensor.
const DESCRIPTION: &str = "headstart_checkpoint";
const CHECKSUM: &str = "crc32";

/// The format this version writes, and the only one it reads.
const FORMAT: u32 = 1;

/// Where checkpoints of a run go, how often, and how many are kept.
///
/// A checkpoint is one safetensors file: the trained weights, the optimizer's and the callbacks' state, the
/// place in the run, the history, and the settings. Frozen weights are not in it, only a checksum of them. It is
/// written beside, flushed and renamed, so that a run killed at any instant leaves whole checkpoints only.
///
/// The folder belongs to one run: leftovers of a killed one are cleared away.
///
/// ```no_run
/// # use headstart::{Classifier, DirectoryDataset, Result};
/// use headstart::{Checkpoints, RmsProp, Trainer};
///
/// # fn fit(model: &mut Classifier, train: &DirectoryDataset, validation: &DirectoryDataset) -> Result<()> {
/// // The same program starts the run and, started again, goes on with it.
/// let history = Trainer::new(RmsProp::new(2e-5))
///     .epochs(50)
///     .checkpoint(Checkpoints::new("runs/santa").every(5))
///     .resume("runs/santa")
///     .fit(model, train, validation)?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Checkpoints {
    pub(super) folder: PathBuf,
    every: usize,
    every_steps: Option<usize>,
    keep: usize,
}

impl Checkpoints {
    /// Checkpoints in this folder, which is made if need be: after every epoch, the last 3 kept.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            every: 1,
            every_steps: None,
            keep: 3,
        }
    }

    /// Sets after how many epochs each one is written; the default is 1. The end of the run always has one.
    pub fn every(mut self, epochs: usize) -> Self {
        self.every = epochs;
        self
    }

    /// Also writes one after so many steps within an epoch; the default is not to.
    pub fn every_steps(mut self, steps: usize) -> Self {
        self.every_steps = Some(steps);
        self
    }

    /// Sets how many of the last ones are kept; the default is 3.
    pub fn keep(mut self, checkpoints: usize) -> Self {
        self.keep = checkpoints;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        for (option, value) in [
            ("every", self.every),
            ("every_steps", self.every_steps.unwrap_or(1)),
            ("keep", self.keep),
        ] {
            if value == 0 {
                return Err(Error::option(option, value, "1 or more"));
            }
        }
        Ok(())
    }

    pub(super) fn due_after_epoch(&self, epochs: usize) -> bool {
        epochs.is_multiple_of(self.every)
    }

    pub(super) fn due_after_step(&self, step: usize) -> bool {
        self.every_steps
            .is_some_and(|every| step.is_multiple_of(every))
    }

    /// Makes the folder ready for a run.
    ///
    /// # Errors
    /// [`Error::Option`] when it holds the checkpoints of a run that is not resumed: they would be mistaken
    /// for this one's.
    pub(super) fn prepare(&self, resumed: bool) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder))?;
        if !resumed && !list(&self.folder)?.is_empty() {
            return Err(Error::option(
                "checkpoint",
                self.folder.display(),
                "a folder without checkpoints, or the one that is resumed",
            ));
        }
        atomic_file::clear_leftovers(&self.folder)
    }

    /// Writes one and removes those that are too many. Only earlier ones count: a later one is of a future
    /// that the run has left.
    pub(super) fn save(&self, checkpoint: &Checkpoint) -> Result<()> {
        let place = checkpoint.position.place();
        checkpoint.write(&self.folder.join(file_name(place)))?;
        let mut earlier = list(&self.folder)?;
        earlier.retain(|(other, _)| *other <= place);
        for (_, path) in earlier.into_iter().rev().skip(self.keep) {
            std::fs::remove_file(&path).map_err(Error::io(path))?;
        }
        Ok(())
    }
}

/// Everything a run needs to go on.
pub(super) struct Checkpoint {
    pub(super) settings: Value,
    pub(super) position: Position,
    /// Every weight that may have changed, by name.
    pub(super) weights: Vec<(String, Tensor)>,
    /// The checksum of those that have not.
    pub(super) frozen: u32,
    pub(super) optimizer: Vec<(String, Tensor)>,
    pub(super) callbacks: Vec<CallbackState>,
}

/// What stands in the metadata.
#[derive(serde::Serialize, serde::Deserialize)]
struct Description {
    format: u32,
    settings: Value,
    position: Position,
    frozen: u32,
    callbacks: Vec<Value>,
}

impl Checkpoint {
    /// The newest whole checkpoint of a folder, if there is one, and a warning for each file that was passed
    /// over.
    pub(super) fn newest(folder: &Path) -> Result<(Option<Self>, Vec<String>)> {
        let mut warnings = Vec::new();
        for (_, path) in list(folder)?.into_iter().rev() {
            match Self::read(&path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), warnings)),
                Err(reason) => warnings.push(format!(
                    "checkpoint {} is passed over: {reason}",
                    path.display()
                )),
            }
        }
        Ok((None, warnings))
    }

    fn write(&self, path: &Path) -> Result<()> {
        let description = Description {
            format: FORMAT,
            settings: self.settings.clone(),
            position: self.position.clone(),
            frozen: self.frozen,
            callbacks: self
                .callbacks
                .iter()
                .map(|state| state.values.clone())
                .collect(),
        };
        let json = serde_json::to_string(&description);
        let json = json.map_err(|error| Error::io(path)(error.into()))?;
        let mut tensors = Vec::new();
        let mut add = |group: &str, named: &[(String, Tensor)]| {
            let named = named.iter();
            tensors.extend(named.map(|(name, tensor)| (format!("{group}/{name}"), tensor.clone())));
        };
        add("weights", &self.weights);
        add("optimizer", &self.optimizer);
        for (index, state) in self.callbacks.iter().enumerate() {
            add(&format!("callback{index}"), &state.tensors);
        }
        let sum = checksum(
            &json,
            tensors
                .iter()
                .map(|(name, t)| (name.as_str(), t.data().into_owned())),
        );
        let metadata = HashMap::from([
            (DESCRIPTION.to_owned(), json),
            (CHECKSUM.to_owned(), sum.to_string()),
        ]);
        let bytes = safetensors::serialize(tensors, Some(metadata))
            .map_err(|error| Error::io(path)(std::io::Error::other(error)))?;
        atomic_file::write(path, |file| file.write_all(&bytes))
    }

    /// A whole checkpoint, or why the file is none.
    fn read(path: &Path) -> Result<Self, String> {
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| format!("not a whole safetensors file: {error}"))?;
        let entries = metadata.metadata().as_ref();
        let entry = |name: &str| entries.and_then(|entries| entries.get(name));
        let (Some(json), Some(sum)) = (entry(DESCRIPTION), entry(CHECKSUM)) else {
            return Err("a safetensors file, but not a checkpoint".into());
        };
        let file = SafeTensors::deserialize(&bytes)
            .map_err(|error| format!("not a whole safetensors file: {error}"))?;
        let views = file.tensors();
        let data = views
            .iter()
            .map(|(name, view)| (name.as_str(), view.data().to_vec()));
        if checksum(json, data).to_string() != *sum {
            return Err("damaged: its checksum is another".into());
        }
        let Description {
            format,
            settings,
            position,
            frozen,
            callbacks,
        } = serde_json::from_str(json).map_err(|error| format!("another format: {error}"))?;
        if format != FORMAT {
            return Err(format!(
                "format {format}, where this version reads {FORMAT}"
            ));
        }
        let group = |group: &str| -> Result<Vec<(String, Tensor)>, String> {
            let mut tensors = Vec::new();
            for (name, view) in &views {
                if let Some((own, name)) = name.split_once('/')
                    && own == group
                {
                    let tensor = view.load(&Device::Cpu).map_err(|error| error.to_string())?;
                    tensors.push((name.to_owned(), tensor));
                }
            }
            Ok(tensors)
        };
        let callbacks = callbacks.into_iter().enumerate().map(|(index, values)| {
            Ok(CallbackState {
                values,
                tensors: group(&format!("callback{index}"))?,
            })
        });
        Ok(Self {
            settings,
            position,
            weights: group("weights")?,
            frozen,
            optimizer: group("optimizer")?,
            callbacks: callbacks.collect::<Result<_, String>>()?,
        })
    }

    /// Refuses settings other than the checkpoint's, naming the first option that differs.
    pub(super) fn check_settings(&self, folder: &Path, settings: &Value) -> Result<()> {
        match difference("", &self.settings, settings) {
            None => Ok(()),
            Some((option, then, now)) => Err(Error::Checkpoint {
                folder: folder.to_owned(),
                reason: format!("option `{option}` is {now}, but the run was begun with {then}"),
            }),
        }
    }
}

/// The checkpoints of a folder by place, the earliest first.
fn list(folder: &Path) -> Result<Vec<((usize, usize), PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if let Some(place) = path.file_name().and_then(|name| place(name.to_str()?)) {
            found.push((place, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Epochs and steps behind a checkpoint, as its name has them.
fn file_name((epochs, steps): (usize, usize)) -> String {
    format!("checkpoint-{epochs:05}-{steps:06}.safetensors")
}

fn place(name: &str) -> Option<(usize, usize)> {
    let rest = name
        .strip_prefix("checkpoint-")?
        .strip_suffix(".safetensors")?;
    let (epochs, steps) = rest.split_once('-')?;
    Some((epochs.parse().ok()?, steps.parse().ok()?))
}

/// The checksum of a description and of tensors, in the order of their names.
fn checksum<'a>(json: &str, tensors: impl Iterator<Item = (&'a str, Vec<u8>)>) -> u32 {
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_by(|a, b| a.0.cmp(b.0));
    let mut sum = crc32fast::Hasher::new();
    sum.update(json.as_bytes());
    for (name, data) in tensors {
        sum.update(name.as_bytes());
        sum.update(&data);
    }
    sum.finalize()
}

/// The checksum of those weights whose names are not given.
pub(super) fn checksum_without(weights: &[(String, Tensor)], names: &BTreeSet<String>) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    for (name, tensor) in weights {
        if !names.contains(name) {
            sum.update(name.as_bytes());
            sum.update(&tensor.data());
        }
    }
    sum.finalize()
}

/// Where two settings first differ: the option's path, and both values.
fn difference(path: &str, then: &Value, now: &Value) -> Option<(String, String, String)> {
    let below = |key: &str| {
        if path.is_empty() {
            key.to_owned()
        } else {
            format!("{path}.{key}")
        }
    };
    match (then, now) {
        (Value::Object(then), Value::Object(now)) => {
            let keys: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
            let none = Value::Null;
            keys.into_iter().find_map(|key| {
                let side = |map: &serde_json::Map<String, Value>| map.get(key).cloned();
                let (then, now) = (side(then), side(now));
                difference(
                    &below(key),
                    then.as_ref().unwrap_or(&none),
                    now.as_ref().unwrap_or(&none),
                )
            })
        }
        (Value::Array(then), Value::Array(now)) if then.len() == now.len() => {
            let pairs = then.iter().zip(now).enumerate();
            let mut pairs =
                pairs.map(|(index, (then, now))| difference(&below(&index.to_string()), then, now));
            pairs.find_map(|found| found)
        }
        _ if then == now => None,
        _ => Some((path.to_owned(), then.to_string(), now.to_string())),
    }
}
