//! One step: a batch in, its loss out, the trainable variables moved.

use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Tensor, Var};

use super::gradient_sums::GradientSums;
use super::options::Options;
use super::position::StepOutput;
use crate::data::Batch;
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier, Dropout};
use crate::train::metrics::{Loss, LossOptions, predicted_class};
use crate::train::optimizer::{Clip, Planned, UpdateRule, Variable, VariableStates};
use crate::train::ranks::{Ranks, Share};
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
    /// Of several ranks.
    sums: GradientSums,
}

/// What a forward pass gives.
struct Forward {
    loss: Tensor,
    output: StepOutput,
}

/// The same before it was read.
struct Pass {
    loss: Tensor,
    logits: Tensor,
    probabilities: Tensor,
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
        let states = VariableStates::new(variables.collect());
        let variables = by_block.into_iter();
        let variables: Vec<_> = variables.map(|(_, name, var)| (name, var)).collect();
        Self {
            rule: options.optimizer.rule().clone(),
            states,
            sums: GradientSums::new(&variables),
            variables,
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
        ranks: &Ranks,
        model: &Classifier<B>,
        share: &Share,
        (epoch, step): (usize, usize),
        learning_rate: f64,
    ) -> Result<StepOutput> {
        let diverged = |(tensor, value)| Error::Diverged {
            epoch,
            step,
            tensor,
            value,
        };
        let forward = |own: &Self, batch: &Batch| own.forward(model, batch, epoch, diverged);
        let (gradients, output) = match &share.batch {
            Some(batch) if ranks.is_alone() && !model.base().device().is_cpu() => {
                return self.run_on_device(model, batch, epoch, learning_rate, diverged);
            }
            Some(batch) if ranks.is_alone() => {
                let Forward { loss, output } = forward(self, batch)?;
                (model.base().backward(&loss, &mut self.recycled)?, output)
            }
            batch => {
                let forward = batch.as_ref().map(|batch| forward(self, batch)).transpose();
                self.together(ranks, model, share, forward)?
            }
        };
        match self.update(gradients, learning_rate)? {
            Some(wrong) => Err(diverged(wrong)),
            None => Ok(output),
        }
    }

    /// The step of one rank on a device, which is waited for once, when it has been asked for all of it.
    fn run_on_device<B: Backbone>(
        &mut self,
        model: &Classifier<B>,
        batch: &Batch,
        epoch: usize,
        learning_rate: f64,
        diverged: impl Fn((String, f32)) -> Error,
    ) -> Result<StepOutput> {
        let pass = self.pass(model, batch, epoch)?;
        let gradients = model.base().backward(&pass.loss, &mut self.recycled)?;
        let planned = self.plan(gradients, learning_rate)?;
        let mut asked = vec![&pass.loss, &pass.probabilities];
        asked.extend(planned.doubts());
        let mut figures = transfer::read(&asked)?;
        let doubts = figures.split_off(2);
        let output = output(model, batch, &pass, &figures, &diverged)?;
        match self.states.commit(planned, &doubts)? {
            Some(wrong) => Err(diverged(wrong)),
            None => Ok(output),
        }
    }

    /// A batch's loss and figures.
    fn forward<B: Backbone>(
        &self,
        model: &Classifier<B>,
        batch: &Batch,
        epoch: usize,
        diverged: impl Fn((String, f32)) -> Error,
    ) -> Result<Forward> {
        let pass = self.pass(model, batch, epoch)?;
        let figures = transfer::read(&[&pass.loss, &pass.probabilities])?;
        let output = output(model, batch, &pass, &figures, diverged)?;
        let loss = pass.loss;
        Ok(Forward { loss, output })
    }

    /// A batch's forward pass.
    fn pass<B: Backbone>(
        &self,
        model: &Classifier<B>,
        batch: &Batch,
        epoch: usize,
    ) -> Result<Pass> {
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
        Ok(Pass {
            loss,
            logits,
            probabilities,
        })
    }

    /// The gradients and figures of the whole batch, from all ranks. Each share counts by its pictures.
    fn together<B: Backbone>(
        &mut self,
        ranks: &Ranks,
        model: &Classifier<B>,
        share: &Share,
        forward: Result<Option<Forward>>,
    ) -> Result<(GradStore, StepOutput)> {
        let own = share.batch.as_ref().map_or(0, |batch| batch.labels.len());
        let weight = own as f64 / share.pictures.max(1) as f64;
        // From here to its end every rank goes the same way, even with an error.
        let sums = self.sums.begin(ranks);
        let computed = forward.and_then(|forward| {
            let Some(Forward { loss, output }) = forward else {
                return Ok((None, StepOutput::default()));
            };
            let loss = (loss * weight)?;
            let (base, recycled) = (model.base(), &mut self.recycled);
            let gradients = base.backward_announced(&loss, recycled, sums.listener())?;
            Ok((Some(gradients), output))
        });
        let (gradients, output) = match computed {
            Ok((gradients, output)) => (gradients, Ok(output)),
            Err(error) => (None, Err(error)),
        };
        let gradients = self.sums.finish(&sums, gradients, &self.variables);
        // An error of the pass comes first; then one of the sums.
        let (output, gradients) = match (output, gradients) {
            (Ok(output), Ok(gradients)) => (Ok(output), Some(gradients)),
            (Ok(_), Err(error)) | (Err(error), _) => (Err(error), None),
        };
        let part = output.map(|output| (weight * output.loss, output.correct));
        let parts: Vec<(f64, usize)> = ranks.gather(part)?;
        let gradients = gradients.expect("no rank failed");
        let output = StepOutput {
            loss: parts.iter().map(|(loss, _)| loss).sum(),
            correct: parts.iter().map(|(_, correct)| correct).sum(),
        };
        Ok((gradients, output))
    }

    /// Makes gradients an update. A variable that would become NaN or infinite is returned with the number; none has
    /// moved then.
    fn update(
        &mut self,
        gradients: GradStore,
        learning_rate: f64,
    ) -> Result<Option<(String, f32)>> {
        let planned = self.plan(gradients, learning_rate)?;
        Ok(self.states.carry_out(planned)?)
    }

    /// The one place where gradients become an update, which is still to be committed.
    fn plan(&mut self, mut gradients: GradStore, learning_rate: f64) -> Result<Planned> {
        if let Some(clip) = self.clip {
            clip.apply(&mut gradients, self.variables.iter().map(|(_, var)| var))?;
        }
        let planned;
        (planned, self.recycled) =
            self.states
                .plan_spending(&*self.rule, learning_rate, gradients)?;
        Ok(planned)
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

/// What a step reports, from the numbers of its loss and probabilities.
fn output<B: Backbone>(
    model: &Classifier<B>,
    batch: &Batch,
    pass: &Pass,
    figures: &[Vec<f32>],
    diverged: impl Fn((String, f32)) -> Error,
) -> Result<StepOutput> {
    let loss = figures[0][0];
    if !loss.is_finite() {
        return Err(diverged(origin(model, &pass.logits, loss)?));
    }
    let rows = transfer::rows(&figures[1], pass.probabilities.dim(1)?);
    let correct = |(row, label): &(&Vec<f32>, &u32)| predicted_class(row) == **label as usize;
    Ok(StepOutput {
        loss: f64::from(loss),
        correct: rows.iter().zip(&batch.labels).filter(correct).count(),
    })
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

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::{Block, ConvBase, Head, Vgg, Weights};
    use crate::train::optimizer::AdamW;

    /// The same step, read at once instead of in two parts: tried on the CPU.
    #[test]
    fn a_step_on_a_device_is_one_on_the_cpu() {
        let vgg = Vgg::Vgg11.width(1.0 / 16.0).unwrap();
        let base = ConvBase::new(vgg, Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
        let base = base.frozen().unfreeze_from(Block::Conv5).unwrap();
        let model = Classifier::new(base, Head::softmax(3).dropout(0.3), &["a", "b", "c"]).unwrap();
        let mut options = Options::new(AdamW::new(1e-2).into());
        options.clip = Some(Clip::Norm(1.0));
        let batch = Batch {
            inputs: Tensor::randn(0f32, 1.0, (5, 3, 64, 64), &Device::Cpu).unwrap(),
            first_block: 0,
            labels: vec![0, 2, 1, 0, 1],
            ids: (0..5).collect(),
        };
        let share = Share {
            batch: Some(batch.clone()),
            pictures: 5,
        };
        let (here, there) = (model.clone(), model);
        let mut on_cpu = TrainStep::new(&here, &options);
        let mut on_device = TrainStep::new(&there, &options);
        for number in 1..=3 {
            let expected = on_cpu.run(&Ranks::alone(), &here, &share, (1, number), 1e-2);
            let expected = expected.unwrap();
            let diverged = |(tensor, _): (String, f32)| panic!("{tensor} diverged");
            let found = on_device.run_on_device(&there, &batch, 1, 1e-2, diverged);
            let found = found.unwrap();
            assert_eq!(found.loss.to_bits(), expected.loss.to_bits());
            assert_eq!(found.correct, expected.correct);
        }
        for ((name, found), (_, expected)) in there.tensors().iter().zip(&here.tensors()) {
            let numbers = |tensor: &Tensor| transfer::read(&[tensor]).unwrap();
            assert_eq!(numbers(found), numbers(expected), "{name}");
        }
    }
}
