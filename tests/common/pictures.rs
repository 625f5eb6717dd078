//! Real pictures as a classifier takes them, and what it says of them.
#![allow(dead_code, reason = "not every test binary asks")]

use candle_core::{DType, Device, Tensor};
use headstart::data::{Item, decode_file, resize};
use headstart::{Classifier, Dataset};
use image::RgbImage;

use super::numbers::values;

const BUNDLED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/santa/pictures/test");

/// Some of the bundled pictures.
pub fn bundled(model: &Classifier, count: usize) -> Vec<RgbImage> {
    let dataset = Dataset::open(BUNDLED).unwrap();
    let step = dataset.len() / count;
    let items = dataset.items().iter().step_by(step);
    items.take(count).map(|item| read(model, item)).collect()
}

/// A picture of a dataset.
pub fn read(model: &Classifier, item: &Item) -> RgbImage {
    let picture = decode_file(&item.path).unwrap();
    let (height, width) = model.size();
    resize(&picture, height as u32, width as u32, model.resize_filter())
}

/// Bytes of each picture's planes: (N, 3, H, W).
pub fn planes(pictures: &[RgbImage]) -> Vec<u8> {
    let plane = |picture: &RgbImage, c: usize| -> Vec<u8> {
        picture.pixels().map(|pixel| pixel[c]).collect()
    };
    let planes = pictures
        .iter()
        .flat_map(|picture| (0..3).map(move |c| (picture, c)));
    planes.flat_map(|(picture, c)| plane(picture, c)).collect()
}

/// Pictures as the base wants them, (N, 3, H, W).
pub fn preprocessed(model: &Classifier, pictures: &[RgbImage]) -> Tensor {
    let (height, width) = model.size();
    let shape = (pictures.len(), 3, height, width);
    let levels = Tensor::from_vec(planes(pictures), shape, &Device::Cpu).unwrap();
    let levels = levels.to_dtype(DType::F32).unwrap();
    model.preprocess().apply(&levels).unwrap()
}

/// Each picture's probability of each class.
pub fn probabilities(model: &Classifier, images: &Tensor) -> Vec<Vec<f32>> {
    let of = |prediction: &headstart::model::Prediction| {
        let names = model.class_names().iter();
        names
            .map(|name| prediction.probability(name).unwrap())
            .collect()
    };
    let predictions = model.predict_tensor(images).unwrap();
    predictions.iter().map(of).collect()
}

/// Scales the head's last layer so that its logits reach 1: fresh ones on random features may all be 0, or so large
/// that every probability is 0 or 1.
pub fn spread(model: &Classifier, images: &Tensor) {
    let logits = values(&model.forward(images).unwrap());
    let larger = |largest: f64, logit: &f32| largest.max(f64::from(*logit).abs());
    let largest = logits.iter().fold(0.0, larger);
    assert!(largest > 0.0 && largest.is_finite(), "{logits:?}");
    for (name, var) in model.variables() {
        if name.starts_with("head.output") {
            let scaled = (var.as_tensor() * (1.0 / largest)).unwrap();
            var.set(&scaled).unwrap();
        }
    }
}
