//! The convolutional base: a table with tensors, whose blocks are frozen or trainable.

mod backbone;
mod conv;
mod forward;
mod network;
mod save;

use std::sync::Arc;

use candle_core::{Device, Tensor};

use self::conv::ConvLayer;
use super::arch::{Arch, Vgg};
use super::backbone::{Backbone, Mode, block_position};
use super::summary::Summary;
use super::weights::{ConvTensors, Weights};
use crate::data::Preprocess;
use crate::error::{Error, Result};
use crate::kernels::PackedWeights;

/// A convolutional base without its top, with a freeze flag for each of its blocks.
///
/// Images (N, 3, H, W) become features (N, C, h, w): [`bases`](crate::bases) lists what there is. Every block starts
/// trainable.
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use headstart::{ConvBase, Weights};
///
/// let device = Device::Cpu;
/// let base = ConvBase::resnet18(Weights::Random { seed: 1 }, &device)?.frozen().unfreeze("layer4")?;
/// assert!(base.is_trainable("layer4") && !base.is_trainable("layer3"));
///
/// let images = Tensor::zeros((1, 3, 64, 48), DType::F32, &device)?;
/// assert_eq!(base.forward(&images)?.dims(), [1, 512, 2, 2]);
/// # Ok::<(), headstart::Error>(())
/// ```
///
/// VGG's blocks also have names that the compiler knows:
///
/// ```
/// use candle_core::Device;
/// use headstart::{Block, ConvBase, Weights};
///
/// let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &Device::Cpu)?.frozen().unfreeze(Block::Conv5)?;
/// assert!(base.is_trainable("block5"));
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConvBase {
    arch: Arc<Arch>,
    preprocess: Preprocess,
    /// In the order they run.
    convs: Vec<ConvLayer>,
    /// The frozen weights as the CPU kernels want them.
    packed: Arc<PackedWeights>,
}

/// The constructors of one family.
macro_rules! constructors {
    ($($name:ident, $arch:literal, $what:literal;)*) => {
        impl ConvBase {
            $(
                #[doc = concat!($what, ": see [`ConvBase::new`].")]
                ///
                /// # Errors
                /// What [`Weights`] says of its source.
                pub fn $name(weights: Weights, device: &Device) -> Result<Self> {
                    Self::new($arch.parse::<Arch>()?, weights, device)
                }
            )*
        }
    };
}

constructors! {
    vgg11, "vgg11", "VGG11";
    vgg13, "vgg13", "VGG13";
    vgg16, "vgg16", "VGG16";
    vgg19, "vgg19", "VGG19";
    resnet18, "resnet18", "ResNet-18";
    resnet34, "resnet34", "ResNet-34";
    resnet50, "resnet50", "ResNet-50";
    resnet101, "resnet101", "ResNet-101";
    repvgg_a0, "repvgg_a0", "RepVGG-A0, fused";
    repvgg_a1, "repvgg_a1", "RepVGG-A1, fused";
    repvgg_a2, "repvgg_a2", "RepVGG-A2, fused";
    repvgg_b0, "repvgg_b0", "RepVGG-B0, fused";
    efficientnet_b0, "efficientnet_b0", "EfficientNet-B0";
    efficientnet_b1, "efficientnet_b1", "EfficientNet-B1";
    efficientnet_b2, "efficientnet_b2", "EfficientNet-B2";
    efficientnet_lite0, "tf_efficientnet_lite0", "EfficientNet-Lite0, with TensorFlow's padding";
    efficientnet_lite1, "tf_efficientnet_lite1", "EfficientNet-Lite1, with TensorFlow's padding";
    efficientnet_lite2, "tf_efficientnet_lite2", "EfficientNet-Lite2, with TensorFlow's padding";
    mobilenet_v2, "mobilenetv2_100", "MobileNetV2";
    mobilenet_v3_large, "mobilenetv3_large_100", "MobileNetV3-Large";
    mobilenet_v3_small, "mobilenetv3_small_100", "MobileNetV3-Small";
}

impl ConvBase {
    /// A base of a table: an [`Arch`] by its name, a [`Vgg`], or a table of your own.
    ///
    /// ```
    /// use candle_core::Device;
    /// use headstart::model::Arch;
    /// use headstart::{ConvBase, Weights};
    ///
    /// let base = ConvBase::new("repvgg_a0".parse::<Arch>()?, Weights::Random { seed: 1 }, &Device::Cpu)?;
    /// assert_eq!(base.arch().name(), "repvgg_a0");
    /// # Ok::<(), headstart::Error>(())
    /// ```
    ///
    /// # Errors
    /// What [`Weights`] says of its source; [`Error::InvalidOption`] for a table that does not fit together.
    pub fn new(arch: impl Into<Arch>, weights: Weights, device: &Device) -> Result<Self> {
        let arch = weights.architecture(arch.into())?;
        arch.check()?;
        let (tensors, preprocess) = weights.load(&arch, device)?;
        let mut base = Self::from_tensors(arch, tensors, preprocess);
        base.set_all(true)?;
        Ok(base)
    }

    /// The compact base, which travels with the crate: see [`Weights::Compact`].
    ///
    /// # Errors
    /// [`Error::InvalidOption`] without the cargo feature `compact`.
    pub fn compact(device: &Device) -> Result<Self> {
        Self::new(Vgg::Vgg19, Weights::Compact, device)
    }

    /// A frozen base from its tensors, in the table's order.
    pub(crate) fn from_tensors(
        arch: Arch,
        tensors: Vec<ConvTensors>,
        preprocess: Preprocess,
    ) -> Self {
        let convs = arch.convs().zip(tensors);
        let convs = convs.map(|((block, conv), tensors)| ConvLayer::new(block, conv, tensors));
        Self {
            convs: convs.collect(),
            arch: Arc::new(arch),
            preprocess,
            packed: Arc::default(),
        }
    }

    /// Freezes every block: training leaves them bit for bit as they are.
    pub fn frozen(mut self) -> Self {
        self.set_all(false).expect("freezing allocates nothing");
        self
    }

    /// Makes one block trainable, by its name or as a [`Block`](crate::Block), and leaves the others as they are.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a block it does not have; [`Error::Candle`] if allocation fails.
    pub fn unfreeze(mut self, block: impl AsRef<str>) -> Result<Self> {
        self.set_block(block, true)?;
        Ok(self)
    }

    /// Makes a block and all after it trainable and leaves those before as they are.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a block it does not have; [`Error::Candle`] if allocation fails.
    pub fn unfreeze_from(mut self, first: impl AsRef<str>) -> Result<Self> {
        let first = block_position(&self, first.as_ref())?;
        for block in first..self.arch.blocks().len() {
            self.set_trainable(block, true)?;
        }
        Ok(self)
    }

    /// Sets one block's flag.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a block it does not have; [`Error::Candle`] if allocation fails.
    pub fn set_block(&mut self, block: impl AsRef<str>, trainable: bool) -> Result<()> {
        let block = block_position(self, block.as_ref())?;
        self.set_trainable(block, trainable)
    }

    /// Whether training may change a block; no for a block it does not have.
    pub fn is_trainable(&self, block: impl AsRef<str>) -> bool {
        let blocks = self.blocks().into_iter();
        let named = blocks.filter(|own| own.name == block.as_ref());
        named.map(|block| block.trainable).next().unwrap_or(false)
    }

    fn set_all(&mut self, trainable: bool) -> Result<()> {
        (0..self.arch.blocks().len()).try_for_each(|block| self.set_trainable(block, trainable))
    }

    /// Overrides what pixels must look like for these weights.
    pub fn with_preprocess(mut self, preprocess: Preprocess) -> Self {
        self.preprocess = preprocess;
        self
    }

    /// The same base with other tensors in the place of those of the same names. They stay the caller's: their block
    /// counts as frozen, but a tensor that tracks a graph, such as a variable or what was computed from some, passes
    /// its gradient on. So weights can be trained through a function of them, such as a normalisation.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a name it does not have, [`Error::Shape`] for a tensor of another shape.
    pub fn with_parameters(
        mut self,
        parameters: impl IntoIterator<Item = (impl AsRef<str>, Tensor)>,
    ) -> Result<Self> {
        let shapes = self.tensors();
        for (name, tensor) in parameters {
            let name = name.as_ref();
            let own = shapes.iter().find(|(own, _)| own == name);
            if let Some((_, own)) = own
                && own.dims() != tensor.dims()
            {
                return Err(Error::Shape {
                    what: name.to_owned(),
                    expected: format!("{:?}", own.dims()),
                    found: tensor.dims().to_vec(),
                });
            }
            if !self
                .convs
                .iter_mut()
                .any(|conv| conv.replace(name, &tensor))
            {
                let allowed = "a parameter of the base that training may change";
                return Err(Error::option("parameters", format!("`{name}`"), allowed));
            }
        }
        self.packed = Arc::default();
        Ok(self)
    }

    /// The table it runs.
    pub fn arch(&self) -> &Arch {
        &self.arch
    }

    /// The table of layers for pictures of `height` × `width` pixels, with totals.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a size it cannot take.
    pub fn summary(&self, height: usize, width: usize) -> Result<Summary> {
        Ok(Summary::new(
            self.architecture(),
            self.layers(height, width)?,
        ))
    }

    /// The features of preprocessed images: (N, 3, H, W) → (N, C, h, w). Trainable blocks record a graph.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another shape, or too small.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.forward_through(images, self.arch.blocks().len())
    }

    /// The output of one block, given by its name or as a [`Block`](crate::Block), for preprocessed images (N, 3, H,
    /// W). Trainable blocks record a graph.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another shape, or too small; [`Error::InvalidOption`] for a block it does not
    /// have.
    pub fn forward_to(&self, images: &Tensor, block: impl AsRef<str>) -> Result<Tensor> {
        let last = block_position(self, block.as_ref())?;
        self.forward_through(images, last + 1)
    }

    fn forward_through(&self, images: &Tensor, blocks: usize) -> Result<Tensor> {
        let mut used = self.convs.iter().take_while(|conv| conv.block < blocks);
        let mode = if used.any(ConvLayer::tracks) {
            Mode::Train
        } else {
            Mode::Infer
        };
        self.forward_blocks(images, 0..blocks, mode)
    }
}
