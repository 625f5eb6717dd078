//! A base's weights from a safetensors file, reading nothing but them.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo, TensorView};

use crate::model::saved;
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
    let file = File::open(path).map_err(Error::io(path))?;
    read(path, file, layers, device)
}

/// The same from a file's content; errors name `path`.
pub(super) fn read(
    path: &Path,
    content: impl Read + Seek,
    layers: &[ConvLayer],
    device: &Device,
) -> Result<(Vec<(Tensor, Tensor)>, Preprocess)> {
    let mut file = WeightFile::open(path, content)?;
    let naming = file.naming(layers)?;
    let preprocess = file.preprocess(naming)?;
    let mut tensors = Vec::with_capacity(layers.len());
    for layer in layers {
        let weight = file.tensor(
            &naming.weight(layer),
            &naming.weight_shape(layer),
            &Device::Cpu,
        )?;
        let weight = match naming {
            // (kh, kw, in, out) → (out, in, kh, kw)
            Naming::KerasVariables => weight.permute((3, 2, 0, 1))?.contiguous()?,
            _ => weight,
        };
        let bias = file.tensor(&naming.bias(layer), &[layer.out_channels], device)?;
        tensors.push((weight.to_device(device)?, bias));
    }
    Ok((tensors, preprocess))
}

/// Whose names a file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    /// `features.0.weight`
    Torch,
    /// `block1_conv1.weight`: Keras's layers, PyTorch's layout.
    Keras,
    /// `block1_conv1/kernel`: the paths of Keras's variables, in Keras's layout.
    KerasVariables,
    /// `base.block1_conv1.weight`: a saved classifier.
    Classifier,
}

impl Naming {
    const ALL: [Self; 4] = [
        Self::Torch,
        Self::Keras,
        Self::KerasVariables,
        Self::Classifier,
    ];

    fn weight(self, layer: &ConvLayer) -> String {
        match self {
            Self::Torch => format!("{}.weight", layer.torch_name),
            Self::Keras => format!("{}.weight", layer.name),
            Self::KerasVariables => format!("{}/kernel", layer.name),
            Self::Classifier => format!("base.{}.weight", layer.name),
        }
    }

    fn bias(self, layer: &ConvLayer) -> String {
        match self {
            Self::Torch => format!("{}.bias", layer.torch_name),
            Self::Keras => format!("{}.bias", layer.name),
            Self::KerasVariables => format!("{}/bias", layer.name),
            Self::Classifier => format!("base.{}.bias", layer.name),
        }
    }

    fn weight_shape(self, layer: &ConvLayer) -> [usize; 4] {
        let (input, output) = (layer.in_channels, layer.out_channels);
        match self {
            Self::KerasVariables => [3, 3, input, output],
            _ => [output, input, 3, 3],
        }
    }
}

/// What a saved classifier's metadata says of its base.
#[derive(serde::Deserialize)]
struct SavedBase {
    preprocess: Preprocess,
}

/// An open file whose header was read and checked.
struct WeightFile<'a, R> {
    path: &'a Path,
    content: R,
    header: Metadata,
    /// Where tensors begin.
    data: u64,
}

impl<'a, R: Read + Seek> WeightFile<'a, R> {
    fn open(path: &'a Path, mut content: R) -> Result<Self> {
        let length = content.seek(SeekFrom::End(0)).map_err(Error::io(path))?;
        content.rewind().map_err(Error::io(path))?;
        let damaged = |reason: String| Error::WeightFile {
            file: path.to_owned(),
            reason,
        };
        let mut prefix = [0; 8];
        content
            .read_exact(&mut prefix)
            .map_err(|error| match error.kind() {
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
        content.read_exact(&mut json).map_err(Error::io(path))?;
        let header: Metadata = serde_json::from_slice(&json)
            .map_err(|error| damaged(format!("damaged safetensors header: {error}")))?;
        let data = 8 + header_length;
        // The header alone bounds nothing: eight tensors of 2⁶¹ bytes are consistent with each other.
        match data.checked_add(header.data_len() as u64) {
            Some(wanted) if wanted == length => {}
            Some(wanted) if wanted < length => {
                return Err(damaged(format!(
                    "{} bytes after the last tensor",
                    length - wanted
                )));
            }
            _ => {
                return Err(damaged(format!(
                    "truncated: its header announces {} bytes of tensors, the file has {}",
                    header.data_len(),
                    length - data
                )));
            }
        }
        Ok(Self {
            path,
            content,
            header,
            data,
        })
    }

    /// Told by the first layer's weight.
    fn naming(&self, layers: &[ConvLayer]) -> Result<Naming> {
        let first = &layers[0];
        let known = |naming: &Naming| self.header.info(&naming.weight(first)).is_some();
        Naming::ALL.into_iter().find(known).ok_or_else(|| {
            let tried = Naming::ALL.map(|naming| naming.weight(first));
            Error::MissingTensor {
                file: self.path.to_owned(),
                tensor: tried.join("` or `"),
            }
        })
    }

    fn preprocess(&self, naming: Naming) -> Result<Preprocess> {
        let entry = |key| self.header.metadata().as_ref()?.get(key);
        let damaged = |reason: String| Error::WeightFile {
            file: self.path.to_owned(),
            reason,
        };
        if let Some(name) = entry(PREPROCESS_KEY) {
            return name
                .parse()
                .map_err(|error: Error| damaged(format!("metadata: {error}")));
        }
        match naming {
            Naming::Torch => Ok(Preprocess::Torch),
            Naming::Keras | Naming::KerasVariables => Ok(Preprocess::Caffe),
            Naming::Classifier => {
                let json = entry(saved::METADATA_KEY).ok_or_else(|| {
                    damaged("a classifier's tensors without its metadata".to_owned())
                })?;
                let base: SavedBase = serde_json::from_str(json)
                    .map_err(|error| damaged(format!("a classifier's metadata: {error}")))?;
                Ok(base.preprocess)
            }
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
        if !matches!(
            info.dtype,
            Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64
        ) {
            return Err(damaged(format!(
                "type {:?} is not f16, bf16, f32 or f64",
                info.dtype
            )));
        }
        let TensorInfo {
            dtype,
            data_offsets: (start, end),
            ..
        } = *info;
        // The header was checked: the length is that of the shape, which is the one expected.
        let mut bytes = vec![0; end - start];
        self.content
            .seek(SeekFrom::Start(self.data + start as u64))
            .and_then(|_| self.content.read_exact(&mut bytes))
            .map_err(|error| damaged(error.to_string()))?;
        let view = TensorView::new(dtype, expected.to_vec(), &bytes)
            .map_err(|error| damaged(error.to_string()))?;
        let values: Vec<f32> = view
            .load(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1()?;
        if let Some(value) = values.iter().find(|value| !value.is_finite()) {
            return Err(damaged(format!("holds {value} as an f32 weight")));
        }
        Ok(Tensor::from_vec(values, expected, device)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Block;

    /// Two layers of a few numbers each.
    fn layers() -> Vec<ConvLayer> {
        [
            ("block1_conv1", "features.0", 1, 2),
            ("block1_conv2", "features.2", 2, 1),
        ]
        .map(|(name, torch_name, in_channels, out_channels)| ConvLayer {
            block: Block::Conv1,
            name: name.to_owned(),
            torch_name: torch_name.to_owned(),
            in_channels,
            out_channels,
        })
        .to_vec()
    }

    /// A file of 57 numbers with torchvision's names, then one tensor that is nobody's.
    fn bytes(values: &[f64; 57]) -> Vec<u8> {
        let json = concat!(
            r#"{"__metadata__":{"preprocess":"unit"},"#,
            r#""features.0.weight":{"dtype":"F64","shape":[2,1,3,3],"data_offsets":[0,144]},"#,
            r#""features.0.bias":{"dtype":"F64","shape":[2],"data_offsets":[144,160]},"#,
            r#""features.2.weight":{"dtype":"F64","shape":[1,2,3,3],"data_offsets":[160,304]},"#,
            r#""features.2.bias":{"dtype":"F64","shape":[1],"data_offsets":[304,312]},"#,
            r#""head.fc.weight":{"dtype":"F64","shape":[18],"data_offsets":[312,456]}}"#,
        );
        let mut file = (json.len() as u64).to_le_bytes().to_vec();
        file.extend(json.bytes());
        file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        file
    }

    fn load_bytes(bytes: &[u8]) -> Result<(Vec<(Tensor, Tensor)>, Preprocess)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.safetensors");
        std::fs::write(&path, bytes).unwrap();
        load(&path, &layers(), &Device::Cpu)
    }

    fn counting() -> [f64; 57] {
        std::array::from_fn(|k| k as f64)
    }

    #[test]
    fn f64_is_loaded_as_f32() {
        let (tensors, preprocess) = load_bytes(&bytes(&counting())).unwrap();
        assert_eq!(preprocess, Preprocess::Unit);
        let mut found: Vec<f32> = Vec::new();
        for tensor in tensors.iter().flat_map(|(weight, bias)| [weight, bias]) {
            found.extend(tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap());
        }
        let expected: Vec<f32> = (0..39).map(|k| k as f32).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn numbers_that_are_none_are_named() {
        // The last is finite as f64 and not as f32.
        for (value, name) in [
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-inf"),
            (1e300, "inf"),
        ] {
            let mut values = counting();
            values[19] = value;
            let error = load_bytes(&bytes(&values)).unwrap_err().to_string();
            for part in ["tiny.safetensors", "`features.0.bias`", name] {
                assert!(error.contains(part), "{error}");
            }
        }
    }

    #[test]
    fn numbers_nobody_asked_for_may_be_anything() {
        let mut values = counting();
        values[40] = f64::NAN;
        load_bytes(&bytes(&values)).unwrap();
    }

    proptest! {
        /// A damaged file loads as finite tensors of the right shape, or is refused by name; it never panics.
        #[test]
        fn damage_is_refused_or_harmless(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            kept in prop::option::of(any::<prop::sample::Index>()),
            appended in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let whole = bytes(&counting());
            let mut damaged = whole.clone();
            for (place, value) in changes {
                let place = place.index(damaged.len());
                damaged[place] = value;
            }
            if let Some(kept) = kept {
                damaged.truncate(kept.index(whole.len()));
            }
            damaged.extend(appended);
            match load_bytes(&damaged) {
                Ok((tensors, _)) => {
                    prop_assert_eq!(damaged.len(), whole.len());
                    for ((weight, bias), layer) in tensors.iter().zip(layers()) {
                        let shape = [layer.out_channels, layer.in_channels, 3, 3];
                        prop_assert_eq!(weight.dims(), shape);
                        prop_assert_eq!(bias.dims(), [layer.out_channels]);
                        let weight: Vec<f32> = weight.flatten_all().unwrap().to_vec1().unwrap();
                        prop_assert!(weight.iter().all(|value| value.is_finite()));
                    }
                }
                Err(error) => prop_assert!(error.to_string().contains("tiny.safetensors"), "{}", error),
            }
        }
    }
}
