//! One step: a batch in, its loss out, the trainable variables moved.

use std::sync::Arc;

use candle_core::{Tensor, Var};

use super::options::Options;
use super::position::StepOutput;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier, Dropout};
use crate::train::metrics::{Loss, LossOptions, predicted_class};
use crate::train::optimizer::{Clip, UpdateRule, Variable, VariableStates};
use crate::{finite, transfer};

/// What a step needs beside the model and the batch.
pub(super) struct TrainStep {
    rule: Arc<dyn UpdateRule>,
    states: VariableStates,
    /// The trainable variables by name, in the order they are updated.
    pub(super) variables: Vec<(String, Var)>,
    loss: Loss,
    loss_options: LossOptions,
    clip: Option<Clip>,
    seed: u64,
    /// Gradients of the last step, whose memory the next ones take.
    recycled: Vec<Tensor>,
}

impl TrainStep {
    /// Steps of what is trainable now.
    pub(super) fn new<B: Backbone>(model: &Classifier<B>, options: &Options) -> Self {
        let by_block = model.variables_by_block();
        let variables = by_block.iter().map(|(block, name, var)| Variable {
            name: name.clone(),
            var: var.clone(),
            multiplier: options.learning_rate_multiplier(block),
        });
        Self {
            rule: options.optimizer.rule().clone(),
            states: VariableStates::new(variables.collect()),
            variables: by_block
                .into_iter()
                .map(|(_, name, var)| (name, var))
                .collect(),
            loss: Loss::for_head(model.head().config()),
            loss_options: options.loss.clone(),
            clip: options.clip,
            seed: options.seed,
            recycled: Vec::new(),
        }
    }

    /// One step on a batch, the `step`-th of the epoch, both counted from 1.
    pub(super) fn run<B: Backbone>(
        &mut self,
        model: &Classifier<B>,
        batch: &Batch,
        (epoch, step): (usize, usize),
        learning_rate: f64,
    ) -> Result<StepOutput> {
        let dropout = Dropout {
            seed: self.seed,
            epoch: epoch as u64,
            pictures: &batch.ids,
        };
        let logits = model.forward_train(batch.first_block, &batch.inputs, &dropout)?;
        let loss = self
            .loss
            .forward_with(&logits, &batch.labels, &self.loss_options)?;
        let probabilities = model.head().probabilities(&logits.detach())?;
        let figures = transfer::read(&[&loss, &probabilities])?;
        let value = figures[0][0];
        let diverged = |(tensor, value)| Error::Diverged {
            epoch,
            step,
            tensor,
            value,
        };
        if !value.is_finite() {
            return Err(diverged(origin(model, &logits, value)?));
        }
        if let Some(wrong) = self.update(model, &loss, learning_rate)? {
            return Err(diverged(wrong));
        }
        let rows = transfer::rows(&figures[1], probabilities.dim(1)?);
        let correct = |(row, label): &(&Vec<f32>, &u32)| predicted_class(row) == **label as usize;
        Ok(StepOutput {
            loss: value,
            correct: rows.iter().zip(&batch.labels).filter(correct).count(),
        })
    }

    /// The one place where gradients become an update. A variable that would become NaN or infinite is returned with
    /// the number; none has moved then.
    fn update<B: Backbone>(
        &mut self,
        model: &Classifier<B>,
        loss: &Tensor,
        learning_rate: f64,
    ) -> Result<Option<(String, f32)>> {
        let mut gradients = model.base().backward(loss, &mut self.recycled)?;
        if let Some(clip) = self.clip {
            clip.apply(&mut gradients, self.variables.iter().map(|(_, var)| var))?;
        }
        let wrong = self
            .states
            .step(&*self.rule, learning_rate, &gradients, true)?;
        // A rule in candle's operations may have kept its gradient as state.
        let spent = self.states.fused().map(|var| gradients.remove(var));
        self.recycled = spent.flatten().collect();
        Ok(wrong)
    }

    /// The optimizer's state, by variable.
    pub(super) fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.states.state(&*self.rule)
    }

    /// Takes over an optimizer's state of the variables that are trainable here.
    pub(super) fn restore(&mut self, mut state: Vec<(String, Tensor)>) -> Result<()> {
        state.retain(|(name, _)| {
            let variable = name.rsplit_once('.').map_or("", |(variable, _)| variable);
            self.variables.iter().any(|(own, _)| own == variable)
        });
        self.states.restore(&*self.rule, &state)
    }
}

/// Where a loss that is NaN or infinite comes from: the first weight that is, or else the logits, or the loss itself.
fn origin<B: Backbone>(model: &Classifier<B>, logits: &Tensor, loss: f32) -> Result<(String, f32)> {
    if let Some(weight) = finite::first_tensor(model.tensors())? {
        return Ok(weight);
    }
    Ok(match finite::first_not_in(logits)? {
        Some(value) => ("the logits".to_owned(), value),
        None => ("the loss".to_owned(), loss),
    })
}
