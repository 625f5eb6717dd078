//! Architectures as tables: what a base is made of, in rows, without behaviour.
//!
//! A table names its blocks and their [layers](layer::Layer); shapes, parameter names, summaries and costs follow from
//! it, and one [`ConvBase`](crate::ConvBase) runs them all. Blocks and tensors have timm's names, VGG's Keras's.
//!
//! To add one, write a file beside these that makes its [`Arch`]s, and add it to [`Arch::all`].

mod efficientnet;
mod inverted_residual;
pub mod layer;
mod mobilenet;
mod pretrained;
pub(crate) mod repvgg;
mod resnet;
mod top;
mod vgg;

use std::fmt;
use std::str::FromStr;

use crate::bounds;
use crate::data::Resize;
use crate::error::{Error, Result};

use layer::{Conv, Layer};

pub use pretrained::{Pretrained, Top1};
pub(crate) use top::{Top, TopLayer};
pub use vgg::{Block, Vgg};

/// A convolutional base without its top, as a table.
///
/// ```
/// use headstart::model::Arch;
///
/// let resnet: Arch = "resnet50".parse()?;
/// assert_eq!(resnet.block_names(), ["stem", "layer1", "layer2", "layer3", "layer4"]);
/// assert_eq!(resnet.output([3, 224, 224]), Some([2048, 7, 7]));
/// assert_eq!(resnet.parameters(), 23_508_032);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Arch {
    name: String,
    blocks: Vec<BlockTable>,
    pretrained: Option<Pretrained>,
    /// The batch norms' epsilon in torchvision's files where it is another than the table's.
    torch_epsilon: Option<f64>,
    /// Whether its tensors have Keras's names, not timm's.
    keras_names: bool,
    /// Height and width of the pictures a classifier takes unless told.
    start_size: usize,
    top: Option<Top>,
}

/// A part of a base that is frozen or trained as a whole: layers one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockTable {
    /// Its name, such as `layer1`.
    pub name: String,
    /// Its layers.
    pub layers: Vec<Layer>,
}

impl BlockTable {
    /// A block of these layers.
    pub fn new(name: impl Into<String>, layers: Vec<Layer>) -> Self {
        Self {
            name: name.into(),
            layers,
        }
    }
}

impl Arch {
    /// A table of blocks, from the input on, without pretrained weights. [`ConvBase::new`](crate::ConvBase::new) checks
    /// that each takes what the one before gives.
    pub fn new(name: impl Into<String>, blocks: Vec<BlockTable>) -> Self {
        Self {
            name: name.into(),
            blocks,
            pretrained: None,
            torch_epsilon: None,
            keras_names: false,
            start_size: 224,
            top: None,
        }
    }

    /// Sets what PyTorch's networks have on top.
    fn top(mut self, top: Top) -> Self {
        self.top = Some(top);
        self
    }

    /// Sets where pretrained weights are.
    fn pretrained(mut self, pretrained: Pretrained) -> Self {
        self.start_size = pretrained.size;
        self.pretrained = Some(pretrained);
        self
    }

    fn torch_epsilon(mut self, epsilon: f64) -> Self {
        self.torch_epsilon = Some(epsilon);
        self
    }

    /// Every architecture of this crate at its usual width, family by family.
    pub fn all() -> Vec<Self> {
        [
            vgg::all(),
            resnet::all(),
            repvgg::all(),
            efficientnet::all(),
            mobilenet::all(),
        ]
        .concat()
    }

    /// Its name: timm's, such as `resnet50`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its blocks from the input on.
    pub fn blocks(&self) -> &[BlockTable] {
        &self.blocks
    }

    /// The names of its blocks from the input on.
    pub fn block_names(&self) -> Vec<&str> {
        self.blocks
            .iter()
            .map(|block| block.name.as_str())
            .collect()
    }

    /// The ImageNet weights that [`Weights::ImageNet`](crate::Weights::ImageNet) stands for, if there are any.
    pub fn weights(&self) -> Option<&Pretrained> {
        self.pretrained.as_ref()
    }

    /// Height and width in pixels of the pictures that a classifier takes unless it is told otherwise: what the weights
    /// were trained on; for VGG the notebook's 64.
    pub fn input_size(&self) -> (usize, usize) {
        (self.start_size, self.start_size)
    }

    /// How a classifier resizes pictures unless it is told otherwise: as those that the weights were trained on.
    pub fn resize(&self) -> Resize {
        self.pretrained
            .map_or_else(Resize::default, |weights| weights.resize)
    }

    /// The shape (C, h, w) of the features of an image (3, H, W); none where it is too small.
    pub fn output(&self, image: [usize; 3]) -> Option<[usize; 3]> {
        layer::output(self.layers(), image)
    }

    /// How many numbers training may change; running statistics are none of them.
    pub fn parameters(&self) -> usize {
        self.convs().map(|(_, conv)| conv.parameters()).sum()
    }

    /// The multiplications for an image (3, H, W); none where it is too small.
    pub fn multiplications(&self, image: [usize; 3]) -> Option<usize> {
        layer::multiplications(self.layers(), image)
    }

    /// What PyTorch's networks have on top, if there are any.
    pub(crate) fn torch_top(&self) -> Option<&Top> {
        self.top.as_ref()
    }

    /// Every layer from the input on.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &Layer> {
        self.blocks.iter().flat_map(|block| &block.layers)
    }

    /// Every convolution in the order they run, with the position of its block.
    pub(crate) fn convs(&self) -> impl Iterator<Item = (usize, &Conv)> {
        let blocks = self.blocks.iter().enumerate();
        blocks.flat_map(|(index, block)| {
            let convs = block.layers.iter().flat_map(Layer::convs);
            convs.map(move |conv| (index, conv))
        })
    }

    /// Whether its tensors have Keras's names, not timm's.
    pub(crate) fn has_keras_names(&self) -> bool {
        self.keras_names
    }

    /// What is added to a variance of torchvision's to be one of the table's: epsilons differ in MobileNetV3.
    pub(crate) fn torch_variance_offset(&self, epsilon: f64) -> f64 {
        self.torch_epsilon.map_or(0.0, |torch| torch - epsilon)
    }

    /// The same for the batch norm that a running variance of this name belongs to.
    pub(crate) fn torch_offset_of(&self, variance: &str) -> f64 {
        let norms = self.convs().filter_map(|(_, conv)| conv.norm.as_ref());
        let own = |norm: &&layer::Norm| variance.strip_suffix(".running_var") == Some(&norm.name);
        let offset = norms
            .filter(own)
            .map(|norm| self.torch_variance_offset(norm.epsilon));
        offset.sum()
    }

    /// Channels that a block reads.
    pub(crate) fn inputs(&self, block: usize) -> usize {
        let first = self.blocks[block].layers.iter().flat_map(Layer::convs);
        first.map(|conv| conv.inputs).next().unwrap_or(3)
    }

    /// The smallest side in pixels that blocks from `first` on can take.
    pub(crate) fn smallest_side(&self, first: usize) -> usize {
        let channels = self.inputs(first);
        let layers = || self.blocks[first..].iter().flat_map(|block| &block.layers);
        (1..bounds::SIDE)
            .find(|side| layer::output(layers(), [channels, *side, *side]).is_some())
            .unwrap_or(bounds::SIDE)
    }

    /// Checks that it has blocks with convolutions, that no number is out of range, that each layer takes what the one
    /// before gives, and that names of blocks and convolutions are distinct.
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |found: String, allowed: &str| Err(Error::option("arch", found, allowed));
        let name = &self.name;
        if self.blocks.is_empty() {
            return wrong(format!("`{name}` without blocks"), "one block or more");
        }
        if self.convs().next().is_none() {
            return wrong(
                format!("`{name}` without convolutions"),
                "one convolution or more",
            );
        }
        for (_, conv) in self.convs() {
            let kernel = [conv.outputs, conv.inputs, conv.kernel, conv.kernel];
            bounds::product("arch", &kernel, bounds::DENSE, "weights in a convolution")?;
        }
        self.layers().try_for_each(Layer::check)?;
        let mut shape = [3, bounds::SIDE, bounds::SIDE];
        for block in &self.blocks {
            for layer in &block.layers {
                shape = match layer.output(shape) {
                    Some(shape) => shape,
                    None => {
                        let found = format!("`{name}`, whose block `{}` does not fit", block.name);
                        let allowed = format!("layers that take {} channels there", shape[0]);
                        return wrong(found, &allowed);
                    }
                };
            }
        }
        let convs = self.convs().map(|(_, conv)| conv.name.as_str());
        for mut names in [self.block_names(), convs.collect()] {
            names.sort_unstable();
            if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
                return wrong(format!("`{name}` with two `{}`", pair[0]), "distinct names");
            }
        }
        Ok(())
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let all = Self::all();
        if let Some(arch) = all.iter().find(|arch| arch.name == name) {
            return Ok(arch.clone());
        }
        if let Ok(vgg) = name.parse::<Vgg>() {
            return Ok(vgg.into());
        }
        let names: Vec<_> = all.iter().map(Self::name).collect();
        let allowed = format!(
            "{}; a VGG at another width, as in vgg19-0.25",
            names.join(", ")
        );
        Err(Error::option("base", format!("`{name}`"), allowed))
    }
}

/// A base of [`bases`].
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[non_exhaustive]
pub struct BaseInfo {
    /// Its name, which [`Arch`] parses.
    pub name: String,
    /// How many numbers training may change.
    pub parameters: usize,
    /// Height and width in pixels of the pictures its weights were trained on.
    pub size: usize,
    /// Multiplications for one picture of that size.
    pub multiplications: usize,
    /// The repository of its weights on the hub.
    pub hub_id: String,
    /// How well they do on ImageNet; none where we know of no figure to rely on.
    pub top1: Option<Top1>,
    /// Their licence, by its SPDX name.
    pub licence: &'static str,
}

/// The bases there are, family by family.
///
/// ```
/// let lite = headstart::bases().into_iter().find(|base| base.name == "tf_efficientnet_lite0").unwrap();
/// assert_eq!((lite.parameters, lite.multiplications), (3_371_008, 383_907_552));
/// assert_eq!((lite.hub_id.as_str(), lite.licence), ("timm/tf_efficientnet_lite0.in1k", "Apache-2.0"));
/// ```
pub fn bases() -> Vec<BaseInfo> {
    let info = |arch: Arch| {
        let weights = arch.pretrained?;
        Some(BaseInfo {
            name: arch.name.clone(),
            parameters: arch.parameters(),
            size: weights.size,
            multiplications: arch.multiplications([3, weights.size, weights.size])?,
            hub_id: weights.repository(),
            top1: weights.top1,
            licence: weights.licence,
        })
    };
    Arch::all().into_iter().filter_map(info).collect()
}
