//! The file of a classifier: one safetensors file whose metadata rebuilds all of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::TensorView;
use serde_json::Value;

use super::backbone::{Backbone, SavedBackbone, block_position};
use super::base::ConvBase;
use super::classifier::{Classifier, check_classes};
use super::familiarity::{Familiarity, TENSORS};
use super::head::{Head, HeadLayers};
use super::names;
use super::weights::check_values;
use crate::bounds;
use crate::data::{Preprocess, Resize};
use crate::error::{Cause, While};
use crate::error::{Error, Result};
use crate::tensor_file::{self, TensorFile};

/// The format this version writes, and the newest it reads. Format 1 had VGG bases alone, and called their blocks
/// `conv1` to `conv5`; formats 1 and 2 had no checksum.
const FORMAT: u32 = 3;

/// What stands in the metadata.
#[derive(serde::Serialize, serde::Deserialize)]
struct Description {
    format: u32,
    /// The kind of base: [`SavedBackbone::KIND`].
    #[serde(default = "conv_base")]
    base: String,
    /// What the base says of itself.
    architecture: Value,
    trainable: Vec<String>,
    classes: Vec<String>,
    /// Height and width in pixels.
    input_size: (usize, usize),
    resize: Resize,
    preprocess: Preprocess,
    head: Head,
    /// What is familiar beside its tensors; none in older files, and for classifiers that were not taught to doubt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    familiarity: Option<Threshold>,
}

/// What a file says of familiarity in words.
#[derive(Clone, Copy, serde::Serialize, serde::Deserialize)]
struct Threshold {
    threshold: f32,
}

/// The kind of base in files of format 1.
fn conv_base() -> String {
    ConvBase::KIND.to_owned()
}

/// The part every format has, read first so that a newer one can be named.
#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}

impl<B: SavedBackbone> Classifier<B> {
    /// Writes the classifier to one safetensors file, whole or not at all. A checksum of all its bytes is in it, which
    /// [`load`](Classifier::load) compares.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; [`Error::NotFinite`] for a weight that is NaN or infinite;
    /// [`Error::InvalidOption`] for a base that [`load`](Classifier::load) could not restore: a [`ConvBase`] of a table
    /// of one's own.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.write(path.as_ref(), B::KIND, self.base.describe()?)
    }
}

impl<B: Backbone> Classifier<B> {
    /// Writes the classifier as [`save`](Classifier::save) does, if its base says how.
    pub(crate) fn save_if_described(&self, path: &Path) -> Result<()> {
        let Some(described) = self.base.saved_as() else {
            let found = format!(
                "`{}`, which does not say what it is saved as",
                self.base.architecture()
            );
            let allowed = "a base with Backbone::saved_as";
            return Err(Error::option("base", found, allowed));
        };
        let (kind, architecture) = described?;
        self.write(path, kind, architecture)
    }

    fn write(&self, path: &Path, kind: &str, architecture: Value) -> Result<()> {
        let blocks = self.base.blocks().into_iter();
        let trainable = blocks.filter(|block| block.trainable);
        let mut description = Description {
            format: FORMAT,
            base: kind.to_owned(),
            architecture,
            trainable: trainable.map(|block| block.name).collect(),
            classes: self.class_names.clone(),
            input_size: self.input_size,
            resize: self.resize,
            preprocess: self.preprocess,
            head: self.head.config().clone(),
            familiarity: None,
        };
        let mut tensors = self.tensors();
        if let Some(familiarity) = &self.familiarity {
            let threshold = familiarity.threshold();
            description.familiarity = Some(Threshold { threshold });
            let named = TENSORS.iter().zip(familiarity.tensors()?);
            tensors.extend(named.map(|(name, own)| (format!("{}{name}", names::FAMILIARITY), own)));
        }
        let json = serde_json::to_string(&description)
            .map_err(Error::format("a classifier's description as JSON", path))?;
        let metadata = BTreeMap::from([(names::CLASSIFIER.to_owned(), json)]);
        tensor_file::write(path, tensors, metadata)
    }
}

impl Classifier {
    /// Loads a classifier from a file that [`save`](Self::save) wrote, in this version or an earlier one, and from
    /// nothing else.
    ///
    /// # Errors
    /// [`Error::ModelFile`] for a file of a newer format, one that is damaged, one with another kind of base, or one
    /// that is not a classifier; [`Error::InvalidOption`] for sizes that no classifier may have;
    /// [`Error::MissingTensor`] and [`Error::TensorShape`] name what does not fit.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        Self::load_as(path, device)
    }

    /// Loads a classifier on a base of one's own: `Classifier::load_as::<MyBase>(path, &device)`.
    ///
    /// # Errors
    /// As [`load`](Self::load), and those of the base's [`restore`](SavedBackbone::restore).
    pub fn load_as<B: SavedBackbone>(
        path: impl AsRef<Path>,
        device: &Device,
    ) -> Result<Classifier<B>> {
        let path = path.as_ref();
        let mut file =
            TensorFile::open(path).map_err(|cause| match cause.downcast::<std::io::Error>() {
                Ok(error) => Error::io(path)(*error),
                Err(cause) => model_error(path, cause),
            })?;
        let description = describe(path, &file)?;
        if description.base != B::KIND {
            let found = &description.base;
            let reason = format!(
                "its base is a `{found}`, which is not the kind asked for, `{}`",
                B::KIND
            );
            return Err(model_error(path, reason));
        }
        let (height, width) = description.input_size;
        bounds::input_size(height, width)
            .and_then(|()| check_classes(&description.classes, &description.head))
            .map_err(|error| model_error(path, error))?;
        let base: B = restore(path, &description, &mut file, device)?;
        let features = base.output_shape(height, width)?;
        let head = HeadLayers::from_parameters(description.head, features, |name, shape| {
            let name = format!("{}{name}", names::HEAD);
            read(path, &mut file, &name, shape, device)
        })?;
        let familiarity = match description.familiarity {
            None => None,
            Some(told) => Some(familiarity(path, &mut file, told, head.width())?),
        };
        Ok(Classifier {
            base,
            head,
            familiarity,
            class_names: description.classes,
            input_size: description.input_size,
            resize: description.resize,
            preprocess: description.preprocess,
        })
    }
}

/// The base of a file, its blocks frozen or trainable as they were.
fn restore<B: SavedBackbone>(
    path: &Path,
    description: &Description,
    file: &mut TensorFile<File>,
    device: &Device,
) -> Result<B> {
    let mut tensor = |name: &str, shape: &[usize]| {
        let name = format!("{}{name}", names::BASE);
        read(path, file, &name, shape, device)
    };
    let (architecture, preprocess) = (&description.architecture, description.preprocess);
    let restored = B::restore(architecture, &mut tensor, preprocess, device);
    let mut base = restored.map_err(|error| match error {
        Error::InvalidOption { .. } => model_error(path, error),
        error => error,
    })?;
    for name in &description.trainable {
        let block = block_position(&base, &block_name(name, description.format));
        base.set_trainable(block.map_err(|error| model_error(path, error))?, true)?;
    }
    Ok(base)
}

/// What is familiar, for a head that reads so many numbers.
fn familiarity(
    path: &Path,
    file: &mut TensorFile<File>,
    told: Threshold,
    width: usize,
) -> Result<Familiarity> {
    let mut part = |name: &str| -> Result<Vec<f32>> {
        let name = format!("{}{name}", names::FAMILIARITY);
        Ok(read(path, file, &name, &[width], &Device::Cpu)?.to_vec1()?)
    };
    let [means, scales] = TENSORS;
    Familiarity::new(part(means)?, part(scales)?, told.threshold)
        .map_err(|error| model_error(path, error))
}

/// What a block is called today: format 1 wrote `conv5` for `block5`.
fn block_name(name: &str, format: u32) -> String {
    match name.strip_prefix("conv") {
        Some(number) if format == 1 => format!("block{number}"),
        _ => name.to_owned(),
    }
}

fn describe(path: &Path, file: &TensorFile<File>) -> Result<Description> {
    let json = file.entry(names::CLASSIFIER).ok_or_else(|| {
        let reason = "a safetensors file, but not a classifier saved by headstart";
        model_error(path, reason)
    })?;
    let damaged =
        |error: serde_json::Error| model_error(path, While::new("damaged description", error));
    let Format { format } = serde_json::from_str(json).map_err(damaged)?;
    if format > FORMAT {
        let reason = format!(
            "format {format} is newer than {FORMAT}, the newest this version reads: update headstart"
        );
        return Err(model_error(path, reason));
    }
    if format >= 3 && !file.is_sealed() {
        return Err(model_error(path, "damaged: its checksum is missing"));
    }
    serde_json::from_str(json).map_err(damaged)
}

fn read(
    path: &Path,
    file: &mut TensorFile<File>,
    name: &str,
    expected: &[usize],
    device: &Device,
) -> Result<Tensor> {
    let Some(info) = file.info(name).cloned() else {
        return Err(Error::MissingTensor {
            path: path.to_owned(),
            tensor: name.to_owned(),
            hint: String::new(),
        });
    };
    if info.shape != expected {
        return Err(Error::TensorShape {
            path: path.to_owned(),
            tensor: name.to_owned(),
            expected: expected.to_vec(),
            found: info.shape,
        });
    }
    let bytes = file.bytes(&info).map_err(Error::io(path))?;
    let view = TensorView::new(info.dtype, info.shape, &bytes);
    let view = view.map_err(|error| model_error(path, error))?;
    let tensor = view.load(&Device::Cpu)?.to_dtype(DType::F32)?;
    let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    check_values(name, &values)
        .map_err(|reason| model_error(path, format!("tensor `{name}`: {reason}")))?;
    Ok(tensor.to_device(device)?)
}

fn model_error(path: &Path, source: impl Into<Cause>) -> Error {
    Error::ModelFile {
        path: path.to_owned(),
        source: source.into(),
    }
}
