//! A base's weights from a safetensors file or one of PyTorch's, reading nothing but them.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;

use candle_core::safetensors::Load;
use candle_core::{DType, Device, Tensor};
use safetensors::tensor::{Dtype, TensorView};

use super::foreign;
use super::naming::Naming;
use super::tensors::{ConvTensors, check_values};
use super::torch_file::{self, TorchFile};
use crate::data::Preprocess;
use crate::error::{Cause, While};
use crate::error::{Error, Result};
use crate::files;
use crate::model::arch::Arch;
use crate::model::names;
use crate::tensor_file::TensorFile;

/// What a file gives: the tensors of every convolution in the table's order as f32, and what pixels must look like.
pub(crate) type Loaded = (Vec<ConvTensors>, Preprocess);

/// Reads what a table needs from a file.
pub(super) fn load(path: &Path, arch: &Arch, device: &Device) -> Result<Loaded> {
    WeightFile::open(path)?.load(arch, device)
}

/// The same from a file's content; errors name `path`.
#[cfg(feature = "compact")]
pub(super) fn read(
    path: &Path,
    content: impl Read + Seek,
    arch: &Arch,
    device: &Device,
) -> Result<Loaded> {
    WeightFile::new(path, Contents::read(content))?.load(arch, device)
}

/// What a saved classifier's metadata says of its base.
#[derive(serde::Deserialize)]
struct SavedBase {
    preprocess: Preprocess,
}

/// An open file, whatever its format.
enum Contents<R: Read + Seek> {
    Safetensors(TensorFile<R>),
    Torch(TorchFile<R>),
}

impl<R: Read + Seek> Contents<R> {
    fn read(mut content: R) -> Result<Self, Cause> {
        let mut start = Vec::new();
        content.by_ref().take(9).read_to_end(&mut start)?;
        content.rewind()?;
        // A safetensors file may begin so too, with the length of its header, which then begins with a brace.
        if start.starts_with(torch_file::MAGIC) && !start.ends_with(b"{") {
            return Ok(Self::Torch(TorchFile::read(content)?));
        }
        Ok(Self::Safetensors(TensorFile::read(content)?))
    }

    /// An entry of the metadata.
    fn entry(&self, key: &str) -> Option<&str> {
        match self {
            Self::Safetensors(file) => file.entry(key),
            Self::Torch(_) => None,
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Self::Safetensors(file) => file.names(),
            Self::Torch(file) => file.names(),
        }
    }

    /// Type and shape of a tensor.
    fn info(&self, name: &str) -> Option<(Dtype, Vec<usize>)> {
        match self {
            Self::Safetensors(file) => {
                let info = file.info(name)?;
                Some((info.dtype, info.shape.clone()))
            }
            Self::Torch(file) => file.info(name),
        }
    }

    /// The bytes of a tensor.
    fn bytes(&mut self, name: &str) -> Result<Vec<u8>, Cause> {
        match self {
            Self::Safetensors(file) => {
                let info = file.info(name).cloned().ok_or("it is not there")?;
                Ok(file.bytes(&info)?)
            }
            Self::Torch(file) => file.bytes(name),
        }
    }
}

/// An open file whose header was read and checked.
pub(crate) struct WeightFile<'a, R: Read + Seek> {
    path: &'a Path,
    file: Contents<R>,
}

impl<'a> WeightFile<'a, File> {
    /// Opens a file.
    pub(crate) fn open(path: &'a Path) -> Result<Self> {
        let file = files::open(path).map_err(Error::io(path))?;
        Self::new(path, Contents::read(file))
    }
}

impl<'a, R: Read + Seek> WeightFile<'a, R> {
    fn new(path: &'a Path, opened: Result<Contents<R>, Cause>) -> Result<Self> {
        match opened {
            Ok(file) => Ok(Self { path, file }),
            Err(cause) => Err(match cause.downcast::<std::io::Error>() {
                Ok(error) => Error::io(path)(*error),
                Err(source) => Error::WeightFile {
                    path: path.to_owned(),
                    source,
                },
            }),
        }
    }

    /// Reads what a table needs.
    pub(crate) fn load(&mut self, arch: &Arch, device: &Device) -> Result<Loaded> {
        let naming = self.naming(arch)?;
        let preprocess = self.preprocess(arch, naming)?;
        let convs = arch.convs().map(|(_, conv)| {
            let names = naming.tensors(conv).into_iter();
            let tensors = names.map(|(name, shape)| self.tensor(arch, &name, &shape, device));
            let tensors = tensors.collect::<Result<Vec<_>>>()?;
            naming.assemble(arch, conv, tensors)
        });
        Ok((convs.collect::<Result<_>>()?, preprocess))
    }

    /// The shape of a tensor, if it is there.
    pub(crate) fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.file.info(name).map(|(_, shape)| shape)
    }

    /// A tensor that is not there, under any of these names.
    pub(crate) fn missing(&self, arch: &Arch, tried: &[String]) -> Error {
        let names = self.file.names();
        let guess = foreign::guess(arch, &names, |name| self.shape(name));
        Error::MissingTensor {
            path: self.path.to_owned(),
            tensor: tried.join("` or `"),
            hint: guess.map_or_else(String::new, |guess| format!(": {guess}")),
        }
    }

    /// Told by the first convolution's weight.
    fn naming(&self, arch: &Arch) -> Result<Naming> {
        let has = |name: &str| self.file.info(name).is_some();
        Naming::detect(arch, has).map_err(|tried| self.missing(arch, &tried))
    }

    fn preprocess(&self, arch: &Arch, naming: Naming) -> Result<Preprocess> {
        let entry = |key| self.file.entry(key);
        let damaged = |source: Cause| Error::WeightFile {
            path: self.path.to_owned(),
            source,
        };
        if let Some(name) = entry(names::PREPROCESS) {
            let parsed = name.parse::<Preprocess>();
            return parsed.map_err(|error| damaged(While::new("metadata", error).into()));
        }
        if let Some(preprocess) = naming.preprocess(arch) {
            return Ok(preprocess);
        }
        let json = entry(names::CLASSIFIER)
            .ok_or_else(|| damaged("a classifier's tensors without its metadata".into()))?;
        let base: SavedBase = serde_json::from_str(json)
            .map_err(|error| damaged(While::new("a classifier's metadata", error).into()))?;
        Ok(base.preprocess)
    }

    /// A tensor as f32, of this shape.
    pub(crate) fn tensor(
        &mut self,
        arch: &Arch,
        name: &str,
        expected: &[usize],
        device: &Device,
    ) -> Result<Tensor> {
        let Some((dtype, shape)) = self.file.info(name) else {
            return Err(self.missing(arch, &[name.to_owned()]));
        };
        if shape != expected {
            return Err(Error::TensorShape {
                path: self.path.to_owned(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: shape,
            });
        }
        let damaged = |reason: String| Error::WeightFile {
            path: self.path.to_owned(),
            source: format!("tensor `{name}`: {reason}").into(),
        };
        if !matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64) {
            return Err(damaged(format!(
                "type {dtype:?} is not f16, bf16, f32 or f64"
            )));
        }
        let bytes = self.file.bytes(name);
        let bytes = bytes.map_err(|error| damaged(error.to_string()))?;
        let view =
            TensorView::new(dtype, shape, &bytes).map_err(|error| damaged(error.to_string()))?;
        let values: Vec<f32> = view
            .load(&Device::Cpu)?
            .to_dtype(DType::F32)?
            .flatten_all()?
            .to_vec1()?;
        check_values(name, &values).map_err(damaged)?;
        Ok(Tensor::from_vec(values, expected, device)?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::arch::BlockTable;
    use crate::model::arch::layer::{Conv, Layer};

    /// Two convolutions of a few numbers each, with names as torchvision's.
    fn arch() -> Arch {
        let convs = [
            ("block1_conv1", "features.0", 1, 2),
            ("block1_conv2", "features.2", 2, 1),
        ];
        let layers = convs.map(|(name, torch_name, inputs, outputs)| {
            Layer::Conv(Conv::new(name, inputs, outputs, 3).torch_names(torch_name, ""))
        });
        Arch::new("tiny", vec![BlockTable::new("block1", layers.to_vec())])
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

    fn load_bytes(bytes: &[u8]) -> Result<Loaded> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.safetensors");
        std::fs::write(&path, bytes).unwrap();
        load(&path, &arch(), &Device::Cpu)
    }

    fn counting() -> [f64; 57] {
        std::array::from_fn(|k| k as f64)
    }

    #[test]
    fn f64_is_loaded_as_f32() {
        let (tensors, preprocess) = load_bytes(&bytes(&counting())).unwrap();
        assert_eq!(preprocess, Preprocess::Unit);
        let mut found: Vec<f32> = Vec::new();
        for tensor in tensors
            .iter()
            .flat_map(|conv| [Some(&conv.weight), conv.bias.as_ref()])
            .flatten()
        {
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
                    for (tensors, (_, conv)) in tensors.iter().zip(arch().convs()) {
                        prop_assert_eq!(tensors.weight.dims(), conv.weight_shape());
                        prop_assert_eq!(tensors.bias.as_ref().unwrap().dims(), [conv.outputs]);
                        let weight: Vec<f32> = tensors.weight.flatten_all().unwrap().to_vec1().unwrap();
                        prop_assert!(weight.iter().all(|value| value.is_finite()));
                    }
                }
                Err(error) => prop_assert!(error.to_string().contains("tiny.safetensors"), "{}", error),
            }
        }
    }
}
