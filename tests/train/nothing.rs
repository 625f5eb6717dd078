//! Figures over no pictures are absent, and pictures do not get lost without a word.

use crate::common;

use std::path::Path;
use std::sync::{Arc, Mutex};

use headstart::data::Policy;
use headstart::train::callback::{
    Callback, CsvLogger, JsonLinesLogger, Monitor, ReduceLrOnPlateau, TrainBegin,
};
use headstart::train::metrics::{EpochRecord, Evaluation};
use headstart::{
    Classifier, Dataset, EarlyStopping, Error, FeatureCache, Head, Result, Sgd, Trainer,
};
use image::{DynamicImage, RgbImage};

fn model() -> Classifier {
    Classifier::new(common::frozen_base(), Head::sigmoid(), &["blue", "red"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

fn trainer() -> Trainer {
    Trainer::new(Sgd::new(0.01)).epochs(3).batch_size(4)
}

/// A dataset without pictures: `split` leaves none of two single pictures.
fn empty() -> Dataset {
    let (_folder, dataset) = common::colours(1);
    let (_, none) = dataset.split(0.2, 1).unwrap();
    assert!(none.is_empty());
    none
}

/// Collects what the user is told before the first epoch.
#[derive(Default)]
struct Warnings(Vec<String>);

impl Callback for Warnings {
    fn on_train_begin(&mut self, run: &TrainBegin<'_>) -> Result<()> {
        self.0.extend(run.warnings.iter().cloned());
        Ok(())
    }
}

fn warnings(train: &Dataset, validation: &Dataset) -> String {
    let warnings = Arc::new(Mutex::new(Warnings::default()));
    let trainer = trainer().epochs(1).callback(warnings.clone());
    trainer.fit(&mut model(), train, validation).unwrap();
    let warnings = warnings.lock().unwrap();
    warnings.0.join("\n")
}

#[test]
fn without_validation_pictures_there_are_no_figures() {
    let (folder, dataset) = common::colours(6);
    let (csv, json) = (
        folder.path().join("log.csv"),
        folder.path().join("log.jsonl"),
    );
    for monitor in [Monitor::ValLoss, Monitor::ValAccuracy] {
        let mut model = model();
        let plateau = ReduceLrOnPlateau::new(0.5, 0).monitor(monitor);
        let trainer = trainer()
            .callback(EarlyStopping::new(1).monitor(monitor))
            .callback(plateau)
            .callback(CsvLogger::new(&csv))
            .callback(JsonLinesLogger::new(&json));
        let history = trainer.fit(&mut model, &dataset, &empty()).unwrap();
        // Early stopping has nothing to go by, neither to stop nor to go back.
        assert_eq!(history.epochs.len(), 3);
        assert!(
            history
                .epochs
                .iter()
                .all(|e| e.val_loss.is_none() && e.val_accuracy.is_none())
        );
        let mut plain = self::model();
        self::trainer().fit(&mut plain, &dataset, &empty()).unwrap();
        let weights = |model: &Classifier| common::numbers::bits(&model.head().tensors()[0].1);
        assert_eq!(weights(&model), weights(&plain), "{monitor:?}");
    }
    let text = std::fs::read_to_string(csv).unwrap();
    assert!(
        text.lines().skip(1).all(|line| line.contains(",,,")),
        "{text}"
    );
    let text = std::fs::read_to_string(json).unwrap();
    let records = text
        .lines()
        .map(|line| serde_json::from_str::<EpochRecord>(line).unwrap());
    assert_eq!(
        records.filter(|record| record.val_loss.is_none()).count(),
        6
    );

    let score = model().evaluate(&empty()).unwrap();
    assert_eq!((score.loss, score.accuracy, score.auc), (None, None, None));
    assert!(
        score.to_string().starts_with("loss –, accuracy –"),
        "{score}"
    );
    let score = Evaluation::from_predictions(&[], &[], &["a", "b"].map(String::from), 0.0);
    assert_eq!(score.unwrap().loss, None);
}

#[test]
fn training_needs_pictures_of_two_classes() {
    let (_folder, dataset) = common::colours(3);
    let fit = |train: &Dataset| {
        let error = trainer().fit(&mut model(), train, &dataset).unwrap_err();
        assert!(matches!(error, Error::Dataset { .. }), "{error}");
        error.to_string()
    };
    assert!(fit(&empty()).contains("no pictures to train on"));
    let image = || DynamicImage::from(RgbImage::new(8, 8));
    let one = Dataset::from_images([(image(), 1), (image(), 1)], &["blue", "red"]).unwrap();
    assert!(fit(&one).contains("`red` alone"));
    let error = trainer().find_learning_rate(&model(), &one).unwrap_err();
    assert!(error.to_string().contains("`red` alone"), "{error}");
}

#[test]
fn classes_with_too_few_pictures_are_warned_of() {
    let image = || DynamicImage::from(RgbImage::new(8, 8));
    let of = |labels: &[usize]| {
        let images = labels.iter().map(|label| (image(), *label));
        Dataset::from_images(images, &["blue", "red"]).unwrap()
    };
    let told = warnings(&of(&[0, 0, 1]), &of(&[0, 0]));
    assert!(
        told.contains("training: one picture alone of class: `red`"),
        "{told}"
    );
    assert!(
        told.contains("validation: no picture of class: `red`"),
        "{told}"
    );
    let told = warnings(&of(&[0, 0, 1, 1]), &empty());
    assert!(told.contains("validation: no pictures"), "{told}");
    assert_eq!(warnings(&of(&[0, 0, 1, 1]), &of(&[0, 1])), "");
}

fn spoil(folder: &Path, class: &str, numbers: std::ops::Range<u32>) {
    for number in numbers {
        std::fs::write(
            folder.join(format!("{class}/{number}.png")),
            b"not a picture",
        )
        .unwrap();
    }
}

#[test]
fn a_dataset_that_loses_too_much_is_an_error() {
    let (good_folder, good) = common::colours(3);
    let _ = good_folder;
    for cache in [None, Some(FeatureCache::in_memory())] {
        let trainer = || match &cache {
            Some(cache) => trainer().feature_cache(cache.clone()),
            None => trainer(),
        };
        let (folder, _) = common::colours(6);
        spoil(folder.path(), "red", 0..5);
        spoil(folder.path(), "blue", 0..2);
        let open = || Dataset::open(folder.path()).unwrap();
        // Five of twelve are left.
        for (train, validation) in [(open(), good.clone()), (good.clone(), open())] {
            let error = trainer()
                .fit(&mut model(), &train, &validation)
                .unwrap_err();
            let error = error.to_string();
            assert!(error.contains("5 of 12 pictures can be used"), "{error}");
            assert!(
                error.contains("least_usable") && error.contains("blue/0.png"),
                "{error}"
            );
        }
        let error = model().evaluate(&open()).unwrap_err().to_string();
        assert!(error.contains("5 of 12"), "{error}");
        // The share is the user's.
        let loose = open().least_usable(0.1);
        trainer().fit(&mut model(), &loose, &good).unwrap();
        let strict = open().policy(Policy::Fail).unwrap().least_usable(0.0);
        let error = trainer().fit(&mut model(), &strict, &good).unwrap_err();
        assert!(
            matches!(error, Error::Picture { .. }) && error.to_string().contains("blue/0.png"),
            "{error}"
        );
        let error = trainer().fit(&mut model(), &open().least_usable(1.5), &good);
        assert!(
            error
                .unwrap_err()
                .to_string()
                .contains("`least_usable` is 1.5")
        );
        // A class that loses all of its pictures is one, whatever the share.
        spoil(folder.path(), "red", 5..6);
        let train = open().least_usable(0.0);
        let error = trainer()
            .fit(&mut model(), &train, &good)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("none of the 6 pictures of class `red`"),
            "{error}"
        );
    }
}

/// Pictures that go while a run reads them anew each epoch.
#[test]
fn pictures_that_go_during_training_end_it() {
    let (folder, dataset) = common::colours(6);
    let path = folder.path().to_owned();
    struct Delete(std::path::PathBuf);
    impl Callback for Delete {
        fn on_train_begin(&mut self, _: &TrainBegin<'_>) -> Result<()> {
            spoil(&self.0, "red", 0..5);
            spoil(&self.0, "blue", 0..5);
            Ok(())
        }
    }
    let error = trainer()
        .callback(Delete(path))
        .fit(&mut model(), &dataset, &dataset)
        .unwrap_err();
    assert!(
        error.to_string().contains("2 of 12 pictures can be used"),
        "{error}"
    );
}
