//! Where a base's weights come from.

mod branches;
#[cfg(feature = "compact")]
mod compact;
mod file;
mod foreign;
#[cfg(feature = "hub")]
mod hub;
mod naming;
mod random;
mod tensors;
mod torch_file;

use std::path::PathBuf;

use candle_core::Device;

#[cfg(feature = "hub")]
pub use hub::Hub;

pub(crate) use file::WeightFile;
pub(crate) use tensors::{ConvTensors, NormTensors, check_values};

use naming::Naming;

use super::arch::{Arch, Vgg};
use crate::data::Preprocess;
use crate::error::{Error, Result};

/// The width of the compact VGG19.
const COMPACT_WIDTH: f64 = 0.25;

/// Where a base's weights come from. Each source says what pixels must look like for it
/// ([`Preprocess`]); [`ConvBase::with_preprocess`](crate::ConvBase::with_preprocess) overrides it.
///
/// ```
/// use candle_core::Device;
/// use headstart::{ConvBase, Weights};
///
/// let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &Device::Cpu)?;
/// let missing = ConvBase::vgg11(Weights::file("no/such/file.safetensors"), &Device::Cpu);
/// assert!(missing.unwrap_err().to_string().contains("no/such/file.safetensors"));
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Weights {
    /// ImageNet-1k weights from the hub, under the id that [`bases`](crate::bases) lists (`timm/resnet50.a1_in1k`,
    /// `timm/vgg19.tv_in1k`, …), with the settings of `Hub::from_env`. Fetched once, only the tensors that the base
    /// has, then read from the hub's cache. Pixels: what the id says. Without the cargo feature `hub`, loading them is
    /// an error that says so.
    ImageNet,
    /// The same from a hub with settings of your own.
    #[cfg(feature = "hub")]
    #[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
    Hub(Hub),
    /// VGG19 at a quarter of its width (1.25 million parameters), which comes with the crate (2.5 MB, f16; cargo
    /// feature `compact`, on by default). We trained it from nothing on the 50,000 pictures, 64×64, of half of Tiny
    /// ImageNet, to name their 200 classes and to say what an ImageNet VGG16 sees in them:
    /// `examples/pretrain/README.md` has the recipe. For [`Vgg::Vgg19`](crate::model::Vgg::Vgg19), whose width it
    /// sets. Pixels: [`Preprocess::Torch`].
    Compact,
    /// A safetensors file or PyTorch's: see [`Weights::file`].
    File(PathBuf),
    /// Fresh weights: He normal (mean 0, variance 2 / fan-in; He et al. 2015, eq. 10), zero biases. Pixels:
    /// [`Preprocess::Unit`].
    Random {
        /// The seed: equal seeds give equal weights.
        seed: u64,
    },
}

/// What each tensor of a base is called in PyTorch's files, in the order of files: torchvision's names, or timm's. None
/// where torchvision has no such network.
pub(crate) fn torch_names(arch: &Arch, torchvision: bool) -> Option<Vec<(String, String)>> {
    let last = arch.torch_top().and_then(|top| top.layers.last());
    if torchvision {
        last?.torchvision?;
    }
    // timm took VGG's names from torchvision, and ResNets have one name in both.
    let (_, first) = arch.convs().next()?;
    let others = first.torch_name.is_some() && (torchvision || arch.has_keras_names());
    let naming = if others {
        Naming::Torchvision
    } else {
        Naming::Table
    };
    Some(naming.renamed(arch))
}

impl Weights {
    /// A safetensors file, or PyTorch's zip archive (`.pth`, `.pt`, `.bin`, by `torch.save` of a `state_dict`; nothing
    /// in it is run), with the base's tensors, in f32, f16, bf16 or f64, finite in f32. Other tensors in the file, such
    /// as a classifier's, are not read. The names and the layout are one of
    ///
    /// - timm's: `layer1.0.conv1.weight` (out, in, kernel, kernel), `layer1.0.bn1.running_mean` (out);
    /// - torchvision's, where they differ: `features.0.weight`;
    /// - for RepVGG its branches, which are added up: `stages.0.0.conv_kxk.conv.weight`; or fused, timm's
    ///   `stages.0.0.reparam_conv.weight`;
    /// - for VGG Keras's layers in the same layout: `block1_conv1.weight`, `block1_conv1.bias`; or Keras's variables by
    ///   their paths: `block1_conv1/kernel` (kernel, kernel, in, out), `block1_conv1/bias`;
    /// - those of a saved classifier: `base.layer1.0.conv1.weight`.
    ///
    /// Pixels: what the file's metadata says under `preprocess` (unit, torch, caffe or half); else what a saved
    /// classifier says; else [`Preprocess::Torch`] for torchvision's names, [`Preprocess::Caffe`] for Keras's, and what
    /// the hub's weights of the base want for timm's. For a file that says nothing and is neither there is
    /// [`ConvBase::with_preprocess`](crate::ConvBase::with_preprocess).
    ///
    /// # Errors
    /// Loading gives [`Error::Io`](crate::Error::Io) for a file that cannot be read,
    /// [`Error::WeightFile`](crate::Error::WeightFile) for one that is damaged or has a negative variance, and
    /// [`Error::MissingTensor`](crate::Error::MissingTensor) or [`Error::TensorShape`](crate::Error::TensorShape)
    /// for one that is of another base.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }

    /// The architecture these weights are for, when `arch` is asked for: the compact base has a width of its own.
    pub(crate) fn architecture(&self, arch: Arch) -> Result<Arch> {
        if *self != Self::Compact {
            return Ok(arch);
        }
        let compact = Arch::from(Vgg::Vgg19.width(COMPACT_WIDTH)?);
        if arch == compact || arch == Arch::from(Vgg::Vgg19) {
            return Ok(compact);
        }
        let allowed = "vgg19 with Weights::Compact";
        Err(Error::option("base", format!("`{arch}`"), allowed))
    }

    /// The tensors of every convolution in the table's order, and what pixels must look like for them.
    pub(crate) fn load(
        &self,
        arch: &Arch,
        device: &Device,
    ) -> Result<(Vec<ConvTensors>, Preprocess)> {
        match self {
            #[cfg(not(feature = "hub"))]
            Self::ImageNet => Err(Error::Hub {
                repository: arch.weights().map_or_else(|| arch.to_string(), |weights| weights.repository()),
                file: "model.safetensors".to_owned(),
                source: "this build has no hub: enable headstart's cargo feature `hub`, or give a file to \
                         Weights::file"
                    .into(),
            }),
            #[cfg(feature = "hub")]
            Self::ImageNet => Self::Hub(Hub::from_env()).load(arch, device),
            #[cfg(feature = "hub")]
            Self::Hub(hub) => {
                let (tensors, preprocess) =
                    hub.load(arch, |path| file::load(path, arch, device))?;
                // The repository is known: what it says beats what names suggest.
                Ok((tensors, arch.weights().map_or(preprocess, |weights| weights.preprocess)))
            }
            #[cfg(feature = "compact")]
            Self::Compact => {
                let content = std::io::Cursor::new(compact::BASE);
                file::read(compact::NAME.as_ref(), content, arch, device)
            }
            #[cfg(not(feature = "compact"))]
            Self::Compact => Err(Error::option(
                "weights",
                "compact",
                "another source: this build is without headstart's cargo feature `compact`",
            )),
            Self::File(path) => file::load(path, arch, device),
            Self::Random { seed } => {
                Ok((random::he_normal(arch, *seed, device)?, Preprocess::Unit))
            }
        }
    }
}
