//! An optimizer of the user's own: trained with, resumed, and held against ours.

use std::ops::ControlFlow;

use candle_core::{Result as CandleResult, Tensor};
use headstart::train::Phase;
use headstart::train::callback::Callback;
use headstart::train::callback::StepEnd;
use headstart::train::optimizer::{AnyOptimizer, Clip};
use headstart::train::optimizer::{Optimizer, SLOTS, Step, UpdateRule};
use headstart::{Block, Checkpoints, Classifier, Head, Result, Sgd, Trainer};
use serde_json::{Value, json};

use crate::common;
use crate::common::numbers::values;

/// Gradient descent with momentum, in candle's operations alone.
#[derive(Debug)]
struct Momentum(f64);

impl UpdateRule for Momentum {
    fn name(&self) -> &'static str {
        "momentum"
    }
    fn settings(&self) -> Value {
        json!({ "momentum": self.0 })
    }
    fn slots(&self) -> [Option<&'static str>; SLOTS] {
        [Some("velocity"), None, None]
    }
    fn update(
        &self,
        step: Step,
        weight: &Tensor,
        gradient: &Tensor,
        slots: &mut [Option<Tensor>; SLOTS],
    ) -> CandleResult<Tensor> {
        let [Some(velocity), ..] = slots else {
            unreachable!("a slot that was asked for")
        };
        *velocity = ((&*velocity * self.0)? + gradient)?;
        weight - (&*velocity * step.learning_rate)?
    }
}

/// Moves along the gradient of the step before, which it keeps as it is given or as a copy.
#[derive(Debug)]
struct OneLate {
    copies: bool,
}

impl UpdateRule for OneLate {
    fn name(&self) -> &'static str {
        "one_late"
    }
    fn settings(&self) -> Value {
        Value::Null
    }
    fn slots(&self) -> [Option<&'static str>; SLOTS] {
        [None, Some("before"), None]
    }
    fn update(
        &self,
        step: Step,
        weight: &Tensor,
        gradient: &Tensor,
        slots: &mut [Option<Tensor>; SLOTS],
    ) -> CandleResult<Tensor> {
        let kept = match self.copies {
            true => gradient.copy()?,
            false => gradient.clone(),
        };
        let before = slots[1].replace(kept);
        weight - (before.expect("a slot that was asked for") * step.learning_rate)?
    }
}

fn model() -> Classifier {
    let head = Head::sigmoid().hidden(8).dropout(0.3);
    Classifier::new(common::frozen_base(), head, &["blue", "red"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

fn trainer(optimizer: impl Into<AnyOptimizer>) -> Trainer {
    Trainer::new(optimizer)
        .phases([
            Phase::new(1).frozen(),
            Phase::new(1).unfreeze([Block::Conv5]),
        ])
        .batch_size(4)
        .clip(Clip::Norm(1.0))
}

fn fit(trainer: &Trainer) -> Vec<(String, Vec<f32>)> {
    let (_folder, dataset) = common::colours(5);
    let mut model = model();
    trainer.fit(&mut model, &dataset, &dataset).unwrap();
    let variables = model.variables().into_iter();
    variables.map(|(name, var)| (name, values(&var))).collect()
}

struct LeaveAfter(usize);

impl Callback for LeaveAfter {
    fn on_step_end(&mut self, _step: &StepEnd) -> Result<ControlFlow<()>> {
        self.0 -= 1;
        Ok(match self.0 {
            0 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    }
}

#[test]
fn a_users_optimizer_is_resumed_bit_for_bit() {
    let trainer = || trainer(Optimizer::from_rule(Momentum(0.9), 0.01));
    let expected = fit(&trainer());
    let folder = tempfile::tempdir().unwrap();
    let kept = |trainer: Trainer| {
        trainer
            .checkpoint(Checkpoints::new(folder.path()))
            .resume(folder.path())
    };
    // Three steps an epoch: within the first phase, and within the second.
    for steps in [2, 2] {
        assert!(fit(&kept(trainer()).callback(LeaveAfter(steps))) != expected);
    }
    assert!(fit(&kept(trainer())) == expected);
}

#[test]
fn a_users_optimizer_with_another_option_does_not_resume() {
    let folder = tempfile::tempdir().unwrap();
    let begun = trainer(Optimizer::from_rule(Momentum(0.9), 0.01));
    fit(&begun.checkpoint(Checkpoints::new(folder.path())));
    let (_pictures, dataset) = common::colours(5);
    for (optimizer, option) in [
        (
            AnyOptimizer::from(Optimizer::from_rule(Momentum(0.8), 0.01)),
            "`optimizer.options.momentum`",
        ),
        (Sgd::new(0.01).momentum(0.9).into(), "`optimizer."),
    ] {
        let trainer = trainer(optimizer).resume(folder.path());
        let error = trainer.fit(&mut model(), &dataset, &dataset).unwrap_err();
        assert!(error.to_string().contains(option), "{error}");
    }
}

/// The formula is that of [`Sgd`], whose fused step rounds elsewhere.
#[test]
fn a_users_momentum_is_ours() {
    let own = fit(&trainer(Optimizer::from_rule(Momentum(0.9), 0.01)));
    let ours = fit(&trainer(Sgd::new(0.01).momentum(0.9)));
    for ((name, own), (_, ours)) in own.iter().zip(&ours) {
        for (own, ours) in own.iter().zip(ours) {
            assert!((own - ours).abs() < 1e-5, "{name}: {own} is not {ours}");
        }
    }
}

/// Gradients are written into the memory of those of the step before, unless somebody may still hold them.
#[test]
fn a_rule_may_keep_its_gradient() {
    let late = |copies| fit(&trainer(Optimizer::from_rule(OneLate { copies }, 0.01)));
    assert!(late(false) == late(true));
}
