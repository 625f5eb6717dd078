//! Which units a training step drops.

use candle_core::Tensor;
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
        let mut mask = Vec::with_capacity(rows * columns);
        for picture in self.pictures {
            // Each dropout layer of a head has a stream of its own.
            let seed = self.seed.wrapping_add((layer as u64) << 32);
            let mut rng = random::stream(seed, Purpose::Dropout, self.epoch, *picture);
            mask.extend((0..columns).map(|_| {
                if rng.random::<f64>() < probability {
                    0.0
                } else {
                    kept
                }
            }));
        }
        Ok(Tensor::from_vec(mask, (rows, columns), like.device())?.to_dtype(like.dtype())?)
    }
}
