//! Fresh weights.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, RngExt};

use crate::Result;
use crate::model::vgg::ConvLayer;
use crate::random::{self, Purpose};

/// He-normal weights and zero biases for every layer; each layer has a stream of its own.
pub(super) fn he_normal(
    layers: &[ConvLayer],
    seed: u64,
    device: &Device,
) -> Result<Vec<(Tensor, Tensor)>> {
    let make = |(index, layer): (usize, &ConvLayer)| {
        let mut rng = random::stream(seed, Purpose::Init, 0, index as u64);
        let deviation = (2.0 / (layer.in_channels * 9) as f64).sqrt();
        let shape = (layer.out_channels, layer.in_channels, 3, 3);
        let values: Vec<f32> = (0..layer.out_channels * layer.in_channels * 9)
            .map(|_| (deviation * standard_normal(&mut rng)) as f32)
            .collect();
        let weight = Tensor::from_vec(values, shape, device)?;
        let bias = Tensor::zeros(layer.out_channels, DType::F32, device)?;
        Ok((weight, bias))
    };
    layers.iter().enumerate().map(make).collect()
}

/// One standard normal number (Box & Muller 1958).
fn standard_normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}
