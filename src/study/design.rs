//! Features as a linear model reads them: standardised, and in no more dimensions than there are pictures.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::features::Features;
use super::product::dot;
use crate::error::Result;

/// Columns that are multiplied together, so that few are in f64 at a time.
const COLUMNS: usize = 4096;

/// A deviation below this share of a feature's largest magnitude is rounding: the feature counts as constant.
const CONSTANT: f64 = 1e-6;

/// What is left of a picture's squared length, as a share of the longest, when the others explain it.
const DEPENDENT: f64 = 1e-10;

/// Each feature's mean and deviation (of the population, as scikit-learn's `StandardScaler` has it).
pub(super) struct Scaling {
    pub(super) means: Vec<f64>,
    /// Zero for a constant feature.
    deviations: Vec<f64>,
}

impl Scaling {
    pub(super) fn of(features: &Features) -> Self {
        let (n, width) = (features.len() as f64, features.width());
        let mut means = vec![0.0; width];
        let mut largest = vec![0f64; width];
        for row in features.rows().chunks_exact(width) {
            for ((mean, largest), x) in means.iter_mut().zip(&mut largest).zip(row) {
                *mean += f64::from(*x) / n;
                *largest = largest.max(f64::from(x.abs()));
            }
        }
        let mut deviations = vec![0.0; width];
        for row in features.rows().chunks_exact(width) {
            for ((deviation, mean), x) in deviations.iter_mut().zip(&means).zip(row) {
                *deviation += (f64::from(*x) - mean).powi(2) / n;
            }
        }
        for (deviation, largest) in deviations.iter_mut().zip(largest) {
            *deviation = deviation.sqrt();
            if *deviation <= CONSTANT * largest {
                *deviation = 0.0;
            }
        }
        Self { means, deviations }
    }

    /// Whether no feature differs from picture to picture.
    pub(super) fn is_constant(&self) -> bool {
        self.deviations.iter().all(|deviation| *deviation == 0.0)
    }

    /// A number per feature divided by its deviation; zero where that is zero.
    pub(super) fn scaled(&self, numbers: &[f64]) -> Vec<f64> {
        let both = numbers.iter().zip(&self.deviations);
        both.map(|(number, deviation)| match *deviation {
            0.0 => 0.0,
            deviation => number / deviation,
        })
        .collect()
    }

    /// The inverse of each feature's deviation, 0 for a constant one.
    pub(super) fn inverse_deviations(&self) -> Vec<f64> {
        self.scaled(&vec![1.0; self.means.len()])
    }

    /// Standardised features of some columns, (N, columns).
    fn columns(&self, features: &Features, from: usize, to: usize) -> Result<Tensor> {
        let mut numbers = Vec::with_capacity(features.len() * (to - from));
        let (means, deviations) = (&self.means[from..to], &self.deviations[from..to]);
        for row in features.rows().chunks_exact(features.width()) {
            for ((x, mean), deviation) in row[from..to].iter().zip(means).zip(deviations) {
                numbers.push(match *deviation {
                    0.0 => 0.0,
                    deviation => (f64::from(*x) - mean) / deviation,
                });
            }
        }
        let shape = (features.len(), to - from);
        Ok(Tensor::from_vec(numbers, shape, &Device::Cpu)?)
    }
}

/// Standardised features X̃ (N, D) as Z (N, R), with Z Zᵀ = X̃ X̃ᵀ.
///
/// The penalty ‖W‖² does not see a rotation, and the optimum lies in the span of the pictures: N pictures need N
/// dimensions, however many features there are. Then Z = L of the Gram matrix's pivoted Cholesky factorisation
/// (Higham 2002, "Accuracy and Stability of Numerical Algorithms", algorithm 10.2); else Z = X̃.
pub(super) struct Design {
    pub(super) scaling: Scaling,
    /// (N, R), f64.
    pub(super) z: Tensor,
    factor: Option<Factor>,
}

impl Design {
    pub(super) fn of(features: &Features) -> Result<Self> {
        let scaling = Scaling::of(features);
        if features.width() <= features.len() {
            let z = scaling.columns(features, 0, features.width())?;
            return Ok(Self {
                scaling,
                z,
                factor: None,
            });
        }
        let n = features.len();
        let mut gram = Tensor::zeros((n, n), DType::F64, &Device::Cpu)?;
        for from in (0..features.width()).step_by(COLUMNS) {
            let to = (from + COLUMNS).min(features.width());
            let columns = scaling.columns(features, from, to)?;
            gram = (gram + columns.matmul(&columns.t()?)?)?;
        }
        let factor = Factor::of(gram.to_vec2()?);
        let rank = factor.pivots.len();
        let z: Vec<f64> = factor
            .rows
            .iter()
            .flat_map(|row| row[..rank].to_vec())
            .collect();
        let z = Tensor::from_vec(z, (n, rank), &Device::Cpu)?;
        Ok(Self {
            scaling,
            z,
            factor: Some(factor),
        })
    }

    /// Weights on Z (R numbers) as weights on the standardised features (D numbers).
    pub(super) fn on_features(&self, features: &Features, weights: &[f64]) -> Result<Vec<f64>> {
        let Some(factor) = &self.factor else {
            return Ok(weights.to_vec());
        };
        let shares = factor.shares(weights);
        let shares = Tensor::from_vec(shares, (1, features.len()), &Device::Cpu)?;
        let mut all = Vec::with_capacity(features.width());
        for from in (0..features.width()).step_by(COLUMNS) {
            let to = (from + COLUMNS).min(features.width());
            let columns = self.scaling.columns(features, from, to)?;
            all.extend(shares.matmul(&columns)?.flatten_all()?.to_vec1::<f64>()?);
        }
        Ok(all)
    }
}

/// The factor L (N, R) of a matrix L Lᵀ.
struct Factor {
    rows: Vec<Vec<f64>>,
    /// The rows that were taken, in order: L is lower triangular on them.
    pivots: Vec<usize>,
}

impl Factor {
    fn of(gram: Vec<Vec<f64>>) -> Self {
        let n = gram.len();
        let mut left: Vec<f64> = (0..n).map(|i| gram[i][i]).collect();
        let largest = left.iter().copied().fold(0.0, f64::max);
        let mut rows = vec![Vec::with_capacity(n); n];
        let mut pivots: Vec<usize> = Vec::new();
        let mut is_taken = vec![false; n];
        while let Some(pivot) = (0..n).max_by(|a, b| left[*a].total_cmp(&left[*b]).then(b.cmp(a))) {
            if pivots.len() == n || left[pivot] <= DEPENDENT * largest {
                break;
            }
            let root = left[pivot].sqrt();
            let of_pivot: Vec<f64> = rows[pivot].clone();
            let pictures = rows.par_iter_mut().zip(&mut left).enumerate();
            pictures.for_each(|(i, (row, left))| {
                let entry = match i {
                    _ if i == pivot => root,
                    _ if is_taken[i] => 0.0,
                    _ => (gram[i][pivot] - dot(row, &of_pivot)) / root,
                };
                row.push(entry);
                *left -= entry * entry;
            });
            (left[pivot], is_taken[pivot]) = (0.0, true);
            pivots.push(pivot);
        }
        Self { rows, pivots }
    }

    /// How much of each picture the weights are: a with Lᵀ a = w, and zero but for the pivots.
    fn shares(&self, weights: &[f64]) -> Vec<f64> {
        let mut shares = vec![0.0; self.rows.len()];
        for (column, weight) in weights.iter().enumerate().rev() {
            let later = &self.pivots[column + 1..];
            let known: f64 = later
                .iter()
                .map(|i| self.rows[*i][column] * shares[*i])
                .sum();
            let pivot = self.pivots[column];
            shares[pivot] = (weight - known) / self.rows[pivot][column];
        }
        shares
    }
}
