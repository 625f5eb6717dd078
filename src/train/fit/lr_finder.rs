//! The learning-rate range test: which learning rate to begin with.

use std::fmt;

use candle_core::{Tensor, Var};

use super::enough;
use super::step::TrainStep;
use super::trainer::Trainer;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::progress;
use crate::train::metrics::check_classes;
use crate::train::ranks::Ranks;

/// The sweep: fastai's `lr_find` defaults.
const LOWEST: f64 = 1e-7;
const HIGHEST: f64 = 10.0;
const STEPS: usize = 100;
/// How slowly the smoothed loss forgets.
const SMOOTHING: f64 = 0.98;
/// The sweep ends when the smoothed loss is this many times its lowest.
const DIVERGED: f64 = 4.0;
/// Steps left out at the end, where the loss goes up.
const LEFT_OUT_AT_END: usize = 5;

/// How the loss went while the learning rate rose from 1e-7 towards 10.
///
/// Printing it draws the curve and names the [`suggestion`](Self::suggestion).
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct LrRangeTest {
    /// The learning rate of each step, and the loss, smoothed over the steps before.
    pub curve: Vec<(f64, f64)>,
}

impl LrRangeTest {
    /// The learning rate at which the loss falls fastest (steepest against the logarithm of the rate: fastai's
    /// `steep`); none when the curve is too short or falls nowhere. The first tenth of the sweep and its last
    /// five steps are left out.
    pub fn suggestion(&self) -> Option<f64> {
        let end = self.curve.len().checked_sub(LEFT_OUT_AT_END)?;
        let curve = self.curve.get(STEPS / 10..end)?;
        let slopes = curve.windows(2).map(|pair| {
            let ((rate, loss), (next_rate, next_loss)) = (pair[0], pair[1]);
            ((next_loss - loss) / (next_rate.ln() - rate.ln()), rate)
        });
        let steepest = slopes.min_by(|a, b| a.0.total_cmp(&b.0))?;
        (steepest.0 < 0.0).then_some(steepest.1)
    }
}

impl fmt::Display for LrRangeTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let losses = || self.curve.iter().map(|(_, loss)| *loss);
        let lowest = losses().fold(f64::INFINITY, f64::min);
        // Where it ends high up, the end would leave no room for the rest.
        let highest = losses().take(STEPS / 2).fold(lowest, f64::max);
        writeln!(f, "learning rate  loss")?;
        for (rate, loss) in self.curve.iter().step_by(4) {
            let share = ((loss - lowest) / (highest - lowest).max(f64::MIN_POSITIVE)).min(1.0);
            let bar = "#".repeat((40.0 * share).round() as usize);
            writeln!(f, "     {rate:8.1e}  {loss:.4} {bar}")?;
        }
        match self.suggestion() {
            Some(rate) => write!(f, "suggestion: {rate:.1e}, where the loss falls fastest"),
            None => write!(f, "no suggestion: the loss falls nowhere"),
        }
    }
}

impl Trainer {
    /// Finds a learning rate (Smith, "Cyclical Learning Rates", 2017, section 3.3, as fastai's `lr_find`): one
    /// hundred steps on the training pictures, while the learning rate rises evenly on a logarithmic scale from
    /// 1e-7 to 10, or until the loss is four times its lowest. The optimizer's own learning rate, schedule and
    /// phases have no part in it; the blocks that are trainable now are trained.
    ///
    /// The model's weights are given back as they were.
    ///
    /// # Errors
    /// As [`fit`](Self::fit), but a loss that is no number only ends the sweep.
    pub fn find_learning_rate<B: Backbone>(
        &self,
        model: &Classifier<B>,
        train: &Dataset,
    ) -> Result<LrRangeTest> {
        self.options.check(model)?;
        check_classes("the training dataset", model, train)?;
        enough::check(train)?;
        let kept = model.variables().into_iter();
        let kept: Vec<(Var, Tensor)> = kept
            .map(|(_, var)| Ok((var.clone(), var.as_detached_tensor().copy()?)))
            .collect::<Result<_>>()?;
        let outcome = self.sweep(model, train);
        train
            .skipped_summary("training")
            .iter()
            .for_each(|warning| progress::warn(warning));
        for (var, tensor) in kept {
            var.set(&tensor)?;
        }
        outcome
    }

    fn sweep<B: Backbone>(&self, model: &Classifier<B>, train: &Dataset) -> Result<LrRangeTest> {
        let mut step = TrainStep::new(model, &self.options);
        // Each of several ranks finds the same.
        let ranks = Ranks::alone();
        let source = self.options.training_batches(model, train, STEPS, &ranks)?;
        let mut found = LrRangeTest::default();
        let (mut average, mut lowest) = (0.0, f64::INFINITY);
        for epoch in 1.. {
            let before = found.curve.len();
            for (index, batch) in source.epoch(model, epoch).enumerate() {
                let done = found.curve.len();
                if done == STEPS {
                    return Ok(found);
                }
                let rate = LOWEST * (HIGHEST / LOWEST).powf(done as f64 / (STEPS - 1) as f64);
                let share = ranks.share(batch.map(Some))?;
                let output = step.run(&ranks, model, &share, (epoch, index + 1), rate);
                let loss = match output {
                    Err(Error::Diverged { .. }) => return Ok(found),
                    output => output?.loss,
                };
                average = SMOOTHING * average + (1.0 - SMOOTHING) * loss;
                // The average started at 0.
                let smooth = average / (1.0 - SMOOTHING.powf(done as f64 + 1.0));
                found.curve.push((rate, smooth));
                lowest = lowest.min(smooth);
                if smooth > DIVERGED * lowest {
                    return Ok(found);
                }
            }
            train.check_usable()?;
            if found.curve.len() == before {
                break;
            }
        }
        Ok(found)
    }
}
