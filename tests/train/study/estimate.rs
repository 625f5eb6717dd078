//! Cross-validation: folds that are fair, figures that are right, and pictures that stay together.

use std::collections::HashSet;
use std::path::Path;

use headstart::model::Pooling;
use headstart::study::{CrossValidation, Features, Groups, LinearHead};
use headstart::{Classifier, Head, Trainer};

use crate::common::files::message;
use crate::common::{colours, frozen_base};

/// Pictures of classes that lie `apart`, with noise in eight features.
pub fn clouds(pictures: usize, classes: usize, apart: f32) -> Features {
    let mut state = 99u64;
    let mut noise = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    let labels: Vec<usize> = (0..pictures).map(|picture| picture % classes).collect();
    let rows = labels.iter().flat_map(|label| {
        let row: Vec<f32> = (0..8)
            .map(|column| noise() + if column == *label { apart } else { 0.0 })
            .collect();
        row
    });
    let names = &["a", "b", "c", "d", "e"][..classes];
    Features::from_rows(rows.collect(), 8, &labels, names).unwrap()
}

#[test]
fn every_picture_is_judged_once_a_repeat_and_figures_are_the_pictures() {
    let features = clouds(61, 3, 0.6);
    let estimate = CrossValidation::new(5, 2)
        .linear_head(&features, &LinearHead::new())
        .unwrap();
    assert_eq!((estimate.pictures.len(), estimate.folds.len()), (61, 10));
    for (picture, path) in estimate.pictures.iter().zip(features.paths()) {
        assert_eq!(&picture.path, path);
        assert!((picture.probabilities.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }
    let mean = estimate.folds.iter().sum::<f64>() / 10.0;
    assert!((estimate.accuracy.mean - mean).abs() < 0.01);
    assert!(estimate.accuracy.contains(mean) && estimate.accuracy.low < estimate.accuracy.high);
    let of_classes: f64 = estimate
        .per_class
        .iter()
        .map(|class| class.recall.mean * class.pictures as f64)
        .sum();
    assert!((of_classes / 61.0 - estimate.accuracy.mean).abs() < 1e-9);
    let again = CrossValidation::new(5, 2)
        .linear_head(&features, &LinearHead::new())
        .unwrap();
    assert_eq!(again, estimate);
}

#[test]
fn what_the_folds_say_is_what_new_pictures_say() {
    let features = clouds(400, 2, 0.4);
    let (known, new): (Vec<usize>, Vec<usize>) = (0..400).partition(|i| *i < 150);
    let (known, new) = (features.select(&known), features.select(&new));
    let estimate = CrossValidation::new(5, 1)
        .linear_head(&known, &LinearHead::new())
        .unwrap();
    let fit = LinearHead::new().solve(&known).unwrap();
    let rows = fit.probabilities(&new).unwrap();
    let right = rows
        .iter()
        .zip(new.labels())
        .filter(|(row, label)| usize::from(row[1] > 0.5) == **label);
    let accuracy = right.count() as f64 / new.len() as f64;
    assert!(
        estimate.accuracy.contains(accuracy),
        "{} {accuracy}",
        estimate.accuracy
    );
}

#[test]
fn pictures_of_one_origin_stay_together() {
    // Each picture is there twice, and says nothing of its class: only its copy knows.
    let noise = clouds(60, 2, 0.0);
    let twice: Vec<usize> = (0..60).flat_map(|i| [i, i]).collect();
    let copied = noise.select(&twice);
    let path = |i: usize| copied.paths()[i].to_string_lossy().into_owned();
    let pairs = Groups::by(|path| Some(path.to_string_lossy().into_owned()));
    assert_eq!(pairs.of(&copied.paths()[0]), Some(path(1)));
    let head = LinearHead::new().c([100.0]);
    let kept = CrossValidation::new(5, 1)
        .groups(pairs)
        .linear_head(&copied, &head)
        .unwrap();
    let apart = CrossValidation::new(5, 1)
        .linear_head(&copied, &head)
        .unwrap();
    assert!(kept.accuracy.mean < 0.66, "{}", kept.accuracy);
    assert!(
        apart.accuracy.mean > kept.accuracy.mean,
        "{}",
        apart.accuracy
    );
}

#[test]
fn folds_that_cannot_be_are_named() {
    let features = clouds(9, 2, 1.0); // five and four
    let estimate = |k, repeats| {
        let validation = CrossValidation::new(k, repeats);
        message(validation.linear_head(&features, &LinearHead::new()))
    };
    assert!(estimate(5, 1).contains("2 to 4"), "{}", estimate(5, 1));
    assert!(estimate(1, 1).contains("`folds`"));
    assert!(estimate(2, 0).contains("`repeats`"));
    let all = Groups::by(|_| Some("one".to_owned()));
    let validation = CrossValidation::new(2, 1).groups(all);
    assert!(
        message(validation.linear_head(&features, &LinearHead::new())).contains("stay together")
    );
    // Two pictures a class are enough for two folds.
    let four = clouds(4, 2, 3.0);
    let estimate = CrossValidation::new(2, 1)
        .linear_head(&four, &LinearHead::new())
        .unwrap();
    assert_eq!(estimate.pictures.len(), 4);
}

#[test]
fn groups_come_from_folders_and_from_patterns() {
    let of = |groups: &Groups, path: &str| groups.of(Path::new(path));
    let folders = Groups::folders();
    assert_eq!(of(&folders, "cat/tom/1.jpg"), of(&folders, "cat/tom/2.jpg"));
    assert_ne!(of(&folders, "cat/tom/1.jpg"), of(&folders, "cat/kit/1.jpg"));
    for (pattern, name, group) in [
        ("{}_*", "tom_1.jpg", Some("tom")),
        ("*-{}.jpg", "a-b.jpg", Some("b")),
        ("frame{}-*.png", "frame12-3.png", Some("12")),
        ("{}_*", "tom.jpg", None),
        ("{}", "tom.jpg", Some("tom.jpg")),
        ("{}_*", "ä_1.jpg", Some("ä")),
        ("no place", "no place", None),
    ] {
        assert_eq!(
            of(&Groups::pattern(pattern), name).as_deref(),
            group,
            "{pattern} {name}"
        );
    }
}

#[test]
fn whatever_is_trained_can_be_estimated() {
    let (_folder, dataset) = colours(4);
    let mut seen = HashSet::new();
    let estimate = CrossValidation::new(2, 1)
        .train(&dataset, |train| {
            seen.extend(train.items().iter().map(|item| item.id));
            assert_eq!(train.counts(), [2, 2]);
            let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
            let model = Classifier::new(frozen_base(), head, train.class_names())?;
            let mut model = model.input_size(32, 32)?;
            LinearHead::new().fit(&mut model, train)?;
            let trainer = Trainer::new(headstart::Sgd::new(1e-5)).epochs(1);
            trainer.fit(&mut model, train, train)?;
            Ok(model)
        })
        .unwrap();
    assert_eq!(seen.len(), 8);
    assert_eq!((estimate.accuracy.mean, estimate.pictures.len()), (1.0, 8));
}
