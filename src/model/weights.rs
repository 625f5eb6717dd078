//! Where a base's weights come from.

use candle_core::{Device, Tensor};
use rand::{Rng, RngExt};

use super::vgg::{ConvLayer, Vgg};
use crate::random::{self, Purpose};
use crate::{Preprocess, Result};

/// Where a base's weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Weights {
    /// Fresh weights: He normal (mean 0, variance 2 / fan-in; He et al. 2015, eq. 10), zero biases.
    Random {
        /// The seed: equal seeds give equal weights.
        seed: u64,
    },
}

impl Weights {
    /// The (weight, bias) of every layer in order, and the preprocess the weights expect.
    pub(crate) fn load(
        &self,
        _vgg: Vgg,
        layers: &[ConvLayer],
        device: &Device,
    ) -> Result<(Vec<(Tensor, Tensor)>, Preprocess)> {
        match self {
            Self::Random { seed } => {
                let tensors = layers
                    .iter()
                    .enumerate()
                    .map(|(index, layer)| he_normal(layer, *seed, index, device))
                    .collect::<Result<_>>()?;
                Ok((tensors, Preprocess::Unit))
            }
        }
    }
}

fn he_normal(
    layer: &ConvLayer,
    seed: u64,
    index: usize,
    device: &Device,
) -> Result<(Tensor, Tensor)> {
    let mut rng = random::stream(seed, Purpose::Init, 0, index as u64);
    let std = (2.0 / (layer.in_channels * 9) as f64).sqrt();
    let count = layer.out_channels * layer.in_channels * 9;
    let values: Vec<f32> = (0..count)
        .map(|_| (std * standard_normal(&mut rng)) as f32)
        .collect();
    let weight = Tensor::from_vec(
        values,
        (layer.out_channels, layer.in_channels, 3, 3),
        device,
    )?;
    let bias = Tensor::zeros(layer.out_channels, candle_core::DType::F32, device)?;
    Ok((weight, bias))
}

/// One standard normal number (Box & Muller 1958).
fn standard_normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}
