//! Fresh weights.

use candle_core::{DType, Device, Tensor};
use rand::{Rng, RngExt};

use super::tensors::{ConvTensors, NormTensors};
use crate::error::Result;
use crate::model::arch::Arch;
use crate::model::arch::layer::Conv;
use crate::random::{self, Purpose};

/// He-normal weights, zero biases, and batch norms that change nothing; each convolution has a stream of its own.
pub(super) fn he_normal(arch: &Arch, seed: u64, device: &Device) -> Result<Vec<ConvTensors>> {
    let convs = arch.convs().enumerate();
    convs
        .map(|(index, (_, conv))| fresh(conv, seed, index, device))
        .collect()
}

fn fresh(conv: &Conv, seed: u64, index: usize, device: &Device) -> Result<ConvTensors> {
    let mut rng = random::stream(seed, Purpose::Init, 0, index as u64);
    let shape = conv.weight_shape();
    let [_, fan_in @ ..] = shape;
    let deviation = (2.0 / fan_in.iter().product::<usize>() as f64).sqrt();
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_| (deviation * standard_normal(&mut rng)) as f32)
        .collect();
    let zeros = || Tensor::zeros(conv.outputs, DType::F32, device);
    let ones = || Tensor::ones(conv.outputs, DType::F32, device);
    Ok(ConvTensors {
        weight: Tensor::from_vec(values, &shape, device)?,
        bias: if conv.bias { Some(zeros()?) } else { None },
        norm: match conv.norm {
            Some(_) => Some(NormTensors {
                weight: ones()?,
                bias: zeros()?,
                mean: zeros()?,
                variance: ones()?,
            }),
            None => None,
        },
    })
}

/// One standard normal number (Box & Muller 1958).
fn standard_normal(rng: &mut impl Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()
}
