//! A base's weights from a safetensors file, reading nothing but them.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};

use crate::model::vgg::ConvLayer;
use crate::{Error, Preprocess, Result};

/// The longest header that is believed; safetensors allows 100 MB, ours are a few kB.
const MAX_HEADER: u64 = 16 << 20;

/// The metadata entry that says what pixels must look like.
const PREPROCESS_KEY: &str = "preprocess";

/// The (weight, bias) of every layer in order as f32, and the preprocess the file asks for.
pub(super) fn load(
    path: &Path,
    layers: &[ConvLayer],
    device: &Device,
) -> Result<(Vec<(Tensor, Tensor)>, Preprocess)> {
    let mut file = WeightFile::open(path)?;
    let naming = Naming::of(&file.header);
    let preprocess = file.preprocess(naming)?;
    let mut tensors = Vec::with_capacity(layers.len());
    for layer in layers {
        let mut tensor = |kind: &str, shape: &[usize]| {
            let name = naming.name(layer, kind);
            file.tensor(&name, shape, device)
        };
        tensors.push((
            tensor("weight", &[layer.out_channels, layer.in_channels, 3, 3])?,
            tensor("bias", &[layer.out_channels])?,
        ));
    }
    Ok((tensors, preprocess))
}

/// Whose names a file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    /// `features.0.weight`
    Torch,
    /// `block1_conv1.weight`
    Keras,
    /// `base.block1_conv1.weight`: a saved classifier.
    Classifier,
}

impl Naming {
    /// Told by the first layer; torchvision's where no name is known, so that errors speak of the common one.
    fn of(header: &Metadata) -> Self {
        [(Self::Keras, "block1_conv1.weight"), (Self::Classifier, "base.block1_conv1.weight")]
            .into_iter()
            .find(|(_, first)| header.info(first).is_some())
            .map_or(Self::Torch, |(naming, _)| naming)
    }

    fn name(self, layer: &ConvLayer, kind: &str) -> String {
        match self {
            Self::Torch => format!("{}.{kind}", layer.torch_name),
            Self::Keras => format!("{}.{kind}", layer.name),
            Self::Classifier => format!("base.{}.{kind}", layer.name),
        }
    }
}

/// An open file whose header was read and checked.
struct WeightFile<'a> {
    path: &'a Path,
    file: File,
    header: Metadata,
    /// Where tensors begin.
    data: u64,
}

impl<'a> WeightFile<'a> {
    fn open(path: &'a Path) -> Result<Self> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let damaged = |reason: String| Error::WeightFile {
            file: path.to_owned(),
            reason,
        };
        let mut prefix = [0; 8];
        file.read_exact(&mut prefix).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => {
                damaged(format!("not a safetensors file: only {length} bytes long"))
            }
            _ => Error::io(path)(error),
        })?;
        let header_length = u64::from_le_bytes(prefix);
        if header_length > MAX_HEADER {
            return Err(damaged(format!(
                "not a safetensors file: it claims a header of {header_length} bytes"
            )));
        }
        if 8 + header_length > length {
            return Err(damaged(format!(
                "truncated: the header needs {} bytes, the file has {length}",
                8 + header_length
            )));
        }
        let mut json = vec![0; header_length as usize];
        file.read_exact(&mut json).map_err(Error::io(path))?;
        let header: Metadata = serde_json::from_slice(&json)
            .map_err(|error| damaged(format!("damaged safetensors header: {error}")))?;
        let data = 8 + header_length;
        let wanted = data + header.data_len() as u64;
        if wanted > length {
            return Err(damaged(format!("truncated: {length} bytes of {wanted}")));
        }
        Ok(Self {
            path,
            file,
            header,
            data,
        })
    }

    fn preprocess(&self, naming: Naming) -> Result<Preprocess> {
        let stated = self.header.metadata().as_ref().and_then(|entries| entries.get(PREPROCESS_KEY));
        match stated {
            Some(name) => name.parse().map_err(|error: Error| Error::WeightFile {
                file: self.path.to_owned(),
                reason: error.to_string(),
            }),
            None if naming == Naming::Torch => Ok(Preprocess::Torch),
            None => Ok(Preprocess::Caffe),
        }
    }

    fn tensor(&mut self, name: &str, expected: &[usize], device: &Device) -> Result<Tensor> {
        let info = self.header.info(name).ok_or_else(|| Error::MissingTensor {
            file: self.path.to_owned(),
            tensor: name.to_owned(),
        })?;
        if info.shape != expected {
            return Err(Error::TensorShape {
                file: self.path.to_owned(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: info.shape.clone(),
            });
        }
        let damaged = |reason: String| Error::WeightFile {
            file: self.path.to_owned(),
            reason: format!("tensor `{name}`: {reason}"),
        };
        if !matches!(info.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
            return Err(damaged(format!("type {:?} is not f16, bf16, f32 or f64", info.dtype)));
        }
        let TensorInfo {
            dtype,
            data_offsets: (start, end),
            ..
        } = *info;
        // The header was checked: the length is that of the shape, which is the one expected.
        let mut bytes = vec![0; end - start];
        self.file
            .seek(SeekFrom::Start(self.data + start as u64))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(Error::io(self.path))?;
        let view = TensorView::new(dtype, expected.to_vec(), &bytes)
            .map_err(|error| damaged(error.to_string()))?;
        Ok(view.load(device)?.to_dtype(DType::F32)?)
    }
}
