//! Which units a training step drops.

use candle_core::{DType, Device, Tensor};
use rand::RngExt;

use crate::random::{self, Purpose};
use crate::{Error, Result};

/// What decides which units a training step drops: the seed, the epoch, and each picture's id. The batch a
/// picture lands in has no say.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// The run's seed.
    pub seed: u64,
    /// The epoch.
    pub epoch: u64,
    /// The id of each picture of the batch.
    pub pictures: &'a [u64],
}

impl Dropout<'_> {
    /// Zeros and 1 / (1 − p), one row per picture.
    pub(super) fn mask(&self, probability: f64, layer: usize, like: &Tensor) -> Result<Tensor> {
        let (rows, columns) = like.dims2()?;
        if self.pictures.len() != rows {
            return Err(Error::Shape {
                what: "dropout's picture ids".into(),
                expected: format!("({rows})"),
                found: vec![self.pictures.len()],
            });
        }
        let kept = (1.0 / (1.0 - probability)) as f32;
        let shape = (rows, columns);
        let mask = match like.device() {
            Device::Cpu => Tensor::from_vec(
                self.units(probability, layer, columns, kept),
                shape,
                &Device::Cpu,
            )?,
            device => {
                // The same streams, so the same units on every device; a byte each on the way there.
                let units = self.units(probability, layer, columns, 1u8);
                let units = Tensor::from_vec(units, shape, device)?;
                (units.to_dtype(DType::F32)? * f64::from(kept))?
            }
        };
        Ok(mask.to_dtype(like.dtype())?)
    }

    /// Zero for a unit that is dropped and `kept` for one that is not, picture by picture.
    fn units<T: Copy + Default>(
        &self,
        probability: f64,
        layer: usize,
        columns: usize,
        kept: T,
    ) -> Vec<T> {
        let mut units = Vec::with_capacity(self.pictures.len() * columns);
        for picture in self.pictures {
            // Each dropout layer of a head has a stream of its own.
            let seed = self.seed.wrapping_add((layer as u64) << 32);
            let mut rng = random::stream(seed, Purpose::Dropout, self.epoch, *picture);
            units.extend((0..columns).map(|_| {
                if rng.random::<f64>() < probability {
                    T::default()
                } else {
                    kept
                }
            }));
        }
        units
    }
}
