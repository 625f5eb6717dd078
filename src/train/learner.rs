//! One step: a batch in, its loss out, the open variables moved.

use candle_core::{DType, Tensor, Var};

use super::clip::Clip;
use super::loss::{Loss, Targets};
use super::metrics::predicted_class;
use super::optimizer::{AnyOptimizer, Variable};
use super::source::Source;
use crate::data::Batch;
use crate::kernels;
use crate::model::{Backbone, Classifier, Dropout};
use crate::{Error, Result};

/// What a step needs beside the model and the batch.
pub(super) struct Learner {
    optimizer: AnyOptimizer,
    /// The open variables by name, in the order they are updated.
    pub(super) variables: Vec<(String, Var)>,
    loss: Loss,
    targets: Targets,
    clip: Option<Clip>,
    seed: u64,
    /// Gradients of the last step, whose memory the next ones take.
    spent: Vec<Tensor>,
}

/// What a step tells.
pub(super) struct Outcome {
    /// Mean loss of the batch, before the update.
    pub(super) loss: f32,
    /// How many of the batch's pictures were classified right, before the update.
    pub(super) right: usize,
}

impl Learner {
    /// A learner of the variables that are open now; `rates` multiplies the learning rate of the blocks it
    /// names.
    pub(super) fn new<B: Backbone>(
        model: &Classifier<B>,
        optimizer: &AnyOptimizer,
        rates: &[(String, f64)],
        targets: &Targets,
        clip: Option<Clip>,
        seed: u64,
    ) -> Self {
        let variables = model.variables();
        let slots = variables.iter().map(|(name, var)| Variable {
            name: name.clone(),
            var: var.clone(),
            rate: rate(name, rates),
        });
        Self {
            optimizer: optimizer.clone().with_named_variables(slots.collect()),
            variables,
            loss: Loss::for_head(model.head().config()),
            targets: targets.clone(),
            clip,
            seed,
            spent: Vec::new(),
        }
    }

    /// One step on a batch, the `step`-th of the epoch, both counted from 1.
    pub(super) fn step<B: Backbone>(
        &mut self,
        model: &Classifier<B>,
        source: &Source,
        batch: &Batch,
        (epoch, step): (usize, usize),
        learning_rate: f64,
    ) -> Result<Outcome> {
        let dropout = Dropout {
            seed: self.seed,
            epoch: epoch as u64,
            pictures: &batch.ids,
        };
        let logits = source.forward_train(model, batch, &dropout)?;
        let loss = self
            .loss
            .forward_to(&logits, &batch.labels, &self.targets)?;
        let value = loss.to_dtype(DType::F32)?.to_scalar::<f32>()?;
        if !value.is_finite() {
            return Err(Error::Diverged {
                epoch,
                step,
                loss: value,
            });
        }
        self.update(&loss, learning_rate)?;
        let probabilities = model.head().probabilities(&logits.detach())?;
        let rows: Vec<Vec<f32>> = probabilities.to_vec2()?;
        let right = |(row, label): &(&Vec<f32>, &u32)| predicted_class(row) == **label as usize;
        Ok(Outcome {
            loss: value,
            right: rows.iter().zip(&batch.labels).filter(right).count(),
        })
    }

    /// The one place where gradients become an update.
    fn update(&mut self, loss: &Tensor, learning_rate: f64) -> Result<()> {
        let mut gradients = kernels::backward(loss, &mut self.spent)?;
        if let Some(clip) = self.clip {
            clip.apply(&mut gradients, self.variables.iter().map(|(_, var)| var))?;
        }
        self.optimizer.set_learning_rate(learning_rate);
        self.optimizer.step(&gradients)?;
        // The optimizer keeps none of them.
        let spent = self.variables.iter().map(|(_, var)| gradients.remove(var));
        self.spent = spent.flatten().collect();
        Ok(())
    }

    /// The optimizer's state, by variable.
    pub(super) fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.optimizer.state()
    }

    /// Takes over an optimizer's state of the variables that are open here.
    pub(super) fn restore(&mut self, mut state: Vec<(String, Tensor)>) -> Result<()> {
        state.retain(|(name, _)| {
            let variable = name.rsplit_once('.').map_or("", |(variable, _)| variable);
            self.variables.iter().any(|(own, _)| own == variable)
        });
        self.optimizer.restore(&state)
    }
}

/// What the learning rate of a variable is multiplied by: that of its block, or 1.
fn rate(variable: &str, rates: &[(String, f64)]) -> f64 {
    let variable = variable.strip_prefix("base.").unwrap_or(variable);
    let within = |block: &str| {
        let rest = variable.strip_prefix(block);
        // `block1` is not the block of `block10_conv1`.
        rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    };
    let last = rates.iter().rev().find(|(block, _)| within(block));
    last.map_or(1.0, |(_, rate)| *rate)
}
