//! Preprocessing against Keras and torchvision, one pixel, a tensor and a batch alike.

use candle_core::{Device, Tensor};
use headstart::data::Loader;
use headstart::{Dataset, Error, Preprocess};
use image::{DynamicImage, Rgb, RgbImage};

use crate::numbers::values;

const ALL: [Preprocess; 4] = [
    Preprocess::Unit,
    Preprocess::Torch,
    Preprocess::Caffe,
    Preprocess::Half,
];

/// What the pixel (255, 128, 0) becomes.
fn expected(preprocess: Preprocess) -> [f32; 3] {
    match preprocess {
        Preprocess::Unit => [1.0, 0.501_960_8, 0.0],
        // torchvision.transforms.Normalize([.485, .456, .406], [.229, .224, .225]) of [1, 128/255, 0]
        Preprocess::Torch => [2.248_908_3, 0.205_182_2, -1.804_444_4],
        // keras.applications.vgg19.preprocess_input([[[255, 128, 0]]]), Keras 3
        Preprocess::Caffe => [-103.939, 11.221, 131.32],
        // keras.applications.imagenet_utils.preprocess_input([[[255, 128, 0]]], mode="tf"), Keras 3; torchvision's
        // Normalize([.5] * 3, [.5] * 3) gives the same.
        Preprocess::Half => [1.0, 0.003_921_628, -1.0],
    }
}

fn assert_near(found: &[f32], preprocess: Preprocess) {
    for (found, expected) in found.iter().zip(expected(preprocess)) {
        approx::assert_abs_diff_eq!(*found, expected, epsilon = 2e-5);
    }
}

#[test]
fn pixels_tensors_and_batches_become_what_the_weights_expect() {
    let pixel = [255u8, 128, 0];
    let image = RgbImage::from_pixel(1, 1, Rgb(pixel));
    let images = [0, 1].map(|label| (DynamicImage::from(image.clone()), label));
    let dataset = Dataset::from_images(images, &["a", "b"]).unwrap();
    let tensor = Tensor::new(&pixel.map(f32::from), &Device::Cpu).unwrap();
    let tensor = tensor.reshape((1, 3, 1, 1)).unwrap();
    for preprocess in ALL {
        let mut alone = pixel.map(f32::from);
        preprocess.apply_pixel(&mut alone);
        assert_near(&alone, preprocess);
        assert_near(&values(&preprocess.apply(&tensor).unwrap()), preprocess);
        let mut epoch = Loader::new(&dataset, 1, 1).preprocess(preprocess).epoch(0);
        assert_near(
            &values(&epoch.next().unwrap().unwrap().inputs)[..3],
            preprocess,
        );
    }
}

#[test]
fn names_are_parsed_displayed_and_saved() {
    for (preprocess, name) in ALL.into_iter().zip(["unit", "torch", "caffe", "half"]) {
        assert_eq!(preprocess.to_string(), name);
        assert_eq!(name.parse::<Preprocess>().unwrap(), preprocess);
        assert_eq!(
            serde_json::to_string(&preprocess).unwrap(),
            format!("\"{name}\"")
        );
    }
    assert_eq!(
        "tf".parse::<Preprocess>().unwrap_err().to_string(),
        "option `preprocess` is tf; allowed: unit, torch, caffe, half"
    );
}

#[test]
fn only_images_of_three_channels_are_taken() {
    let grey = Tensor::zeros((1, 1, 2, 2), candle_core::DType::F32, &Device::Cpu).unwrap();
    for preprocess in ALL {
        assert!(matches!(preprocess.apply(&grey), Err(Error::Shape { .. })));
    }
}
