//! A base or a classifier → a file that PyTorch's networks load.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::TorchNames;
use crate::error::{Error, Result};
use crate::model::arch::{Arch, Top, TopLayer};
use crate::model::{Backbone, Classifier, ConvBase, HeadLayers, Pooling};
use crate::{model, tensor_file};

/// Names with their tensors.
type Named = Vec<(String, Tensor)>;

impl ConvBase {
    /// Writes the weights to a safetensors file with the names of PyTorch's networks, whole or not at all: timm's
    /// `load_state_dict` takes it, `strict=False` since there is no classifier in it. [`Weights::file`] reads it again.
    /// RepVGG is fused, as timm's `reparameterize_model` makes it. What pixels must look like is in the metadata, under
    /// `preprocess`.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a base that torchvision does not have; [`Error::Io`] naming the file;
    /// [`Error::NotFinite`] for a weight that is no finite number.
    ///
    /// [`Weights::file`]: crate::Weights::file
    pub fn export_torch(&self, path: impl AsRef<Path>, names: TorchNames) -> Result<()> {
        let metadata = metadata(self, []);
        tensor_file::write(path.as_ref(), base(self, names)?, metadata)
    }
}

impl Classifier {
    /// Writes base and head to a safetensors file with the names of PyTorch's networks, whole or not at all: timm's or
    /// torchvision's network with as many classes loads it strictly. One sigmoid unit is written as two softmax units,
    /// which say the same. What pixels must look like and the class names are in the metadata.
    ///
    /// ```no_run
    /// use headstart::export::TorchNames;
    /// use headstart::{Classifier, Device};
    ///
    /// let model = Classifier::load("santa.safetensors", &Device::Cpu)?;
    /// // network = timm.create_model("tf_efficientnet_lite0", num_classes=2)
    /// // network.load_state_dict(safetensors.torch.load_file("santa-timm.safetensors"))
    /// model.export_torch("santa-timm.safetensors", TorchNames::Timm)?;
    /// # Ok::<(), headstart::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a base that torchvision does not have, or a head that is not what the network has
    /// on top: the message says what that is. [`ConvBase::export_torch`] writes the base alone. [`Error::Io`] naming
    /// the file; [`Error::NotFinite`] for a weight that is no finite number.
    pub fn export_torch(&self, path: impl AsRef<Path>, names: TorchNames) -> Result<()> {
        let softmax = match self.head().config().is_sigmoid() {
            true => &self.head().to_softmax()?,
            false => self.head(),
        };
        let mut tensors = base(self.base(), names)?;
        tensors.extend(head(softmax, self.base().arch(), names)?);
        let classes = serde_json::json!(self.class_names()).to_string();
        let metadata = metadata(self.base(), [("classes", classes)]);
        tensor_file::write(path.as_ref(), tensors, metadata)
    }
}

/// A base's tensors by PyTorch's names.
fn base(base: &ConvBase, names: TorchNames) -> Result<Named> {
    let arch = base.arch();
    let torchvision = names == TorchNames::Torchvision;
    let renamed = model::torch_names(arch, torchvision).ok_or_else(|| {
        let allowed = "a base that torchvision has; TorchNames::Timm has names for all";
        Error::option(
            "base",
            format!("`{arch}` with torchvision's names"),
            allowed,
        )
    })?;
    let tensors = base.tensors();
    let mut named = Vec::with_capacity(tensors.len());
    for ((own, other), (name, tensor)) in renamed.into_iter().zip(tensors) {
        assert_eq!(
            own, name,
            "tables and bases name their tensors in one order"
        );
        let tensor = match torchvision && own.ends_with(".running_var") {
            true => (tensor - base.arch().torch_offset_of(&own))?,
            false => tensor,
        };
        named.push((other, tensor));
    }
    Ok(named)
}

/// A head's tensors by PyTorch's names.
fn head(head: &HeadLayers, arch: &Arch, names: TorchNames) -> Result<Named> {
    let top = arch.torch_top().filter(|top| is_top(head, top));
    let Some(top) = top else {
        let on_top = match arch.torch_top() {
            Some(top) => format!("what `{arch}` has on top in PyTorch: {}", described(top)),
            None => format!("a base that PyTorch has; `{arch}` is none"),
        };
        return Err(Error::option("head", "another one", on_top));
    };
    let tensors = head.tensors();
    let mut named = Vec::new();
    for (layer, pair) in top.layers.iter().zip(tensors.chunks(2)) {
        let name = match names {
            TorchNames::Timm => layer.timm,
            TorchNames::Torchvision => layer.torchvision.unwrap_or(layer.timm),
        };
        for ((_, tensor), kind) in pair.iter().zip(["weight", "bias"]) {
            let tensor = match layer.window.filter(|_| kind == "weight") {
                Some(side) if names == TorchNames::Timm => {
                    tensor.reshape((tensor.dim(0)?, (), side, side))?
                }
                _ => tensor.clone(),
            };
            named.push((format!("{name}.{kind}"), tensor));
        }
    }
    Ok(named)
}

/// Whether a head is what a network has on top.
fn is_top(head: &HeadLayers, top: &Top) -> bool {
    let [_, height, width] = head.features();
    let single = height == 1 && width == 1;
    let pooled = match (head.config().pooled(), top.flattened) {
        (Pooling::GlobalAverage, None) => true,
        (Pooling::GlobalAverage, Some(_)) => false,
        (Pooling::Flatten, None) => single,
        (Pooling::Flatten, Some(side)) => [height, width] == [side, side],
    };
    let hidden = top.layers.iter().filter_map(|layer| layer.hidden);
    pooled && head.config().hidden_layers().eq(hidden)
}

/// The head that a network has on top, in this crate's words.
fn described(top: &Top) -> String {
    let pooling = match top.flattened {
        Some(side) => format!("features of {side}×{side}, flattened, "),
        None => "Pooling::GlobalAverage, ".to_owned(),
    };
    let layer = |layer: &TopLayer| match layer.hidden {
        Some((units, activation)) => format!("{units} hidden units with {activation:?}"),
        None => "a unit a class".to_owned(),
    };
    let layers: Vec<String> = top.layers.iter().map(layer).collect();
    pooling + &layers.join(", ")
}

fn metadata<const N: usize>(
    base: &ConvBase,
    more: [(&str, String); N],
) -> BTreeMap<String, String> {
    let own = [
        ("format", "pt".to_owned()),
        ("architecture", base.architecture()),
        ("preprocess", base.preprocess().to_string()),
    ];
    let all = own.into_iter().chain(more);
    all.map(|(key, value)| (key.to_owned(), value)).collect()
}
