//! A base's weights in a file of their own.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::DType;
#[cfg(feature = "onnx")]
use candle_core::Tensor;

use super::ConvBase;
use crate::error::Result;
use crate::model::backbone::Backbone;
#[cfg(feature = "onnx")]
use crate::model::backbone::Mode;
use crate::model::names;
use crate::tensor_file;

impl ConvBase {
    /// Weight and bias of each convolution in the table's order, batch norms folded into them.
    #[cfg(feature = "onnx")]
    pub(crate) fn plain_convs(&self) -> Result<Vec<(Tensor, Tensor)>> {
        let plain = self.convs.iter().map(|conv| {
            let folded = conv.folded(Mode::Infer)?;
            Ok((folded.weight()?, folded.bias))
        });
        plain.collect()
    }

    /// Writes the weights, as [`Weights::file`](crate::Weights::file) reads them, to a safetensors file, whole or not
    /// at all. `dtype` is that of the file: [`DType::F16`] halves it. `notes` become metadata beside the preprocess:
    /// what the weights were trained on, their licence. A checksum of the file is another entry, which reading it
    /// compares.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) naming the file; [`Error::NotFinite`](crate::Error::NotFinite) for a weight that
    /// is no finite number, or none of `dtype`.
    pub fn save(&self, path: impl AsRef<Path>, dtype: DType, notes: &[(&str, &str)]) -> Result<()> {
        let path = path.as_ref();
        let tensors = self
            .tensors()
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.detach().to_dtype(dtype)?)))
            .collect::<Result<Vec<_>>>()?;
        let own = [
            ("architecture", self.architecture()),
            (names::PREPROCESS, self.preprocess.to_string()),
        ];
        let notes = notes.iter().map(|(key, note)| (*key, (*note).to_owned()));
        let metadata: BTreeMap<_, _> = own
            .into_iter()
            .chain(notes)
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        tensor_file::write(path, tensors, metadata)
    }
}
