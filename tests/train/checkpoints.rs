//! Runs that are left, killed or damaged, and go on: the end is that of a run that never stopped.

use crate::common;
use crate::common::numbers::bits;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor};
use headstart::model::Backbone;
use headstart::train::Phase;
use headstart::train::callback::{Callback, ReduceLrOnPlateau};
use headstart::train::callback::{Monitor, StepEnd, TrainBegin};
use headstart::train::metrics::{EpochRecord, History};
use headstart::train::optimizer::{AnyOptimizer, Clip, Schedule};
use headstart::{
    AdamW, Augmenter, Block, Checkpoints, Classifier, ConvBase, Dataset, EarlyStopping, Head,
    Result, RmsProp, Sgd, Trainer, Weights,
};

fn model() -> Classifier {
    let head = Head::sigmoid().hidden(8).dropout(0.3);
    Classifier::new(common::frozen_base(), head, &["blue", "red"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

/// Two phases of two epochs of three steps, with everything that has state.
fn trainer(optimizer: impl Into<AnyOptimizer>) -> Trainer {
    Trainer::new(optimizer)
        .phases([
            Phase::new(2).frozen().schedule(Schedule::one_cycle()),
            Phase::new(2).unfreeze([Block::Conv5]).learning_rate(1e-4),
        ])
        .batch_size(4)
        .seed(5)
        .augment(Augmenter::notebook())
        .block_learning_rate("head", 2.0)
        .clip(Clip::Norm(1.0))
        .class_weights([1.0, 1.5])
        .label_smoothing(0.1)
        // Every epoch is one too many, so that state matters.
        .callback(ReduceLrOnPlateau::new(0.5, 1).min_delta(10.0))
        .callback(EarlyStopping::new(9).monitor(Monitor::ValAccuracy))
}

fn optimizers() -> [AnyOptimizer; 3] {
    [
        RmsProp::new(1e-3).centered(true).momentum(0.5).into(),
        AdamW::new(1e-3).into(),
        Sgd::new(1e-2).momentum(0.9).nesterov(true).into(),
    ]
}

/// Every weight, and the history without its clock.
type End = (Vec<(String, Vec<u32>)>, Vec<[u64; 4]>);

fn end(model: &Classifier, history: &History) -> End {
    let figures = |e: &EpochRecord| {
        [
            e.loss,
            e.accuracy,
            e.val_loss.unwrap(),
            e.val_accuracy.unwrap(),
        ]
        .map(f64::to_bits)
    };
    let tensors = model
        .base()
        .tensors()
        .into_iter()
        .chain(model.head().tensors());
    (
        tensors
            .map(|(name, tensor)| (name, bits(&tensor)))
            .collect(),
        history.epochs.iter().map(figures).collect(),
    )
}

fn fit(trainer: &Trainer, dataset: &Dataset) -> (Classifier, History) {
    let mut model = model();
    let history = trainer.fit(&mut model, dataset, dataset).unwrap();
    (model, history)
}

/// Leaves after so many steps.
struct LeaveAfter(usize);

impl Callback for LeaveAfter {
    fn on_step_end(&mut self, _step: &StepEnd) -> Result<ControlFlow<()>> {
        self.0 -= 1;
        Ok(if self.0 == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    }
}

#[test]
fn a_run_left_at_any_step_ends_as_if_it_had_not_been() {
    let (_folder, dataset) = common::colours(5);
    for optimizer in optimizers() {
        let (whole, history) = fit(&trainer(optimizer.clone()), &dataset);
        let expected = end(&whole, &history);
        assert_eq!(history.epochs.len(), 4);
        let folder = tempfile::tempdir().unwrap();
        let checkpointed = |trainer: Trainer| {
            trainer
                .checkpoint(Checkpoints::new(folder.path()).every(2))
                .resume(folder.path())
        };
        // Twelve steps in all: 1, 3 (all of an epoch's, before its validation), 5 (into the second phase), 2.
        for steps in [1, 3, 5, 2] {
            let part = trainer(optimizer.clone()).callback(LeaveAfter(steps));
            let (left, history) = fit(&checkpointed(part), &dataset);
            assert!(
                end(&left, &history) != expected,
                "{steps} more steps are not all"
            );
        }
        let (resumed, history) = fit(&checkpointed(trainer(optimizer.clone())), &dataset);
        assert!(end(&resumed, &history) == expected, "{optimizer:?}");
        // A finished run has nothing left to do, however often it is asked.
        for _ in 0..2 {
            let (again, history) = fit(&checkpointed(trainer(optimizer.clone())), &dataset);
            assert!(end(&again, &history) == expected, "{optimizer:?}, again");
        }
    }
}

/// The weights of a block that was trained and then frozen again are in no variable when the run goes on.
#[test]
fn a_block_that_was_frozen_again_keeps_its_weights() {
    let (_folder, dataset) = common::colours(5);
    let folder = tempfile::tempdir().unwrap();
    let trainer = || {
        Trainer::new(Sgd::new(1e-2).momentum(0.9))
            .phases([
                Phase::new(1).unfreeze([Block::Conv1]),
                Phase::new(1).frozen(),
            ])
            .batch_size(4)
    };
    let (whole, history) = fit(&trainer(), &dataset);
    let fresh = end(&model(), &History::default());
    let expected = end(&whole, &history);
    assert!(fresh.0[0] != expected.0[0], "block 1 was trained");
    let kept = trainer()
        .checkpoint(Checkpoints::new(folder.path()))
        .callback(LeaveAfter(4));
    fit(&kept, &dataset);
    let (resumed, history) = fit(&trainer().resume(folder.path()), &dataset);
    assert!(end(&resumed, &history) == expected);
}

#[test]
fn checkpoints_do_not_change_a_run() {
    let (_folder, dataset) = common::colours(5);
    let folder = tempfile::tempdir().unwrap();
    let (plain, history) = fit(&trainer(AdamW::new(1e-3)), &dataset);
    let checkpoints = Checkpoints::new(folder.path()).every_steps(1).keep(2);
    let (kept, kept_history) = fit(&trainer(AdamW::new(1e-3)).checkpoint(checkpoints), &dataset);
    assert!(end(&plain, &history) == end(&kept, &kept_history));
    assert_eq!(
        names(folder.path()),
        [
            "checkpoint-00003-000003.safetensors",
            "checkpoint-00004-000000.safetensors"
        ]
    );
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_raised_flag_leaves_after_the_step() {
    let (_folder, dataset) = common::colours(5);
    let (whole, history) = fit(&trainer(RmsProp::new(1e-3)), &dataset);
    let expected = end(&whole, &history);
    let folder = tempfile::tempdir().unwrap();
    let flag = Arc::new(AtomicBool::new(true));
    let trainer = trainer(RmsProp::new(1e-3))
        .checkpoint(Checkpoints::new(folder.path()).every(100))
        .resume(folder.path())
        .stop_flag(flag.clone());
    let (_, history) = fit(&trainer, &dataset);
    assert!(history.epochs.is_empty());
    assert_eq!(
        names(folder.path()),
        ["checkpoint-00000-000000.safetensors"]
    );
    flag.store(false, Ordering::Relaxed);
    let (resumed, history) = fit(&trainer, &dataset);
    assert!(end(&resumed, &history) == expected);
}

/// Collects what the user should know.
#[derive(Default)]
struct Warnings(Vec<String>);

impl Callback for Warnings {
    fn on_train_begin(&mut self, run: &TrainBegin<'_>) -> Result<()> {
        self.0.extend(run.warnings.iter().cloned());
        Ok(())
    }
}

#[test]
fn damaged_and_foreign_files_are_skipped() {
    let (_folder, dataset) = common::colours(5);
    let folder = tempfile::tempdir().unwrap();
    let begun = trainer(AdamW::new(1e-3)).checkpoint(Checkpoints::new(folder.path()).keep(9));
    let (whole, history) = fit(&begun, &dataset);
    let expected = end(&whole, &history);
    let path = |name: &str| folder.path().join(format!("checkpoint-{name}.safetensors"));
    let bytes = |name: &str| std::fs::read(path(name)).unwrap();
    // The last is cut short, the one before has a bit of a weight flipped, a third was written by others.
    let last = bytes("00004-000000");
    std::fs::write(path("00004-000000"), &last[..last.len() - 7]).unwrap();
    let mut flipped = bytes("00003-000000");
    let middle = flipped.len() - 1000;
    flipped[middle] ^= 4;
    std::fs::write(path("00003-000000"), flipped).unwrap();
    let foreign = [(
        "weight",
        Tensor::ones(2, candle_core::DType::F32, &Device::Cpu).unwrap(),
    )];
    candle_core::safetensors::save(&foreign.into(), path("00009-000000")).unwrap();
    std::fs::write(path("00008-000000"), b"").unwrap();
    std::fs::write(folder.path().join(".headstart-half"), b"of a file").unwrap();

    let warnings = Arc::new(Mutex::new(Warnings::default()));
    let resumed = trainer(AdamW::new(1e-3))
        .checkpoint(Checkpoints::new(folder.path()))
        .resume(folder.path())
        .callback(warnings.clone());
    let (resumed, history) = fit(&resumed, &dataset);
    assert!(end(&resumed, &history) == expected);
    let warnings = &warnings.lock().unwrap().0;
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    for (warning, name) in warnings.iter().zip(["00009", "00008", "00004", "00003"]) {
        assert!(warning.contains(&format!("checkpoint-{name}")), "{warning}");
    }
    assert!(warnings[3].contains("checksum"), "{}", warnings[3]);
    assert!(!folder.path().join(".headstart-half").exists());
}

#[test]
fn another_run_is_not_mistaken_for_this_one() {
    let (_folder, dataset) = common::colours(5);
    let folder = tempfile::tempdir().unwrap();
    let begun = || trainer(AdamW::new(1e-3)).resume(folder.path());
    let kept = Checkpoints::new(folder.path());
    fit(
        &begun().checkpoint(kept.clone()).callback(LeaveAfter(4)),
        &dataset,
    );
    let error = |trainer: Trainer, model: &mut Classifier, dataset: &Dataset| {
        trainer
            .fit(model, dataset, dataset)
            .unwrap_err()
            .to_string()
    };
    for (other, option) in [
        (begun().batch_size(5), "`batch_size` is 5"),
        (begun().seed(6), "`seed`"),
        (begun().clip(Clip::Value(1.0)), "`clip"),
        (begun().label_smoothing(0.2), "`label_smoothing`"),
        (begun().phases([Phase::new(4)]), "`phases`"),
        (begun().augment(Augmenter::new()), "`augment."),
        (
            trainer(AdamW::new(2e-3)).resume(folder.path()),
            "`optimizer.learning_rate`",
        ),
        (trainer(Sgd::new(1e-3)).resume(folder.path()), "`optimizer."),
        (begun().callback(EarlyStopping::new(1)), "`callbacks`"),
    ] {
        let error = error(other, &mut model(), &dataset);
        assert!(error.contains(option), "{error} does not name {option}");
    }
    let (_more, more) = common::colours(6);
    let error_of_more = error(begun(), &mut model(), &more);
    assert!(
        error_of_more.contains("training pictures"),
        "{error_of_more}"
    );
    assert!(
        error_of_more.contains("`blue/5.png` is new"),
        "{error_of_more}"
    );
    let base = ConvBase::vgg11(Weights::Random { seed: 4 }, &Device::Cpu).unwrap();
    let head = Head::sigmoid().hidden(8).dropout(0.3);
    let other = Classifier::new(base.frozen(), head, &["blue", "red"]).unwrap();
    let mut other = other.input_size(32, 32).unwrap();
    assert!(error(begun(), &mut other, &dataset).contains("frozen weights"));
    // A new run does not write among another's checkpoints.
    let fresh = trainer(AdamW::new(1e-3)).checkpoint(kept);
    assert!(error(fresh, &mut model(), &dataset).contains("checkpoint"));
    // None of it touched them.
    let (_, history) = fit(&begun(), &dataset);
    assert_eq!(history.epochs.len(), 4);
}

#[test]
fn nonsense_is_named() {
    let (_folder, dataset) = common::colours(2);
    let folder = tempfile::tempdir().unwrap();
    let error = |checkpoints: Checkpoints| {
        let trainer = trainer(AdamW::new(1e-3)).checkpoint(checkpoints);
        trainer
            .fit(&mut model(), &dataset, &dataset)
            .unwrap_err()
            .to_string()
    };
    let checkpoints = || Checkpoints::new(folder.path());
    assert!(error(checkpoints().every(0)).contains("`every`"));
    assert!(error(checkpoints().every_steps(0)).contains("`every_steps`"));
    assert!(error(checkpoints().keep(0)).contains("`keep`"));
    let nowhere = trainer(AdamW::new(1e-3)).resume("no/such/folder");
    let error = nowhere
        .fit(&mut model(), &dataset, &dataset)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no/such/folder"), "{error}");
}

/// Options are checked before the folder is made, callbacks' too.
#[test]
fn nonsense_leaves_nothing_behind() {
    let (_folder, dataset) = common::colours(2);
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let trainer = Trainer::new(Sgd::new(0.1))
        .checkpoint(Checkpoints::new(&runs))
        .callback(EarlyStopping::new(1).min_delta(f64::NAN));
    let error = trainer.fit(&mut model(), &dataset, &dataset).unwrap_err();
    assert!(error.to_string().contains("`min_delta`"), "{error}");
    assert!(!runs.exists());
}
