//! Whether a picture is like those a classifier was trained on.

use candle_core::{Device, Tensor};

use crate::error::{Error, Result};
use crate::finite;

/// Tells pictures like those of the training from others.
///
/// The score is (E − ln K)/‖x̃‖², where E = ln Σ exp(zₖ − z̄) is the energy of K logits (Liu et al. 2020, "Energy-based
/// Out-of-distribution Detection") without their mean, ln K what it is of equal logits, and x̃ the features, standardised by
/// the training pictures: how much of what is special about a picture speaks for a class. Scores are given as multiples of
/// a threshold, which a stated share of held-out pictures reaches.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Familiarity {
    /// Of each feature its mean, and the inverse of its deviation, 0 for a constant one.
    means: Vec<f32>,
    scales: Vec<f32>,
    threshold: f32,
}

/// The names of the tensors, in their order.
pub(crate) const TENSORS: [&str; 2] = ["means", "scales"];

impl Familiarity {
    /// # Errors
    /// [`Error::Shape`] for parts that do not fit each other; [`Error::NotFinite`]; [`Error::InvalidOption`] for a
    /// threshold that is not above 0.
    pub(crate) fn new(means: Vec<f32>, scales: Vec<f32>, threshold: f32) -> Result<Self> {
        if means.is_empty() || scales.len() != means.len() {
            return Err(Error::Shape {
                what: "what is familiar".into(),
                expected: "(D) and (D)".into(),
                found: vec![means.len(), scales.len()],
            });
        }
        for numbers in [&means, &scales] {
            if let Some(value) = finite::first_not(numbers) {
                let what = "what is familiar".into();
                return Err(Error::NotFinite { what, value });
            }
        }
        if !(threshold.is_finite() && threshold > 0.0) {
            return Err(Error::option("threshold", threshold, "finite and above 0"));
        }
        Ok(Self {
            means,
            scales,
            threshold,
        })
    }

    pub(crate) fn threshold(&self) -> f32 {
        self.threshold
    }

    /// How familiar a picture is by its features and its logits, one or K: 1 at the threshold, more above.
    pub(crate) fn score(&self, features: &[f32], logits: &[f32]) -> f32 {
        let both = features.iter().zip(self.means.iter().zip(&self.scales));
        let square = |(x, (mean, scale)): (&f32, (&f32, &f32))| {
            ((f64::from(*x) - f64::from(*mean)) * f64::from(*scale)).powi(2)
        };
        let squares = both.map(square);
        let length = squares.sum::<f64>().max(f64::MIN_POSITIVE);
        let score = energy(logits) / length / f64::from(self.threshold);
        // The mean picture itself.
        score.min(f64::from(f32::MAX)) as f32
    }

    pub(crate) fn tensors(&self) -> Result<[Tensor; 2]> {
        let (width, device) = (self.means.len(), &Device::Cpu);
        Ok([
            Tensor::from_slice(&self.means, width, device)?,
            Tensor::from_slice(&self.scales, width, device)?,
        ])
    }
}

/// ln Σ exp(zₖ − z̄) − ln K, at least 0. One logit is the difference of two, which are then ±z/2.
fn energy(logits: &[f32]) -> f64 {
    let logits: Vec<f64> = match logits {
        [z] => vec![-f64::from(*z) / 2.0, f64::from(*z) / 2.0],
        more => more.iter().map(|z| f64::from(*z)).collect(),
    };
    let k = logits.len() as f64;
    let mean = logits.iter().sum::<f64>() / k;
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|z| (z - largest).exp()).sum();
    largest - mean + (sum / k).ln()
}
