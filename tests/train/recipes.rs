//! Phases, schedules, multipliers, clipping, class weights, smoothing, stopping and the learning-rate finder.

use crate::common;
use crate::common::numbers::{norm, values};

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use headstart::model::Backbone;
use headstart::train::callback::{Callback, ReduceLrOnPlateau};
use headstart::train::callback::{Monitor, StepEnd};
use headstart::train::metrics::History;
use headstart::train::optimizer::{Clip, Schedule};
use headstart::train::{LrRangeTest, Phase};
use headstart::{
    AdamW, Block, Classifier, Dataset, EarlyStopping, Head, Result, RmsProp, Sgd, Trainer,
};

fn model(open: &[Block]) -> Classifier {
    let mut base = common::frozen_base();
    for block in open {
        base = base.unfreeze(*block).unwrap();
    }
    Classifier::new(base, Head::sigmoid().hidden(8), &["blue", "red"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

/// Every weight by name.
fn weights(model: &Classifier) -> Vec<(String, Vec<f32>)> {
    let base = model.base().tensors().into_iter();
    base.chain(model.head().tensors())
        .map(|(name, tensor)| (name, values(&tensor)))
        .collect()
}

/// Numbers as f64.
fn wide(numbers: &[f32]) -> impl Iterator<Item = f64> {
    numbers.iter().copied().map(f64::from)
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.iter()
        .map(|x| x.to_bits())
        .eq(b.iter().map(|x| x.to_bits()))
}

/// How far each weight went.
fn moved(trainer: &Trainer, open: &[Block], dataset: &Dataset) -> Vec<(String, Vec<f32>)> {
    let mut model = model(open);
    let before = weights(&model);
    trainer.fit(&mut model, dataset, dataset).unwrap();
    let after = weights(&model).into_iter();
    after
        .zip(before)
        .map(|((name, after), (_, before))| {
            (name, after.iter().zip(before).map(|(a, b)| a - b).collect())
        })
        .collect()
}

#[test]
fn phases_unfreeze_what_they_say() {
    let (_folder, dataset) = common::colours(4);
    let head_first = Phase::new(1).frozen();
    let then_block5 = Phase::new(1).unfreeze(["block5"]).learning_rate(1e-4);
    let fit = |phases: Vec<Phase>| {
        // A block that is trainable at first is frozen by the first phase.
        let mut model = model(&[Block::Conv3]);
        let trainer = Trainer::new(RmsProp::new(1e-3))
            .batch_size(4)
            .phases(phases);
        let history = trainer.fit(&mut model, &dataset, &dataset).unwrap();
        (weights(&model), history, model)
    };
    let fresh = weights(&model(&[]));
    let (one, one_history, _) = fit(vec![head_first.clone()]);
    let (two, two_history, model) = fit(vec![head_first, then_block5]);
    assert_eq!((one_history.epochs.len(), two_history.epochs.len()), (1, 2));
    assert_eq!(
        one_history.epochs[0].val_loss,
        two_history.epochs[0].val_loss
    );
    for (((name, fresh), (_, one)), (_, two)) in fresh.iter().zip(&one).zip(&two) {
        let head = !name.starts_with("block");
        assert_eq!(same(fresh, one), !head, "{name} after the head's phase");
        if name.ends_with("weight") {
            let open = head || name.starts_with("block5");
            assert_eq!(same(one, two), !open, "{name} after block 5's phase");
        }
    }
    let open: Vec<String> = model
        .base()
        .blocks()
        .into_iter()
        .filter(|b| b.trainable)
        .map(|b| b.name)
        .collect();
    assert_eq!(open, ["block5"]);
}

/// Two phases of one epoch with the same open blocks are one of two epochs, for every optimizer.
#[test]
fn optimizer_state_goes_from_phase_to_phase() {
    let (_folder, dataset) = common::colours(4);
    let trainers = [
        Trainer::new(RmsProp::new(1e-3).momentum(0.9)),
        Trainer::new(AdamW::new(1e-3)),
        Trainer::new(Sgd::new(1e-2).momentum(0.9)),
    ];
    for trainer in trainers {
        let trainer = trainer.batch_size(3);
        let fit = |trainer: Trainer| {
            let mut model = model(&[]);
            trainer.fit(&mut model, &dataset, &dataset).unwrap();
            weights(&model)
        };
        let one = fit(trainer.clone().epochs(2));
        let two = fit(trainer.phases([Phase::new(1), Phase::new(1)]));
        assert!(one.iter().zip(&two).all(|((_, a), (_, b))| same(a, b)));
    }
}

/// The learning rate of every step.
#[derive(Default)]
struct Rates(Vec<f64>);

impl Callback for Rates {
    fn on_step_end(&mut self, step: &StepEnd) -> Result<ControlFlow<()>> {
        self.0.push(step.learning_rate);
        Ok(ControlFlow::Continue(()))
    }
}

#[test]
fn schedules_run_over_the_steps_of_their_phase() {
    let (_folder, dataset) = common::colours(4);
    let rates = Arc::new(Mutex::new(Rates::default()));
    let cosine = Schedule::cosine(0.1).warmup(1);
    let trainer = Trainer::new(Sgd::new(0.01))
        .batch_size(3)
        .phases([
            Phase::new(2).schedule(cosine),
            Phase::new(1)
                .learning_rate(0.002)
                .schedule(Schedule::one_cycle()),
        ])
        .callback(rates.clone());
    trainer.fit(&mut model(&[]), &dataset, &dataset).unwrap();
    // Eight pictures make three steps.
    let mut expected: Vec<f64> = (0..6)
        .map(|step| cosine.learning_rate(0.01, step, 6))
        .collect();
    expected.extend((0..3).map(|step| Schedule::one_cycle().learning_rate(0.002, step, 3)));
    assert_eq!(rates.lock().unwrap().0, expected);
}

#[test]
fn a_plateau_lowers_the_rate_of_the_epochs_after() {
    let (_folder, dataset) = common::colours(3);
    let rates = Arc::new(Mutex::new(Rates::default()));
    let trainer = Trainer::new(Sgd::new(0.01))
        .epochs(4)
        // No epoch after the first is better by that much.
        .callback(ReduceLrOnPlateau::new(0.5, 1).min_delta(100.0))
        .callback(rates.clone());
    trainer.fit(&mut model(&[]), &dataset, &dataset).unwrap();
    assert_eq!(rates.lock().unwrap().0, [0.01, 0.01, 0.005, 0.0025]);
}

/// Plain descent moves a weight in proportion to its learning rate.
#[test]
fn blocks_have_learning_rates_of_their_own() {
    let (_folder, dataset) = common::colours(3);
    let open = [Block::Conv4, Block::Conv5];
    let plain = Trainer::new(Sgd::new(0.5));
    let rates = plain
        .clone()
        .block_learning_rate(Block::Conv5, 0.25)
        .block_learning_rate("head", 2.0);
    let (plain, rates) = (
        moved(&plain, &open, &dataset),
        moved(&rates, &open, &dataset),
    );
    for ((name, plain), (_, rates)) in plain.iter().zip(&rates) {
        let factor = match name {
            name if name.starts_with("block4") => 1.0,
            name if name.starts_with("block5") => 0.25,
            name if name.starts_with("block") => continue,
            _ => 2.0,
        };
        let (before, after) = (norm(wide(plain)), norm(wide(rates)));
        assert!(before > 0.0, "{name} stands still");
        assert!(
            (after / before / factor - 1.0).abs() < 1e-2,
            "{name}: {after} is not {factor} × {before}"
        );
    }
}

#[test]
fn clipped_gradients_make_bounded_steps() {
    let (_folder, dataset) = common::colours(3);
    let trainer = |clip| Trainer::new(Sgd::new(1.0)).clip(clip);
    let all = |moved: Vec<(String, Vec<f32>)>| {
        moved
            .into_iter()
            .flat_map(|(_, moved)| moved)
            .map(f64::from)
    };
    let free = norm(all(moved(&Trainer::new(Sgd::new(1.0)), &[], &dataset)));
    let bound = free / 3.0;
    let found = norm(all(moved(&trainer(Clip::Norm(bound)), &[], &dataset)));
    assert!((found / bound - 1.0).abs() < 1e-3, "{found} is not {bound}");
    let largest = |clip: Trainer| {
        let numbers = all(moved(&clip, &[], &dataset));
        numbers.map(f64::abs).fold(0.0, f64::max)
    };
    let bound = largest(Trainer::new(Sgd::new(1.0))) / 3.0;
    let found = largest(trainer(Clip::Value(bound)));
    assert!((found / bound - 1.0).abs() < 1e-3, "{found} is not {bound}");
}

#[test]
fn class_weights_scale_the_training_loss_alone() {
    let (_folder, dataset) = common::colours(3);
    let fit = |trainer: Trainer| {
        let mut model = model(&[]);
        let history = trainer.fit(&mut model, &dataset, &dataset).unwrap();
        (history.epochs[0].clone(), model)
    };
    // Twice the loss at half the learning rate is the same step.
    let (plain, one) = fit(Trainer::new(Sgd::new(0.02)));
    let (weighted, two) = fit(Trainer::new(Sgd::new(0.01)).class_weights([2.0, 2.0]));
    assert!((weighted.loss / plain.loss - 2.0).abs() < 1e-6);
    assert!((weighted.val_loss.unwrap() / plain.val_loss.unwrap() - 1.0).abs() < 1e-5);
    for ((name, one), (_, two)) in weights(&one).iter().zip(&weights(&two)) {
        let far = one.iter().zip(two).any(|(a, b)| (a - b).abs() > 1e-6);
        assert!(!far, "{name}");
    }
    // A class that weighs nothing is as if it had no pictures: half of the loss is left to the other.
    let (first, _) = fit(Trainer::new(Sgd::new(0.0)).class_weights([1.0, 0.0]));
    let (second, _) = fit(Trainer::new(Sgd::new(0.0)).class_weights([0.0, 1.0]));
    let (both, _) = fit(Trainer::new(Sgd::new(0.0)));
    assert!((first.loss + second.loss - both.loss).abs() < 1e-6);
}

/// Keras reports losses on smoothed labels, of validation too.
#[test]
fn reported_losses_are_on_smoothed_labels() {
    let (_folder, dataset) = common::colours(3);
    let mut model = model(&[]);
    let trainer = Trainer::new(Sgd::new(0.01)).label_smoothing(0.2);
    let history = trainer.fit(&mut model, &dataset, &dataset).unwrap();
    let mut expected = 0.0;
    for item in dataset.items() {
        let prediction = model.predict(&item.path).unwrap();
        let cost = |class: usize| {
            let name = &dataset.class_names()[class];
            -f64::from(prediction.probability(name).unwrap()).ln()
        };
        expected += 0.9 * cost(item.label) + 0.1 * cost(1 - item.label);
    }
    expected /= dataset.len() as f64;
    let found = history.epochs[0].val_loss.unwrap();
    assert!((found - expected).abs() < 1e-5, "{found} is not {expected}");
}

#[test]
fn early_stopping_ends_a_phase_at_its_best() {
    let (_folder, dataset) = common::colours(3);
    let fit = |stopping: EarlyStopping| -> (History, Classifier) {
        let mut model = model(&[]);
        let trainer = Trainer::new(Sgd::new(0.05))
            .phases([Phase::new(5), Phase::new(5).unfreeze(["block5"])])
            .callback(stopping);
        (trainer.fit(&mut model, &dataset, &dataset).unwrap(), model)
    };
    // Only the first epoch of each phase counts as better.
    let (history, mut model) = fit(EarlyStopping::new(2).min_delta(100.0));
    assert_eq!(history.epochs.len(), 6);
    let score = model.evaluate(&dataset).unwrap();
    assert!((score.loss.unwrap() - history.epochs[3].val_loss.unwrap()).abs() < 1e-6);
    assert!((score.loss.unwrap() - history.epochs[5].val_loss.unwrap()).abs() > 1e-6);
    assert!(model.base_mut().is_trainable(Block::Conv5));
    let (history, _) = fit(EarlyStopping::new(9).monitor(Monitor::ValAccuracy));
    assert_eq!(history.epochs.len(), 10);
}

#[test]
fn the_finder_leaves_the_model_as_it_was() {
    let (_folder, dataset) = common::colours(4);
    let model = model(&[]);
    let before = weights(&model);
    let trainer = Trainer::new(AdamW::new(1e-3)).batch_size(4);
    let found = trainer.find_learning_rate(&model, &dataset).unwrap();
    for ((name, before), (_, after)) in before.iter().zip(&weights(&model)) {
        assert!(same(before, after), "{name}");
    }
    let rates: Vec<f64> = found.curve.iter().map(|(rate, _)| *rate).collect();
    assert!((rates[0] - 1e-7).abs() < 1e-20 && rates.len() > 50);
    let ratio = 1e8f64.powf(1.0 / 99.0);
    for pair in rates.windows(2) {
        assert!((pair[1] / pair[0] / ratio - 1.0).abs() < 1e-9);
    }
    let suggestion = found.suggestion().unwrap();
    assert!(
        rates.contains(&suggestion) && (1e-6..1.0).contains(&suggestion),
        "{suggestion}"
    );
    let shown = found.to_string();
    assert!(
        shown.contains(&format!("suggestion: {suggestion:.1e}")),
        "{shown}"
    );
    assert_eq!(found, trainer.find_learning_rate(&model, &dataset).unwrap());
}

/// A loss whose fall against the logarithm of the rate is steepest at 1e-3.
#[test]
fn the_suggestion_is_where_the_loss_falls_fastest() {
    let curve = |fall: f64| LrRangeTest {
        curve: (0..100)
            .map(|step| {
                let rate = 1e-7 * 1e8f64.powf(f64::from(step) / 99.0);
                (rate, 1.0 - fall * ((rate / 1e-3).ln() * 2.0).tanh())
            })
            .collect(),
    };
    let found = curve(0.5).suggestion().unwrap();
    assert!((found / 1e-3).ln().abs() < 0.2, "{found}");
    assert_eq!(curve(-0.5).suggestion(), None);
    assert_eq!(LrRangeTest::default().suggestion(), None);
}

#[test]
fn nonsense_is_named() {
    let (_folder, dataset) = common::colours(2);
    let error = |trainer: Trainer| {
        let mut model = model(&[]);
        let fitted = trainer.fit(&mut model, &dataset, &dataset);
        fitted.unwrap_err().to_string()
    };
    let trainer = || Trainer::new(Sgd::new(0.1));
    for (trainer, option) in [
        (trainer().phases([Phase::new(0)]), "`epochs`"),
        (
            trainer().phases([Phase::new(1).unfreeze(["block6"])]),
            "block6",
        ),
        (
            trainer().phases([Phase::new(1).learning_rate(-1.0)]),
            "`learning_rate`",
        ),
        (trainer().schedule(Schedule::cosine(1.5)), "`alpha`"),
        (
            trainer().schedule(Schedule::one_cycle().pct_start(0.0)),
            "`pct_start`",
        ),
        (trainer().block_learning_rate("tail", 1.0), "tail"),
        (
            trainer().block_learning_rate("head", 0.0),
            "`block_learning_rate`",
        ),
        (trainer().clip(Clip::Norm(-1.0)), "`clip`"),
        (trainer().class_weights([1.0]), "`class_weights`"),
        (trainer().label_smoothing(1.0), "`label_smoothing`"),
        (
            trainer().callback(EarlyStopping::new(1).min_delta(-1.0)),
            "`min_delta`",
        ),
        (
            trainer().callback(ReduceLrOnPlateau::new(1.0, 1)),
            "`factor`",
        ),
    ] {
        let error = error(trainer);
        assert!(error.contains(option), "{error} does not name {option}");
    }
}
