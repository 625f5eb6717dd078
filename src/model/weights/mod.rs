//! Where a base's weights come from.

#[cfg(feature = "compact")]
mod compact;
mod file;
#[cfg(feature = "hub")]
mod hub;
mod random;

use std::path::PathBuf;

use candle_core::{Device, Tensor};

#[cfg(feature = "hub")]
pub use hub::Hub;

use super::vgg::{ConvLayer, Vgg};
use crate::{Preprocess, Result};

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
    /// torchvision's ImageNet-1k weights from the hub (`timm/vgg19.tv_in1k` and siblings, pinned revisions),
    /// with the settings of `Hub::from_env`. Fetched once, then read from the hub's cache. Pixels:
    /// [`Preprocess::Torch`]. Without the cargo feature `hub`, loading them is an error that says so.
    ImageNet,
    /// The same from a hub with settings of your own.
    #[cfg(feature = "hub")]
    Hub(Hub),
    /// VGG19 at a quarter of its width (1.25 million parameters), which comes with the crate (2.5 MB, f16; cargo
    /// feature `compact`, on by default). We trained it from nothing on the 50,000 pictures, 64×64, of half of Tiny
    /// ImageNet, to name their 200 classes and to say what an ImageNet VGG16 sees in them:
    /// `examples/pretrain/README.md` has the recipe. For [`Vgg::Vgg19`], whose width it sets. Pixels:
    /// [`Preprocess::Torch`].
    Compact,
    /// A safetensors file: see [`Weights::file`].
    File(PathBuf),
    /// Fresh weights: He normal (mean 0, variance 2 / fan-in; He et al. 2015, eq. 10), zero biases. Pixels:
    /// [`Preprocess::Unit`].
    Random {
        /// The seed: equal seeds give equal weights.
        seed: u64,
    },
}

impl Weights {
    /// A safetensors file with the base's convolutions, in f32, f16, bf16 or f64, finite in f32. Other tensors in
    /// the file are not read. The names and the layout are one of
    ///
    /// - torchvision's and timm's: `features.0.weight` (out, in, 3, 3), `features.0.bias` (out);
    /// - Keras's layers in the same layout: `block1_conv1.weight`, `block1_conv1.bias`;
    /// - Keras's variables by their paths: `block1_conv1/kernel` (3, 3, in, out), `block1_conv1/bias`;
    /// - those of a saved classifier: `base.block1_conv1.weight`, `base.block1_conv1.bias`.
    ///
    /// Pixels: what the file's metadata says under `preprocess` (unit, torch or caffe); else what a saved
    /// classifier says; else [`Preprocess::Torch`] for torchvision's names and [`Preprocess::Caffe`] for Keras's.
    /// A file that says nothing and is neither needs
    /// [`ConvBase::with_preprocess`](crate::ConvBase::with_preprocess).
    ///
    /// # Errors
    /// Loading gives [`Error::Io`](crate::Error::Io) for a file that cannot be read,
    /// [`Error::WeightFile`](crate::Error::WeightFile) for one that is damaged, and
    /// [`Error::MissingTensor`](crate::Error::MissingTensor) or [`Error::TensorShape`](crate::Error::TensorShape)
    /// for one that is of another base.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }

    /// The architecture these weights are for, when `vgg` is asked for: the compact base has a width of its own.
    pub(crate) fn architecture(&self, vgg: Vgg) -> Result<Vgg> {
        let compact = Vgg::Vgg19.width(0.25);
        match self {
            Self::Compact if vgg == Vgg::Vgg19 || vgg == compact => Ok(compact),
            Self::Compact => Err(crate::Error::option(
                "arch",
                vgg,
                "vgg19 with Weights::Compact",
            )),
            _ => Ok(vgg),
        }
    }

    /// The (weight, bias) of every layer in order, and the preprocess the weights expect.
    pub(crate) fn load(
        &self,
        vgg: Vgg,
        layers: &[ConvLayer],
        device: &Device,
    ) -> Result<(Vec<(Tensor, Tensor)>, Preprocess)> {
        match self {
            #[cfg(not(feature = "hub"))]
            Self::ImageNet => Err(crate::Error::Hub {
                repository: format!("timm/{vgg}.tv_in1k"),
                file: "model.safetensors".to_owned(),
                reason: "this build has no hub: enable headstart's cargo feature `hub`, or give a file to \
                         Weights::file"
                    .to_owned(),
            }),
            #[cfg(feature = "hub")]
            Self::ImageNet => Self::Hub(Hub::from_env()).load(vgg, layers, device),
            #[cfg(feature = "hub")]
            Self::Hub(hub) => {
                let (tensors, _) = file::load(&hub.conv_base(vgg, layers)?, layers, device)?;
                Ok((tensors, Preprocess::Torch))
            }
            #[cfg(feature = "compact")]
            Self::Compact => {
                let content = std::io::Cursor::new(compact::BASE);
                file::read(compact::NAME.as_ref(), content, layers, device)
            }
            #[cfg(not(feature = "compact"))]
            Self::Compact => Err(crate::Error::option(
                "weights",
                "compact",
                "another source: this build is without headstart's cargo feature `compact`",
            )),
            Self::File(path) => file::load(path, layers, device),
            Self::Random { seed } => {
                Ok((random::he_normal(layers, *seed, device)?, Preprocess::Unit))
            }
        }
    }
}
