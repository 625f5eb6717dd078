//! A run on disk, so that it can go on: one file, whole or not there.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{SafeTensors, View};
use serde_json::Value;

use super::difference::difference;
use super::pictures;
use super::position::Position;
use crate::error::{Cause, While};
use crate::error::{Error, Result};
use crate::train::callback::CallbackState;
use crate::{atomic_file, bounds, files, finite};

/// The metadata entries: a description as JSON, and a checksum over it and every tensor.
const DESCRIPTION: &str = "headstart_checkpoint";
const CHECKSUM: &str = "crc32";

/// The format this version writes. It reads format 2 too, which had no lists of pictures.
const FORMAT: u32 = 3;
const OLDEST: u32 = 2;

/// The groups of tensors.
const WEIGHTS: &str = "weights";
const OPTIMIZER: &str = "optimizer";
const PICTURES: &str = "pictures";

/// Everything a run needs to go on.
pub(super) struct Checkpoint {
    pub(super) settings: Value,
    /// The training and the validation pictures; none in files of format 2.
    pub(super) pictures: Option<[String; 2]>,
    pub(super) position: Position,
    /// Every weight that may have changed, by name.
    pub(super) weights: Vec<(String, Tensor)>,
    /// The checksum of those that have not.
    pub(super) frozen: u32,
    pub(super) optimizer: Vec<(String, Tensor)>,
    pub(super) callbacks: Vec<CallbackState>,
}

/// The lists of pictures, and the line that each begins with: a tensor of no bytes is none.
const PARTS: [&str; 2] = ["train", "validation"];
const LIST: &str = "id label hash path\n";

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
    /// The newest whole checkpoint of a folder, if there is one, and a warning for each file that was
    /// skipped.
    pub(super) fn newest(folder: &Path) -> Result<(Option<Self>, Vec<String>)> {
        let mut warnings = Vec::new();
        for (_, path) in list(folder)?.into_iter().rev() {
            match Self::read(&path) {
                Ok(checkpoint) => return Ok((Some(checkpoint), warnings)),
                Err(reason) => warnings.push(format!(
                    "checkpoint {} is skipped: {reason}",
                    path.display()
                )),
            }
        }
        Ok((None, warnings))
    }

    /// Writes it, whole or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let callbacks = self.callbacks.iter();
        let description = Description {
            format: FORMAT,
            settings: self.settings.clone(),
            position: self.position.clone(),
            frozen: self.frozen,
            callbacks: callbacks.map(|state| state.values.clone()).collect(),
        };
        let json = serde_json::to_string(&description)
            .map_err(Error::format("a checkpoint's description", path))?;
        let tensors = self.tensors()?;
        for (name, tensor) in &tensors {
            finite::require(|| format!("{}: tensor `{name}`", path.display()), tensor)?;
        }
        let data = tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.data().into_owned()));
        let sum = checksum(&json, data);
        let metadata = HashMap::from([
            (DESCRIPTION.to_owned(), json),
            (CHECKSUM.to_owned(), sum.to_string()),
        ]);
        let bytes = safetensors::serialize(tensors, Some(metadata))
            .map_err(Error::format("a checkpoint's tensors", path))?;
        atomic_file::write(path, |file| file.write_all(&bytes))
    }

    /// Every tensor, as `GROUP/NAME`.
    fn tensors(&self) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = Vec::new();
        let mut add = |group: &str, named: &[(String, Tensor)]| {
            let named = named.iter();
            tensors.extend(named.map(|(name, tensor)| (format!("{group}/{name}"), tensor.clone())));
        };
        add(WEIGHTS, &self.weights);
        add(OPTIMIZER, &self.optimizer);
        for (index, state) in self.callbacks.iter().enumerate() {
            add(&format!("callback{index}"), &state.tensors);
        }
        for (part, list) in PARTS.into_iter().zip(self.pictures.iter().flatten()) {
            let list = format!("{LIST}{list}").into_bytes();
            let length = list.len();
            let list = Tensor::from_vec(list, length, &Device::Cpu)?;
            tensors.push((format!("{PICTURES}/{part}"), list));
        }
        Ok(tensors)
    }

    /// A whole checkpoint, or why the file is none.
    fn read(path: &Path) -> Result<Self, Cause> {
        let bytes = files::read(path, bounds::FILE)?;
        let broken = |error| While::new("not a whole safetensors file", error);
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(broken)?;
        let file = SafeTensors::deserialize(&bytes).map_err(broken)?;
        let views = file.tensors();
        let json = description(metadata.metadata().as_ref(), &views)?;
        let description = serde_json::from_str(json);
        let Description {
            format,
            settings,
            position,
            frozen,
            callbacks,
        } = description.map_err(|error| While::new("another format", error))?;
        if !(OLDEST..=FORMAT).contains(&format) {
            let read = format!("{OLDEST} to {FORMAT}");
            return Err(format!("format {format}, where this version reads {read}").into());
        }
        let callbacks = callbacks.into_iter().enumerate().map(|(index, values)| {
            Ok(CallbackState {
                values,
                tensors: group(&views, &format!("callback{index}"))?,
            })
        });
        Ok(Self {
            settings,
            pictures: pictures(&views)?,
            position,
            weights: group(&views, WEIGHTS)?,
            frozen,
            optimizer: group(&views, OPTIMIZER)?,
            callbacks: callbacks.collect::<Result<_, Cause>>()?,
        })
    }

    /// Refuses other pictures and settings than the checkpoint's: says which pictures differ, or names the first option
    /// that does. Of the phase that the checkpoint is in, and of later ones, the number of epochs may be another.
    pub(super) fn check_settings(
        &self,
        folder: &Path,
        settings: &Value,
        pictures: &[String; 2],
    ) -> Result<()> {
        let unfit = |reason: String| Error::Checkpoint {
            path: folder.to_owned(),
            source: reason.into(),
        };
        let lists = self.pictures.iter().flatten().zip(pictures);
        for ((then, now), what) in lists.zip(["training", "validation"]) {
            if let Some(words) = pictures::difference(then, now) {
                let reason =
                    format!("the {what} pictures are others than the run was begun with: {words}");
                return Err(unfit(reason));
            }
        }
        let mut then = self.settings.clone();
        let phases = |settings: &Value| settings["phases"].as_array().map(Vec::len);
        if phases(&then) == phases(settings) {
            for phase in self.position.phase..phases(settings).unwrap_or(0) {
                then["phases"][phase]["epochs"] = settings["phases"][phase]["epochs"].clone();
            }
        }
        match difference(&then, settings) {
            None => Ok(()),
            Some((option, then, now)) => Err(unfit(format!(
                "option `{option}` is {now}, but the run was begun with {then}"
            ))),
        }
    }

    /// How many epochs the phase that the checkpoint is in had.
    pub(super) fn phase_epochs(&self) -> Option<u64> {
        self.settings["phases"][self.position.phase]["epochs"].as_u64()
    }
}

/// The description of a file whose checksum agrees.
fn description<'a>(
    entries: Option<&'a HashMap<String, String>>,
    views: &[(String, TensorView<'_>)],
) -> Result<&'a str, Cause> {
    let entry = |name: &str| entries.and_then(|entries| entries.get(name));
    let (Some(json), Some(sum)) = (entry(DESCRIPTION), entry(CHECKSUM)) else {
        return Err("a safetensors file, but not a checkpoint".into());
    };
    let data = views
        .iter()
        .map(|(name, view)| (name.as_str(), view.data().to_vec()));
    if checksum(json, data).to_string() != *sum {
        return Err("damaged: its checksum is another".into());
    }
    Ok(json)
}

/// The lists of pictures, if there are any.
fn pictures(views: &[(String, TensorView<'_>)]) -> Result<Option<[String; 2]>, Cause> {
    let list = |part: &str| -> Result<Option<String>, Cause> {
        let name = format!("{PICTURES}/{part}");
        let view = views.iter().find(|(own, _)| *own == name);
        let Some((_, view)) = view else {
            return Ok(None);
        };
        let text = std::str::from_utf8(view.data())?;
        Ok(Some(text.strip_prefix(LIST).unwrap_or(text).to_owned()))
    };
    let [train, validation] = PARTS;
    Ok(list(train)?.zip(list(validation)?).map(<[String; 2]>::from))
}

/// The tensors of a group, by their names in it, all finite.
fn group(views: &[(String, TensorView<'_>)], group: &str) -> Result<Vec<(String, Tensor)>, Cause> {
    let mut tensors = Vec::new();
    for (name, view) in views {
        if let Some((own, name)) = name.split_once('/')
            && own == group
        {
            let tensor = view.load(&Device::Cpu)?;
            if let Some(value) = finite::first_not_in(&tensor)? {
                return Err(format!("damaged: tensor `{group}/{name}` holds {value}").into());
            }
            tensors.push((name.to_owned(), tensor));
        }
    }
    Ok(tensors)
}

/// The checkpoints of a folder by place, the earliest first.
pub(super) fn list(folder: &Path) -> Result<Vec<((usize, usize), PathBuf)>> {
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

/// The name of the checkpoint after so many epochs, and steps of the next.
pub(super) fn file_name((epochs, steps): (usize, usize)) -> String {
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
