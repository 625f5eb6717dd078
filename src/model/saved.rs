//! The file of a classifier: one safetensors file whose metadata rebuilds all of it.

use std::collections::HashMap;
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use super::backbone::Backbone;
use super::classifier::{Classifier, check_classes};
use super::conv_base::ConvBase;
use super::head::{Head, HeadLayers};
use super::vgg::{Block, Vgg};
use crate::data::Resize;
use crate::{Error, Preprocess, Result, atomic_file};

/// The metadata entry everything but the tensors stands in, as JSON. One entry, because safetensors writes
/// several in no fixed order, and equal classifiers should make equal files.
pub(super) const METADATA_KEY: &str = "headstart";

/// The format this version writes, and the newest it reads.
const FORMAT: u32 = 1;

/// What stands in the metadata.
#[derive(serde::Serialize, serde::Deserialize)]
struct Description {
    format: u32,
    architecture: Vgg,
    trainable: Vec<Block>,
    classes: Vec<String>,
    /// Height and width in pixels.
    input_size: (usize, usize),
    resize: Resize,
    preprocess: Preprocess,
    head: Head,
}

/// The part every format has, read first so that a newer one can be named.
#[derive(serde::Deserialize)]
struct Format {
    format: u32,
}

impl Classifier<ConvBase> {
    /// Writes the classifier to one safetensors file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let trainable = |block: &Block| self.base.is_trainable(*block);
        let description = Description {
            format: FORMAT,
            architecture: self.base.vgg(),
            trainable: Block::ALL.into_iter().filter(trainable).collect(),
            classes: self.class_names.clone(),
            input_size: self.input_size,
            resize: self.resize,
            preprocess: self.preprocess,
            head: self.head.config().clone(),
        };
        let json = serde_json::to_string(&description).map_err(std::io::Error::from);
        let metadata = json.map_err(Error::io(path))?;
        let bytes = safetensors::serialize(
            self.named_tensors(),
            Some(HashMap::from([(METADATA_KEY.to_owned(), metadata)])),
        )
        .map_err(|error| model_error(path, error))?;
        atomic_file::write(path, |file| file.write_all(&bytes))
    }

    /// Loads a classifier from a file that [`save`](Self::save) wrote, and from nothing else.
    ///
    /// # Errors
    /// [`Error::ModelFile`] for a file of a newer format, one that is damaged, or one that is not a
    /// classifier; [`Error::MissingTensor`] and [`Error::TensorShape`] name what does not fit.
    pub fn load(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| model_error(path, format!("not a safetensors file: {error}")))?;
        let description = describe(path, &metadata)?;
        check_classes(&description.classes, &description.head)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| model_error(path, error))?;
        let tensor = |name: &str, expected: &[usize]| read(path, &file, name, expected, device);

        let mut convolutions = Vec::new();
        for layer in description.architecture.layers() {
            let shape = [layer.out_channels, layer.in_channels, 3, 3];
            convolutions.push((
                tensor(&format!("base.{}.weight", layer.name), &shape)?,
                tensor(&format!("base.{}.bias", layer.name), &[layer.out_channels])?,
            ));
        }
        let preprocess = description.preprocess;
        let mut base =
            ConvBase::from_tensors(description.architecture, convolutions, preprocess)?.frozen();
        for block in description.trainable {
            base.set_block(block, true)?;
        }
        let (height, width) = description.input_size;
        let features = base.output_shape(height, width)?;
        let head = HeadLayers::from_parameters(description.head, features, |name, shape| {
            tensor(&format!("head.{name}"), shape)
        })?;
        Ok(Self {
            base,
            head,
            class_names: description.classes,
            input_size: description.input_size,
            resize: description.resize,
            preprocess,
        })
    }

    /// Every tensor by the name it has in the file.
    fn named_tensors(&self) -> Vec<(String, Tensor)> {
        let base = self.base.tensors().into_iter();
        let head = self.head.tensors().into_iter();
        base.map(|(name, tensor)| (format!("base.{name}"), tensor))
            .chain(head.map(|(name, tensor)| (format!("head.{name}"), tensor)))
            .collect()
    }
}

fn describe(path: &Path, metadata: &Metadata) -> Result<Description> {
    let json = metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(METADATA_KEY))
        .ok_or_else(|| {
            model_error(
                path,
                "a safetensors file, but not a classifier saved by headstart",
            )
        })?;
    let damaged = |error| model_error(path, format!("damaged description: {error}"));
    let Format { format } = serde_json::from_str(json).map_err(damaged)?;
    if format > FORMAT {
        return Err(model_error(
            path,
            format!(
                "format {format} is newer than {FORMAT}, the newest this version reads: update headstart"
            ),
        ));
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
        file: path.to_owned(),
        tensor: name.to_owned(),
    })?;
    if view.shape() != expected {
        return Err(Error::TensorShape {
            file: path.to_owned(),
            tensor: name.to_owned(),
            expected: expected.to_vec(),
            found: view.shape().to_vec(),
        });
    }
    Ok(view.load(device)?.to_dtype(candle_core::DType::F32)?)
}

fn model_error(path: &Path, reason: impl ToString) -> Error {
    Error::ModelFile {
        file: path.to_owned(),
        reason: reason.to_string(),
    }
}
