//! Probabilities that mean what they say.

use headstart::model::Pooling;
use headstart::study::{Calibration, CrossValidation, Doubt, Features, LinearHead};
use headstart::{Classifier, Device, Head};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::estimate::clouds;
use crate::common::files::message;
use crate::common::{colours, frozen_base};

#[test]
fn a_temperature_mends_confidence_and_changes_no_class() {
    let features = clouds(300, 3, 0.25);
    let head = LinearHead::new().c([1.0]);
    let estimate = CrossValidation::new(5, 1)
        .linear_head(&features, &head)
        .unwrap();
    let mut sharp = estimate.clone();
    for picture in &mut sharp.pictures {
        let powers: Vec<f32> = picture.probabilities.iter().map(|p| p.powi(6)).collect();
        let sum: f32 = powers.iter().sum();
        picture.probabilities = powers.into_iter().map(|p| p / sum).collect();
    }
    let (plain, sharp) = (
        Calibration::of_estimate(&estimate),
        Calibration::of_estimate(&sharp),
    );
    let (plain, sharp) = (plain.unwrap(), sharp.unwrap());
    // Logits six times as large need six times the temperature.
    assert!(
        (sharp.temperature / plain.temperature - 6.0).abs() < 0.05,
        "{sharp:?} {plain:?}"
    );
    assert!(sharp.error_after < sharp.error_before / 1.5, "{sharp}");
}

#[test]
fn honest_probabilities_are_off_by_what_luck_makes() {
    let features = clouds(300, 3, 0.25);
    let head = LinearHead::new().c([1.0]);
    let mut estimate = CrossValidation::new(5, 1)
        .linear_head(&features, &head)
        .unwrap();
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let (mut errors, mut luck) = (0.0, 0.0);
    for _ in 0..200 {
        // What the probabilities say comes true.
        for picture in &mut estimate.pictures {
            let mut left: f32 = random.random();
            let is_it = |p: &f32| {
                left -= p;
                left < 0.0
            };
            picture.label = picture.probabilities.iter().position(is_it).unwrap_or(2);
        }
        let calibration = Calibration::of_estimate(&estimate).unwrap();
        errors += calibration.error_before;
        luck += calibration.error_by_chance;
    }
    assert!((errors / luck - 1.0).abs() < 0.05, "{errors} {luck}");
}

#[test]
fn a_calibrated_classifier_is_kept_in_its_file() {
    let (folder, dataset) = colours(8);
    for head in [Head::sigmoid(), Head::softmax(2).hidden(4)] {
        let head = head.pooling(Pooling::GlobalAverage);
        let model = Classifier::new(frozen_base(), head, dataset.class_names()).unwrap();
        let mut model = model.input_size(32, 32).unwrap();
        let before = model.predict(&dataset.items()[0].path).unwrap();
        let calibration = Calibration::of(&model, &dataset).unwrap();
        calibration.apply(&mut model).unwrap();
        let path = folder.path().join("model.safetensors");
        model.save(&path).unwrap();
        let model = Classifier::load(&path, &Device::Cpu).unwrap();
        let after = model.predict(&dataset.items()[0].path).unwrap();
        assert_eq!(before.class(), after.class());
        let odds = |p: &headstart::model::Prediction| (p.ranked[0].1 / p.ranked[1].1).ln();
        let ratio = f64::from(odds(&before) / odds(&after));
        assert!(
            (ratio / calibration.temperature - 1.0).abs() < 0.02,
            "{ratio} {calibration:?}"
        );
    }
}

#[test]
fn a_picture_unlike_any_is_said_to_be_and_the_file_remembers() {
    let (folder, dataset) = colours(20);
    for head in [Head::sigmoid(), Head::softmax(2)] {
        let head = head.pooling(Pooling::GlobalAverage);
        let model = Classifier::new(frozen_base(), head, dataset.class_names()).unwrap();
        let mut model = model.input_size(32, 32).unwrap();
        let features = Features::of(&model, &dataset).unwrap();
        LinearHead::new()
            .fit_features(&mut model, &features)
            .unwrap();
        let path = folder.path().join("model.safetensors");
        model.save(&path).unwrap();
        let untaught = Classifier::load(&path, &Device::Cpu).unwrap();
        let doubt = Doubt::teach(&mut model, &features, &features, 0.9).unwrap();
        assert_eq!((doubt.share, doubt.pictures), (0.9, 40));
        model.save(&path).unwrap();
        let model = Classifier::load(&path, &Device::Cpu).unwrap();

        let predictions = model
            .predict_batch(dataset.items().iter().map(|item| &item.path))
            .unwrap();
        let familiar = predictions
            .iter()
            .filter(|prediction| prediction.familiar)
            .count();
        assert!((35..=37).contains(&familiar), "{familiar}");
        // Stripes of green.
        let stripe = |x: u32| if x % 8 < 4 { 255 } else { 0 };
        let stripes = image::RgbImage::from_fn(40, 36, |x, _| image::Rgb([0, stripe(x), 0]));
        let stripes = image::DynamicImage::from(stripes);
        let prediction = model.predict(&stripes).unwrap();
        assert!(
            !prediction.familiar && prediction.familiarity.unwrap() < 1.0,
            "{prediction}"
        );
        assert!(
            prediction
                .to_string()
                .starts_with("unlike anything it was trained on: ")
        );
        assert_eq!(model.predict_or(&stripes, "neither").unwrap(), "neither");
        let known = predictions
            .iter()
            .position(|prediction| prediction.familiar)
            .unwrap();
        let item = &dataset.items()[known];
        let class = &dataset.class_names()[item.label];
        assert_eq!(&model.predict_or(&item.path, "neither").unwrap(), class);

        // Who was not taught says what was always said.
        let plain = untaught.predict(&stripes).unwrap();
        assert!(plain.familiar && plain.familiarity.is_none());
        assert_eq!(plain.ranked, prediction.ranked);
        // At another size it is to be taught again.
        let other = model.input_size(64, 64).unwrap();
        assert_eq!(other.predict(&stripes).unwrap().familiarity, None);
    }
}

#[test]
fn what_cannot_be_taught_is_named() {
    let (_folder, dataset) = colours(5);
    let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
    let model = Classifier::new(frozen_base(), head, dataset.class_names()).unwrap();
    let mut model = model.input_size(32, 32).unwrap();
    let features = Features::of(&model, &dataset).unwrap();
    LinearHead::new()
        .fit_features(&mut model, &features)
        .unwrap();
    for share in [0.0, 1.0, f64::NAN] {
        assert!(message(Doubt::teach(&mut model, &features, &features, share)).contains("`share`"));
    }
    let narrow = clouds(10, 2, 1.0);
    assert!(message(Doubt::teach(&mut model, &narrow, &features, 0.95)).contains("(N, 512)"));
}
