//! Logistic regression: the convex problem, and its optimum.

use std::cell::{Cell, RefCell};

use argmin::core::{CostFunction, Executor, Gradient, State, TerminationReason, TerminationStatus};
use argmin::solver::linesearch::MoreThuenteLineSearch;
use argmin::solver::quasinewton::LBFGS;
use candle_core::{Device, Tensor};

use crate::error::{Error, Result};

/// Pairs of steps that L-BFGS remembers.
const MEMORY: usize = 10;

/// The most steps of one problem, and the most points that are looked at: a line search may try without end where rounding
/// hides what it looks for.
const MAX_STEPS: u64 = 3000;
const MAX_POINTS: usize = 20_000;

/// A gradient this small is rounding.
const SMALLEST: f64 = 1e-9;

/// Weights and biases, their cost, and its gradient.
type Point = (Vec<f64>, f64, Vec<f64>);

/// Labelled rows, and how much each counts.
pub(super) struct Problem {
    /// (N, R), f64.
    z: Tensor,
    labels: Vec<usize>,
    weights: Vec<f64>,
    /// 1 for two classes, K for K.
    outputs: usize,
    /// λ of λ/2·‖W‖² beside the mean loss.
    lambda: f64,
    /// The last point that was asked for, with its cost and gradient: the line search asks for both, one by one.
    last: RefCell<Option<Point>>,
    /// How many points were looked at.
    points: Cell<usize>,
}

/// Weights (outputs, R) and biases of an optimum.
#[derive(Clone)]
pub(super) struct Solution {
    /// Rows of R weights, one after the other, then one bias for each.
    pub(super) point: Vec<f64>,
    pub(super) steps: u64,
    /// The norm of what is left of the gradient.
    pub(super) gradient: f64,
}

impl Problem {
    /// Of `classes` classes; `inverse_strength` is scikit-learn's C. Minimised is
    /// 1/S·Σ sᵢ·ℓᵢ(W, b) + λ/2·‖W‖² with S = Σ sᵢ and λ = 1/(C·S), which has scikit-learn's optimum: ℓ is the
    /// cross-entropy of one sigmoid unit for two classes, of a softmax for more; biases are free.
    pub(super) fn new(
        z: Tensor,
        labels: Vec<usize>,
        weights: Vec<f64>,
        classes: usize,
        inverse_strength: f64,
    ) -> Self {
        let total: f64 = weights.iter().sum();
        Self {
            z,
            labels,
            weights,
            outputs: if classes == 2 { 1 } else { classes },
            lambda: 1.0 / (inverse_strength * total),
            last: RefCell::new(None),
            points: Cell::new(0),
        }
    }

    fn width(&self) -> usize {
        self.z.dims()[1]
    }

    /// Where a search without a better idea begins.
    fn zero(&self) -> Vec<f64> {
        vec![0.0; self.outputs * (self.width() + 1)]
    }

    /// The optimum: the gradient's norm is at most `tolerance` times the smaller of λ and the gradient's norm at zero. The
    /// problem is λ-convex in W, so W is within `tolerance` of its optimum, and within that share of it where the penalty
    /// is strong. Where rounding ends the search before, a hundred times that is let pass.
    pub(super) fn solve(&self, from: Option<Vec<f64>>, tolerance: f64) -> Result<Solution> {
        let begin = from.unwrap_or_else(|| self.zero());
        let at_zero = norm(&self.value(&self.zero())?.1);
        let wanted = tolerance * at_zero.min(self.lambda).max(SMALLEST);
        let failed = |reason: String| {
            let what = "the fit of a linear head";
            Error::mismatch(what, reason, "an optimum")
        };
        let solver = LBFGS::new(MoreThuenteLineSearch::new(), MEMORY)
            .with_tolerance_grad(wanted)
            .and_then(|solver| solver.with_tolerance_cost(f64::EPSILON))
            .map_err(|error| failed(error.to_string()))?;
        let steps = Executor::new(self, solver)
            .configure(|state| state.param(begin.clone()).max_iters(MAX_STEPS))
            .ctrlc(false)
            .run();
        let (point, steps, ended) = match steps {
            Ok(mut ended) => {
                let steps = ended.state.get_iter();
                let status = ended.state.get_termination_status().clone();
                let converged = TerminationStatus::Terminated(TerminationReason::SolverConverged);
                let why = if status == converged {
                    ""
                } else {
                    "it took too many steps"
                };
                (
                    ended.state.take_best_param().unwrap_or(begin),
                    steps,
                    why.to_owned(),
                )
            }
            // The line search gives up where a step no longer changes the cost: near the optimum that is no failure.
            Err(error) => {
                let last = self.last.borrow().as_ref().map(|(point, ..)| point.clone());
                (last.unwrap_or(begin), 0, error.to_string())
            }
        };
        let (_, gradient) = self.value(&point)?;
        let gradient = norm(&gradient);
        match gradient <= 100.0 * wanted {
            true => Ok(Solution {
                point,
                steps,
                gradient,
            }),
            false => Err(failed(format!(
                "a gradient of {gradient:.1e} where it ended: {ended}"
            ))),
        }
    }

    /// Cost and gradient.
    fn value(&self, point: &[f64]) -> Result<(f64, Vec<f64>)> {
        if let Some((last, cost, gradient)) = &*self.last.borrow()
            && last == point
        {
            return Ok((*cost, gradient.clone()));
        }
        let (width, outputs) = (self.width(), self.outputs);
        let mut residuals = scores(&self.z, point, outputs)?;
        let total: f64 = self.weights.iter().sum();
        let rows = residuals.chunks_exact_mut(outputs);
        let mut cost = 0.0;
        for ((row, label), weight) in rows.zip(&self.labels).zip(&self.weights) {
            let share = weight / total;
            cost += share * loss(row, *label);
            row.iter_mut().for_each(|residual| *residual *= share);
        }
        let mut biases = vec![0.0; outputs];
        for row in residuals.chunks_exact(outputs) {
            biases.iter_mut().zip(row).for_each(|(bias, r)| *bias += r);
        }
        let residuals = Tensor::from_vec(residuals, (self.labels.len(), outputs), &Device::Cpu)?;
        let products = residuals.t()?.matmul(&self.z)?;
        let mut gradient: Vec<f64> = products.flatten_all()?.to_vec1()?;
        let weights = &point[..outputs * width];
        for (gradient, weight) in gradient.iter_mut().zip(weights) {
            *gradient += self.lambda * weight;
        }
        gradient.extend(biases);
        cost += 0.5 * self.lambda * weights.iter().map(|weight| weight * weight).sum::<f64>();
        *self.last.borrow_mut() = Some((point.to_vec(), cost, gradient.clone()));
        Ok((cost, gradient))
    }
}

/// Z Wᵀ + b: N rows of one score for each output.
pub(super) fn scores(z: &Tensor, point: &[f64], outputs: usize) -> Result<Vec<f64>> {
    let (rows, width) = z.dims2()?;
    let (weights, biases) = point.split_at(outputs * width);
    if width == 0 {
        return Ok(biases.repeat(rows));
    }
    let weights = Tensor::from_slice(weights, (outputs, width), &Device::Cpu)?;
    let mut scores: Vec<f64> = z.matmul(&weights.t()?)?.flatten_all()?.to_vec1()?;
    for row in scores.chunks_exact_mut(outputs) {
        row.iter_mut()
            .zip(biases)
            .for_each(|(score, bias)| *score += bias);
    }
    Ok(scores)
}

/// The cross-entropy of one row of scores, which becomes its gradient.
pub(super) fn loss(row: &mut [f64], label: usize) -> f64 {
    if let [score] = row {
        let z = *score;
        let target = label as f64;
        // log(1 + eᶻ) without overflow.
        let loss = z.max(0.0) + (-z.abs()).exp().ln_1p() - target * z;
        *score = 1.0 / (1.0 + (-z).exp()) - target;
        return loss;
    }
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|z| (z - largest).exp()).sum();
    let loss = largest + sum.ln() - row[label];
    row.iter_mut().for_each(|z| *z = (*z - largest).exp() / sum);
    row[label] -= 1.0;
    loss
}

/// The probability of every class, of one score or K.
pub(super) fn probabilities(scores: &[f64]) -> Vec<f32> {
    if let [score] = scores {
        let second = |z: f64| (1.0 / (1.0 + (-z).exp())) as f32;
        return vec![second(-score), second(*score)];
    }
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = scores.iter().map(|z| (z - largest).exp()).collect();
    let sum: f64 = shares.iter().sum();
    shares
        .into_iter()
        .map(|share| (share / sum) as f32)
        .collect()
}

fn norm(numbers: &[f64]) -> f64 {
    numbers.iter().map(|x| x * x).sum::<f64>().sqrt()
}

impl CostFunction for &Problem {
    type Param = Vec<f64>;
    type Output = f64;

    fn cost(&self, point: &Vec<f64>) -> Result<f64, argmin::core::Error> {
        self.points.set(self.points.get() + 1);
        if self.points.get() > MAX_POINTS {
            return Err(argmin::core::Error::msg("it looked at too many points"));
        }
        Ok(self.value(point)?.0)
    }
}

impl Gradient for &Problem {
    type Param = Vec<f64>;
    type Gradient = Vec<f64>;

    fn gradient(&self, point: &Vec<f64>) -> Result<Vec<f64>, argmin::core::Error> {
        Ok(self.value(point)?.1)
    }
}
