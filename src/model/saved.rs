//! The file of a classifier: one safetensors file whose metadata rebuilds all of it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use serde_json::Value;

use super::backbone::{SavedBackbone, block_position};
use super::base::ConvBase;
use super::classifier::{Classifier, check_classes};
use super::head::{Head, HeadLayers};
use super::names;
use crate::atomic_file;
use crate::data::{Preprocess, Resize};
use crate::error::{Cause, While};
use crate::error::{Error, Result};

/// The format this version writes, and the newest it reads. Format 1 had VGG bases alone, and called their blocks
/// `conv1` to `conv5`.
const FORMAT: u32 = 2;

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
    /// Writes the classifier to one safetensors file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; [`Error::InvalidOption`] for a base that [`load`](Classifier::load) could not
    /// restore: a [`ConvBase`] of a table of one's own.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let blocks = self.base.blocks().into_iter();
        let trainable = blocks.filter(|block| block.trainable);
        let description = Description {
            format: FORMAT,
            base: B::KIND.to_owned(),
            architecture: self.base.describe()?,
            trainable: trainable.map(|block| block.name).collect(),
            classes: self.class_names.clone(),
            input_size: self.input_size,
            resize: self.resize,
            preprocess: self.preprocess,
            head: self.head.config().clone(),
        };
        let json = serde_json::to_string(&description)
            .map_err(Error::format("a classifier's description as JSON", path))?;
        let metadata = HashMap::from([(names::CLASSIFIER.to_owned(), json)]);
        let bytes = safetensors::serialize(self.tensors(), Some(metadata))
            .map_err(Error::format("a classifier as safetensors", path))?;
        atomic_file::write(path, |file| file.write_all(&bytes))
    }
}

impl Classifier {
    /// Loads a classifier from a file that [`save`](Self::save) wrote, in this version or an earlier one, and from
    /// nothing else.
    ///
    /// # Errors
    /// [`Error::ModelFile`] for a file of a newer format, one that is damaged, one with another kind of base, or one
    /// that is not a classifier; [`Error::MissingTensor`] and [`Error::TensorShape`] name what does not fit.
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
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| model_error(path, While::new("not a safetensors file", error)))?;
        let description = describe(path, &metadata)?;
        if description.base != B::KIND {
            let found = &description.base;
            let reason = format!(
                "its base is a `{found}`, which is not the kind asked for, `{}`",
                B::KIND
            );
            return Err(model_error(path, reason));
        }
        check_classes(&description.classes, &description.head)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| model_error(path, error))?;
        let base: B = restore(path, &description, &file, device)?;
        let (height, width) = description.input_size;
        let features = base.output_shape(height, width)?;
        let head = HeadLayers::from_parameters(description.head, features, |name, shape| {
            read(
                path,
                &file,
                &format!("{}{name}", names::HEAD),
                shape,
                device,
            )
        })?;
        Ok(Classifier {
            base,
            head,
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
    file: &SafeTensors<'_>,
    device: &Device,
) -> Result<B> {
    let mut tensor = |name: &str, shape: &[usize]| {
        read(path, file, &format!("{}{name}", names::BASE), shape, device)
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

/// What a block is called today: format 1 wrote `conv5` for `block5`.
fn block_name(name: &str, format: u32) -> String {
    match name.strip_prefix("conv") {
        Some(number) if format == 1 => format!("block{number}"),
        _ => name.to_owned(),
    }
}

fn describe(path: &Path, metadata: &Metadata) -> Result<Description> {
    let entries = metadata.metadata().as_ref();
    let json = entries.and_then(|entries| entries.get(names::CLASSIFIER));
    let json = json.ok_or_else(|| {
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
    serde_json::from_str(json).map_err(damaged)
}

fn read(
    path: &Path,
    file: &SafeTensors<'_>,
    name: &str,
    expected: &[usize],
    device: &Device,
) -> Result<Tensor> {
    let view = file.tensor(name).map_err(|_| Error::MissingTensor {
        path: path.to_owned(),
        tensor: name.to_owned(),
    })?;
    if view.shape() != expected {
        return Err(Error::TensorShape {
            path: path.to_owned(),
            tensor: name.to_owned(),
            expected: expected.to_vec(),
            found: view.shape().to_vec(),
        });
    }
    Ok(view.load(device)?.to_dtype(DType::F32)?)
}

fn model_error(path: &Path, source: impl Into<Cause>) -> Error {
    Error::ModelFile {
        path: path.to_owned(),
        source: source.into(),
    }
}
