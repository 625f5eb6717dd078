//! A file of a PyTorch network, head and all → a classifier.

use std::fs::File;
use std::path::Path;

use candle_core::Device;

use crate::error::{Error, Result};
use crate::model::arch::{Arch, Top, TopLayer};
use crate::model::{Backbone, Classifier, ConvBase, Head, HeadLayers, Pooling, WeightFile};

impl Classifier {
    /// A classifier from a file of a network that timm or torchvision trained: base, batch norms and the classifier on
    /// top (`fc`, `classifier`, `head.fc`). One output becomes a sigmoid unit, which two classes share; more become
    /// softmax units. Every block is frozen, pictures have the size that the base's ImageNet weights were trained on;
    /// pixels are as [`Weights::file`] says.
    ///
    /// ```no_run
    /// use headstart::model::Arch;
    /// use headstart::{Classifier, Device};
    ///
    /// let arch: Arch = "resnet50".parse()?;
    /// let model = Classifier::from_torch(arch, "model.safetensors", &["not_santa", "santa"], &Device::Cpu)?;
    /// # Ok::<(), headstart::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Weights::file`]; [`Error::MissingTensor`] for a file without the classifier on top;
    /// [`Error::InvalidOption`] unless there is a name for each of its outputs.
    ///
    /// [`Weights::file`]: crate::Weights::file
    pub fn from_torch(
        arch: impl Into<Arch>,
        path: impl AsRef<Path>,
        class_names: &[impl AsRef<str>],
        device: &Device,
    ) -> Result<Self> {
        let arch = arch.into();
        arch.check()?;
        let Some(top) = arch.torch_top().cloned() else {
            let allowed = "a base with a classifier in PyTorch, at its usual width";
            return Err(Error::option("arch", format!("`{arch}`"), allowed));
        };
        let mut file = WeightFile::open(path.as_ref())?;
        let (tensors, preprocess) = file.load(&arch, device)?;
        let size = arch
            .weights()
            .map_or(arch.input_size().0, |weights| weights.size);
        let base = ConvBase::from_tensors(arch, tensors, preprocess);
        let head = read_head(&mut file, &base, &top, size, device)?;
        let model = Self::new(base, head.config().clone(), class_names)?;
        model.with_head(head, (size, size))
    }
}

/// The head of a file for pictures of `size` × `size`.
fn read_head(
    file: &mut WeightFile<'_, File>,
    base: &ConvBase,
    top: &Top,
    size: usize,
    device: &Device,
) -> Result<HeadLayers> {
    let arch = base.arch();
    let (names, outputs) = layer_names(file, arch, top)?;
    let mut config = match outputs {
        1 => Head::sigmoid(),
        outputs => Head::softmax(outputs),
    };
    if top.flattened.is_none() {
        config = config.pooling(Pooling::GlobalAverage);
    }
    for (units, activation) in top.layers.iter().filter_map(|layer| layer.hidden) {
        config = config.hidden_with(units, activation);
    }
    let features = base.output_shape(size, size)?;
    // Weight and bias of each layer are asked for in turn.
    let mut asked = names
        .iter()
        .flat_map(|name| [(name, "weight"), (name, "bias")]);
    HeadLayers::from_parameters(config, features, |_, shape| {
        let (name, kind) = asked.next().expect("as many layers as on top");
        let name = format!("{name}.{kind}");
        let found = file.shape(&name).unwrap_or_default();
        // timm's may be convolutions of as many numbers.
        let as_convolution = match (shape, found.as_slice()) {
            (&[outputs, inputs], &[_, channels, height, width])
                if [channels, height, width]
                    .into_iter()
                    .try_fold(1, usize::checked_mul)
                    == Some(inputs) =>
            {
                vec![outputs, channels, height, width]
            }
            _ => shape.to_vec(),
        };
        let tensor = file.tensor(arch, &name, &as_convolution, device)?;
        Ok(tensor.reshape(shape)?)
    })
}

/// What the layers on top are called in a file, and how many outputs the last has.
fn layer_names(
    file: &WeightFile<'_, File>,
    arch: &Arch,
    top: &Top,
) -> Result<(Vec<&'static str>, usize)> {
    let timm = |layer: &TopLayer| Some(layer.timm);
    let torchvision = |layer: &TopLayer| layer.torchvision;
    let mut tried = Vec::new();
    for names in [timm, torchvision] as [fn(&TopLayer) -> Option<&'static str>; 2] {
        let names: Option<Vec<&str>> = top.layers.iter().map(names).collect();
        let Some(names) = names else { continue };
        let last = format!("{}.weight", names[names.len() - 1]);
        match file.shape(&last) {
            Some(shape) => return Ok((names, shape.first().copied().unwrap_or(0))),
            None => tried.push(last),
        }
    }
    tried.dedup();
    Err(file.missing(arch, &tried))
}
