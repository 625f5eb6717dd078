//! Fresh parameters of a head, as Keras makes them.

use candle_core::{DType, Device, Tensor};
use rand::RngExt;

use super::config::Head;
use super::layers::HeadLayers;
use crate::Result;
use crate::random::{self, Purpose};

impl Head {
    /// Makes the layers for features (C, h, w), with fresh parameters as Keras makes them: weights uniform in
    /// ±√(6 / (inputs + outputs)) (Glorot & Bengio 2010, eq. 16), zero biases.
    ///
    /// # Errors
    /// What [`check`](Self::check) says.
    pub fn build(&self, features: [usize; 3], device: &Device) -> Result<HeadLayers> {
        let mut index = 0;
        HeadLayers::from_parameters(self.clone(), features, |_, shape| {
            index += 1;
            match *shape {
                [outputs, inputs] => glorot_uniform(outputs, inputs, self.seed, index, device),
                _ => Ok(Tensor::zeros(shape, DType::F32, device)?),
            }
        })
    }
}

impl HeadLayers {
    /// Whether its parameters are still those it was made with.
    pub(crate) fn is_fresh(&self) -> Result<bool> {
        let made = self
            .config()
            .build(self.features(), &Device::Cpu)?
            .tensors();
        let bits = |tensor: &Tensor| -> Result<Vec<u32>> {
            let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            Ok(values.into_iter().map(f32::to_bits).collect())
        };
        for ((_, own), (_, made)) in self.tensors().iter().zip(&made) {
            if bits(own)? != bits(made)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn glorot_uniform(
    outputs: usize,
    inputs: usize,
    seed: u64,
    index: u64,
    device: &Device,
) -> Result<Tensor> {
    let limit = (6.0 / (inputs + outputs) as f64).sqrt();
    let mut rng = random::stream(seed, Purpose::Init, 1, index);
    let values: Vec<f32> = (0..inputs * outputs)
        .map(|_| (limit * (2.0 * rng.random::<f64>() - 1.0)) as f32)
        .collect();
    Ok(Tensor::from_vec(values, (outputs, inputs), device)?)
}
