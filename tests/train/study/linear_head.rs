//! A linear head: scikit-learn's numbers, the head that comes of it, and input that is none.

use headstart::model::{Mode, Pooling};
use headstart::study::{Features, LinearHead, Study};
use headstart::{Classifier, Dataset, Device, Head, Tensor, Trainer};
use serde::Deserialize;

use crate::common::files::{fixture, message};
use crate::common::numbers::{bits, norm, values};
use crate::common::{colours, frozen_base};
use crate::finite::spoilt;

#[derive(Deserialize)]
struct Case {
    pictures: usize,
    width: usize,
    classes: usize,
    c: f64,
    balanced: bool,
    weight: Vec<Vec<f64>>,
    bias: Vec<f64>,
    predicted: Vec<usize>,
}

/// What `tests/fixtures/study/make.py` makes.
fn generated(pictures: usize, width: usize, classes: usize) -> Features {
    let mut state = 12345u64;
    let mut rows = Vec::new();
    for picture in 0..pictures {
        for column in 0..width {
            state = (1_103_515_245 * state + 12345) % (1 << 31);
            let shift = if column % classes == picture % classes {
                0.25
            } else {
                0.0
            };
            let number = (state as f64 / (1u64 << 31) as f64 + shift) * (1 + column % 5) as f64;
            rows.push(number as f32);
        }
    }
    let labels: Vec<usize> = (0..pictures).map(|picture| picture % classes).collect();
    let names = &["a", "b", "c", "d"][..classes];
    Features::from_rows(rows, width, &labels, names).unwrap()
}

fn predicted(probabilities: &[Vec<f32>]) -> Vec<usize> {
    let largest = |row: &Vec<f32>| {
        (0..row.len())
            .max_by(|a, b| row[*a].total_cmp(&row[*b]))
            .unwrap()
    };
    probabilities.iter().map(largest).collect()
}

#[test]
fn weights_are_those_of_scikit_learn() {
    let text = std::fs::read_to_string(fixture("study/logistic.json")).unwrap();
    let fixture: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases: Vec<Case> = serde_json::from_value(fixture["cases"].clone()).unwrap();
    for case in cases {
        let features = generated(case.pictures, case.width, case.classes);
        let head = LinearHead::new().c([case.c]);
        let head = if case.balanced { head.balanced() } else { head };
        let fit = head.solve(&features).unwrap();
        let flat = |rows: &[Vec<f64>]| rows.concat();
        let (ours, theirs) = (flat(&fit.weight), flat(&case.weight));
        let error = norm(ours.iter().zip(&theirs).map(|(a, b)| a - b)) / norm(theirs.clone());
        assert!(
            error < 1e-3,
            "{} × {}: {error:e}",
            case.pictures,
            case.width
        );
        for (ours, theirs) in fit.bias.iter().zip(&case.bias) {
            assert!(
                (ours - theirs).abs() < 1e-3 * theirs.abs().max(1.0),
                "{ours} {theirs}"
            );
        }
        let probabilities = fit.probabilities(&features).unwrap();
        assert_eq!(predicted(&probabilities), case.predicted);
    }
}

#[test]
fn the_problem_is_the_same_in_fewer_dimensions() {
    // The pictures twice, at half the strength: the same optimum, with more pictures than features.
    let few = generated(40, 70, 3);
    let twice: Vec<usize> = (0..40).chain(0..40).collect();
    let many = few.select(&twice);
    let few = LinearHead::new().c([0.2]).solve(&few).unwrap();
    let many = LinearHead::new().c([0.1]).solve(&many).unwrap();
    for (a, b) in few.weight.concat().iter().zip(many.weight.concat()) {
        assert!((a - b).abs() < 3e-4, "{a} {b}");
    }
}

#[test]
fn the_classifier_gives_the_fitted_probabilities_for_every_head() {
    let (_folder, dataset) = colours(6);
    for pooling in [Pooling::GlobalAverage, Pooling::Flatten] {
        for head in [Head::sigmoid(), Head::softmax(2).dropout(0.5)] {
            let head = head.pooling(pooling);
            let model = Classifier::new(frozen_base(), head, dataset.class_names()).unwrap();
            let mut model = model.input_size(32, 32).unwrap();
            let features = Features::of(&model, &dataset).unwrap();
            let fit = LinearHead::new()
                .fit_features(&mut model, &features)
                .unwrap();
            let wanted = fit.probabilities(&features).unwrap();
            for (item, wanted) in dataset.items().iter().zip(wanted) {
                let found = model.predict(&item.path).unwrap();
                let found = found.probability("red").unwrap();
                assert!((found - wanted[1]).abs() < 1e-4, "{found} {}", wanted[1]);
            }
            assert_eq!(model.evaluate(&dataset).unwrap().accuracy, Some(1.0));
        }
    }
}

#[test]
fn two_fits_are_the_same_to_the_last_bit_and_the_file_keeps_them() {
    let (folder, dataset) = colours(6);
    let fit = || {
        let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
        let model = Classifier::new(frozen_base(), head, dataset.class_names()).unwrap();
        let mut model = model.input_size(32, 32).unwrap();
        LinearHead::new().fit(&mut model, &dataset).unwrap();
        model
    };
    let (one, other) = (fit(), fit());
    let path = folder.path().join("model.safetensors");
    one.save(&path).unwrap();
    let loaded = Classifier::load(&path, &Device::Cpu).unwrap();
    for ((_, a), ((_, b), (_, c))) in one
        .head()
        .tensors()
        .iter()
        .zip(other.head().tensors().iter().zip(&loaded.head().tensors()))
    {
        assert_eq!(bits(a), bits(b));
        assert_eq!(bits(a), bits(c));
    }
    let images = Tensor::ones((1, 3, 32, 32), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert_eq!(
        values(&one.forward(&images).unwrap()),
        values(&loaded.forward(&images).unwrap())
    );
    let features = Tensor::ones((1, 512, 1, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(one.head().forward(&features, Mode::Infer, None).is_ok());
}

#[test]
fn classes_weigh_what_they_are_told_to() {
    let features = generated(60, 10, 2);
    // A weight of 2 is two pictures.
    let ones = (0..60).filter(|picture| picture % 2 == 1);
    let doubled: Vec<usize> = (0..60).chain(ones).collect();
    let weighed = LinearHead::new().c([0.5]).class_weights([1.0, 2.0]);
    let weighed = weighed.solve(&features).unwrap();
    // Standardising sees the pictures, not their weights: bring the second fit to the same scale.
    let twice = LinearHead::new()
        .c([0.5])
        .solve(&features.select(&doubled))
        .unwrap();
    let score = |fit: &headstart::study::LinearFit| {
        let rows = fit.probabilities(&features).unwrap();
        rows.iter().map(|row| f64::from(row[1])).sum::<f64>() / 60.0
    };
    assert!((score(&weighed) - score(&twice)).abs() < 5e-3);
    let plain = LinearHead::new().c([0.5]).solve(&features).unwrap();
    assert!(score(&weighed) > score(&plain) + 1e-3);
}

#[test]
fn what_nothing_can_be_fitted_to_is_named() {
    let solve = |features: &Features| message(LinearHead::new().solve(features));
    let rows = |rows: Vec<f32>, labels: &[usize], names: &[&str]| {
        Features::from_rows(rows, 2, labels, names).unwrap()
    };
    let one_class = rows(vec![1.0, 2.0, 3.0, 4.0], &[0, 0], &["cat", "dog"]);
    assert!(solve(&one_class).contains("no picture of class `dog`"));
    assert!(solve(&rows(vec![1.0, 2.0], &[0], &["cat"])).contains("two classes"));
    let constant = rows(vec![3.0; 8], &[0, 1, 0, 1], &["cat", "dog"]);
    assert!(solve(&constant).contains("the same features"));
    for bad in [f32::NAN, f32::INFINITY] {
        let error = message(Features::from_rows(
            vec![1.0, bad],
            2,
            &[0],
            &["cat", "dog"],
        ));
        assert!(error.contains("no finite number"), "{error}");
    }
    assert!(message(Features::from_rows(vec![1.0; 3], 2, &[0], &["cat"])).contains("(1, 2)"));
    let features = generated(20, 4, 2);
    for (head, named) in [
        (LinearHead::new().c([]), "`c`"),
        (LinearHead::new().c([0.0]), "`c`"),
        (LinearHead::new().c([f64::NAN]), "`c`"),
        (LinearHead::new().folds(1), "`folds`"),
        (LinearHead::new().class_weights([1.0]), "`class_weights`"),
        (
            LinearHead::new().class_weights([1.0, -1.0]),
            "`class_weights`",
        ),
    ] {
        let error = message(head.solve(&features));
        assert!(error.contains(named), "{error}");
    }
    let (_folder, dataset) = colours(2);
    let head = Head::sigmoid().hidden(3);
    let model = Classifier::new(frozen_base(), head, dataset.class_names()).unwrap();
    let mut model = model.input_size(32, 32).unwrap();
    assert!(message(LinearHead::new().fit(&mut model, &dataset)).contains("hidden"));
}

#[test]
fn few_pictures_and_constant_features_are_no_obstacle() {
    // Two pictures a class: two folds. One: no folds, and the stated penalty.
    let two = generated(4, 6, 2);
    let fit = LinearHead::new().solve(&two).unwrap();
    assert!(!fit.curve.is_empty());
    let one = generated(2, 6, 2);
    let fit = LinearHead::new().solve(&one).unwrap();
    assert_eq!((fit.c, fit.curve.len()), (0.01, 0));
    assert_eq!(predicted(&fit.probabilities(&one).unwrap()), [0, 1]);
    // A feature that never changes has no weight, and equal pictures do no harm.
    let rows = vec![1.0, 7.0, 2.0, 7.0, 1.0, 7.0, 2.0, 7.0];
    let features = Features::from_rows(rows, 2, &[0, 1, 0, 1], &["cat", "dog"]).unwrap();
    let fit = LinearHead::new().solve(&features).unwrap();
    assert_eq!(fit.weight[0][1], 0.0);
    assert!(fit.weight[0][0] > 0.0);
}

#[test]
fn a_class_that_only_the_other_split_has_is_named() {
    let (folder, _) = colours(3);
    let three = ["blue", "green", "red"];
    std::fs::create_dir(folder.path().join("green")).unwrap();
    let dataset = Dataset::open_with_classes(folder.path(), &three).unwrap();
    let head = Head::softmax(3).pooling(Pooling::GlobalAverage);
    let model = Classifier::new(frozen_base(), head, &three).unwrap();
    let mut model = model.input_size(32, 32).unwrap();
    let error = message(LinearHead::new().fit(&mut model, &dataset));
    assert!(error.contains("no picture of class `green`"), "{error}");
    let (_folder, two) = colours(3);
    let error = message(Features::of(&model, &two));
    assert!(error.contains("blue, green, red"), "{error}");
}

#[test]
fn a_fitted_head_can_be_trained_on() {
    let (_folder, dataset) = colours(5);
    let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
    let model = Classifier::new(frozen_base(), head, dataset.class_names()).unwrap();
    let mut model = model.input_size(32, 32).unwrap();
    LinearHead::new().fit(&mut model, &dataset).unwrap();
    let before = model.evaluate(&dataset).unwrap().loss.unwrap();
    let trainer = Trainer::new(headstart::Sgd::new(1e-4))
        .epochs(2)
        .batch_size(10);
    let history = trainer.fit(&mut model, &dataset, &dataset).unwrap();
    let after = history.epochs[1].val_loss.unwrap();
    assert!((after - before).abs() < 0.05, "{before} {after}");
}

#[test]
fn a_weight_of_the_base_that_is_none_is_named() {
    let (_folder, dataset) = colours(4);
    for value in [f32::NAN, f32::INFINITY] {
        let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
        let model = Classifier::new(spoilt(value), head, dataset.class_names()).unwrap();
        let mut model = model.input_size(32, 32).unwrap();
        let before = model.head().tensors();
        let study = Study::options().input_size(32, 32);
        for error in [
            message(Features::of(&model, &dataset)),
            message(LinearHead::new().fit(&mut model, &dataset)),
            message(study.run(&spoilt(value), &dataset)),
        ] {
            let named = error.contains("block") && error.contains("no finite number");
            assert!(named, "{error}");
        }
        for ((_, before), (_, after)) in before.iter().zip(model.head().tensors()) {
            assert_eq!(bits(before), bits(&after));
        }
    }
}
