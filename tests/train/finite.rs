//! NaN and infinity are named where they come up, and are nobody's answer.

use crate::common;
use crate::common::numbers::bits;

use std::ops::ControlFlow;

use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};
use candle_nn::Optimizer as _;
use headstart::model::{Backbone, Mode};
use headstart::train::callback::{Callback, EpochEnd, Stop};
use headstart::train::metrics::Evaluation;
use headstart::train::optimizer::{AnyOptimizer, Optimizer, SLOTS, Step, UpdateRule};
use headstart::{
    AdamW, Block, Checkpoints, Classifier, ConvBase, EarlyStopping, Error, FeatureCache, Head,
    Result, RmsProp, Sgd, Trainer,
};

fn model(open: Option<Block>) -> Classifier {
    let mut base = common::frozen_base();
    if let Some(block) = open {
        base = base.unfreeze_from(block).unwrap();
    }
    Classifier::new(base, Head::sigmoid().hidden(8), &["blue", "red"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

fn all_bits(model: &Classifier) -> Vec<(String, Vec<u32>)> {
    let base = model.base().tensors().into_iter();
    base.chain(model.head().tensors())
        .map(|(name, tensor)| (name, bits(&tensor)))
        .collect()
}

fn is_finite(bits: &[(String, Vec<u32>)]) -> bool {
    let mut all = bits.iter().flat_map(|(_, bits)| bits);
    all.all(|bits| f32::from_bits(*bits).is_finite())
}

/// A step in candle's operations, which overflows.
#[derive(Debug)]
struct Leap;

impl UpdateRule for Leap {
    fn name(&self) -> &'static str {
        "leap"
    }
    fn settings(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
    fn slots(&self) -> [Option<&'static str>; SLOTS] {
        [None; SLOTS]
    }
    fn update(
        &self,
        _: Step,
        weight: &Tensor,
        gradient: &Tensor,
        _: &mut [Option<Tensor>; SLOTS],
    ) -> CandleResult<Tensor> {
        weight + (gradient * 1e38)? * 1e38
    }
}

/// Whatever the optimizer, the blocks and the rate, the run ends by name, and what the model is left with is finite.
#[test]
fn a_rate_that_is_too_high_never_leaves_a_number_that_is_none() {
    let (_folder, dataset) = common::colours(6);
    for (optimizer, open) in [
        (AnyOptimizer::from(RmsProp::new(1e3)), Some(Block::Conv4)),
        (RmsProp::new(1e30).momentum(0.9).into(), None),
        (RmsProp::new(1e38).centered(true).into(), None),
        (AdamW::new(1e38).into(), Some(Block::Conv5)),
        (Sgd::new(1e300).into(), None),
        (Sgd::new(1e25).momentum(0.9).into(), Some(Block::Conv1)),
        (Optimizer::from_rule(Leap, 1.0).into(), Some(Block::Conv5)),
    ] {
        let mut model = model(open);
        let trainer = Trainer::new(optimizer).batch_size(4).epochs(6);
        let error = trainer.fit(&mut model, &dataset, &dataset).unwrap_err();
        let Error::Diverged { tensor, value, .. } = error.cause() else {
            panic!("{error}");
        };
        assert!(!value.is_finite() && !tensor.is_empty(), "{error}");
        assert!(is_finite(&all_bits(&model)), "{error}");
    }
}

/// Stops at a step, for the weights before another.
struct LeaveAfter(usize);

impl Callback for LeaveAfter {
    fn on_step_end(
        &mut self,
        step: &headstart::train::callback::StepEnd,
    ) -> Result<ControlFlow<()>> {
        Ok(if step.step == self.0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }
}

#[test]
fn the_model_is_as_before_the_step_that_failed() {
    let (_folder, dataset) = common::colours(12);
    let trainer = Trainer::new(Sgd::new(3e20)).batch_size(4);
    let mut failed = model(Some(Block::Conv5));
    let error = trainer.fit(&mut failed, &dataset, &dataset).unwrap_err();
    let Error::Diverged { epoch, step, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(epoch, 1);
    let mut before = model(Some(Block::Conv5));
    if step > 1 {
        let stopped = trainer.callback(LeaveAfter(step - 1));
        stopped.fit(&mut before, &dataset, &dataset).unwrap();
    }
    assert!(all_bits(&failed) == all_bits(&before), "{error}");
}

/// In a loop of one's own too, with gradients of one's own.
#[test]
fn an_optimizer_moves_all_variables_or_none() {
    let infinite = Tensor::new(&[f32::INFINITY, 0.0], &Device::Cpu).unwrap();
    type Optimize = fn(Vec<Var>, &Tensor) -> CandleResult<()>;
    let optimizers: [Optimize; 3] = [
        |vars, loss| {
            RmsProp::new(0.1)
                .with_variables(vars)
                .unwrap()
                .backward_step(loss)
        },
        |vars, loss| {
            AdamW::new(0.1)
                .with_variables(vars)
                .unwrap()
                .backward_step(loss)
        },
        |vars, loss| {
            let optimizer = Optimizer::from_rule(Leap, 0.1);
            optimizer.with_variables(vars).unwrap().backward_step(loss)
        },
    ];
    for optimize in optimizers {
        let vars = [[1f32, 2.0], [3.0, 4.0]].map(|v| Var::new(&v, &Device::Cpu).unwrap());
        let loss = (vars[0].sum_all().unwrap()
            + (vars[1].as_tensor() * &infinite)
                .unwrap()
                .sum_all()
                .unwrap())
        .unwrap();
        let error = optimize(vars.to_vec(), &loss).unwrap_err().to_string();
        assert!(error.contains("would become"), "{error}");
        assert_eq!(vars[0].to_vec1::<f32>().unwrap(), [1.0, 2.0]);
        assert_eq!(vars[1].to_vec1::<f32>().unwrap(), [3.0, 4.0]);
    }
}

/// A base with one number replaced.
pub fn spoilt(value: f32) -> ConvBase {
    let base = common::frozen_base();
    let tensors = base.tensors();
    let (name, tensor) = tensors
        .iter()
        .find(|(name, _)| name == "block5_conv1.weight")
        .unwrap();
    let shape = tensor.shape().clone();
    let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    values[7] = value;
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
    base.with_parameters([(name.clone(), tensor)]).unwrap()
}

#[test]
fn a_weight_that_is_none_is_no_answer_and_in_no_file() {
    let (folder, dataset) = common::colours(3);
    for value in [f32::NAN, f32::INFINITY] {
        let make = || {
            let head = Head::sigmoid().hidden(8);
            let model = Classifier::new(spoilt(value), head, &["blue", "red"]).unwrap();
            model.input_size(32, 32).unwrap()
        };
        let model = make();
        let picture = &dataset.items()[0].path;
        let file = folder.path().join("model.safetensors");
        let features = folder.path().join("features");
        let cached = |cache: FeatureCache| {
            let trainer = Trainer::new(Sgd::new(0.1)).feature_cache(cache);
            trainer.fit(&mut make(), &dataset, &dataset).map(|_| ())
        };
        for (what, error) in [
            ("predict", model.predict(picture).map(|_| ())),
            ("evaluate", model.evaluate(&dataset).map(|_| ())),
            ("save", model.save(&file)),
            ("save the base", model.base().save(&file, DType::F32, &[])),
            ("features", cached(FeatureCache::in_memory())),
            ("features on disk", cached(FeatureCache::on_disk(&features))),
        ] {
            let error = error.unwrap_err();
            assert!(matches!(error, Error::NotFinite { .. }), "{what}: {error}");
            let word = if value.is_nan() { "NaN" } else { "" };
            assert!(error.to_string().contains(word), "{what}: {error}");
        }
        assert!(!file.exists());
        assert_eq!(std::fs::read_dir(&features).unwrap().count(), 0);
        // Training on pictures, the weight is named.
        let trainer = Trainer::new(Sgd::new(0.1));
        let error = trainer.fit(&mut make(), &dataset, &dataset).unwrap_err();
        assert!(error.to_string().contains("block5_conv1.weight"), "{error}");
    }
    // What overflows in the file's type only is refused too.
    let error = spoilt(1e6).save(folder.path().join("half"), DType::F16, &[]);
    assert!(error.unwrap_err().to_string().contains("inf"));
}

#[test]
fn the_heads_relu_hands_nan_on() {
    let head = Head::sigmoid()
        .hidden(4)
        .build([2, 1, 1], &Device::Cpu)
        .unwrap();
    let features = |values: [f32; 2]| {
        Tensor::new(&values, &Device::Cpu)
            .unwrap()
            .reshape((1, 2, 1, 1))
            .unwrap()
    };
    let logit = |values| -> f32 {
        let logits = head.forward(&features(values), Mode::Infer, None).unwrap();
        logits.flatten_all().unwrap().to_vec1().unwrap()[0]
    };
    assert!(logit([1.0, -2.0]).is_finite());
    assert!(logit([f32::NAN, 0.0]).is_nan() && logit([0.0, f32::NAN]).is_nan());
}

/// Gives a variable a number that is none.
struct Spoil;

impl Callback for Spoil {
    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        if epoch.record.epoch == 2 {
            let (_, var) = &epoch.variables[0];
            var.set(&(var.as_detached_tensor() * f64::NAN)?)?;
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[test]
fn a_callback_cannot_bring_nan_into_a_checkpoint() {
    let (_folder, dataset) = common::colours(3);
    let kept = tempfile::tempdir().unwrap();
    let trainer = Trainer::new(Sgd::new(0.01)).epochs(4).callback(Spoil);
    let trainer = trainer.checkpoint(Checkpoints::new(kept.path()));
    let error = trainer
        .fit(&mut model(None), &dataset, &dataset)
        .unwrap_err();
    assert!(
        error.to_string().contains("`head.") || error.to_string().contains("head."),
        "{error}"
    );
    assert!(
        !kept
            .path()
            .join("checkpoint-00002-000000.safetensors")
            .exists()
    );
    assert_eq!(error.history().unwrap().epochs.len(), 2);
}

/// Blows the rate up after the fourth epoch.
struct Blow;

impl Callback for Blow {
    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        if epoch.record.epoch == 4 {
            *epoch.phase_learning_rate = 1e38;
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// What a run has earned comes with its error: the history, and the best epoch's weights.
#[test]
fn an_error_gives_history_and_best_weights_back() {
    let (_folder, dataset) = common::colours(8);
    let (train, validation) = dataset.split(0.4, 1).unwrap();
    let trainer = Trainer::new(Sgd::new(0.05)).epochs(8).batch_size(4);
    let mut model = model(None);
    let error = trainer
        .callback(EarlyStopping::new(9))
        .callback(Blow)
        .fit(&mut model, &train, &validation)
        .unwrap_err();
    let Error::Interrupted { history, cause } = &error else {
        panic!("{error}");
    };
    assert!(
        matches!(**cause, Error::Diverged { epoch: 5, .. }),
        "{cause}"
    );
    assert_eq!(history.epochs.len(), 4);
    let best = history.epochs.iter().filter_map(|epoch| epoch.val_loss);
    let best = best.fold(f64::INFINITY, f64::min);
    let loss = model.evaluate(&validation).unwrap().loss.unwrap();
    assert!((loss - best).abs() < 1e-6, "{loss} is not the best, {best}");
    // `?` in a main prints the same sentence.
    assert_eq!(format!("{error:?}"), error.to_string());
}

#[test]
fn probabilities_that_are_none_have_no_score() {
    let names = ["a", "b"].map(String::from);
    for value in [f32::NAN, f32::INFINITY] {
        let rows = [vec![0.5, value]];
        let error = Evaluation::from_predictions(&[1], &rows, &names, 0.5).unwrap_err();
        assert!(matches!(error, Error::NotFinite { .. }), "{error}");
    }
    assert!(Evaluation::from_predictions(&[1], &[vec![0.5, 0.5]], &names, f64::NAN).is_err());
}
