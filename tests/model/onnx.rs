//! Exported classifiers say in ONNX Runtime and OpenVINO what they say here.

use std::path::Path;

use candle_core::Device;
use headstart::export::{Layout, Onnx, Pixels};
use headstart::model::{Arch, Pooling};
use headstart::{Classifier, ConvBase, Head, Weights};
use image::RgbImage;
use serde::Deserialize;
use serde_json::json;

use crate::common::pictures::{bundled, planes, preprocessed, probabilities, spread};
use crate::common::python::Python;

const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared");

/// The largest error of each engine over a file's probabilities.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Errors {
    onnxruntime: f64,
    openvino: f64,
}

/// What the engines say of pictures, given as an exported file takes them, beside what the classifier says.
fn compare(
    engines: &mut Python,
    onnx: &Path,
    model: &Classifier,
    pictures: &[RgbImage],
    (pixels, layout): (Pixels, Layout),
) -> Errors {
    let path = onnx.with_extension("pixels");
    std::fs::write(&path, raw(pictures, pixels, layout)).unwrap();
    let (height, width) = model.size();
    let shape = match layout {
        Layout::ChannelsLast => [pictures.len(), height, width, 3],
        Layout::ChannelsFirst => [pictures.len(), 3, height, width],
    };
    engines.ask(&json!({
        "model": onnx,
        "pixels": path,
        "shape": shape,
        "type": if pixels == Pixels::Bytes { "uint8" } else { "float32" },
        "probabilities": probabilities(model, &preprocessed(model, pictures)),
    }))
}

/// The numbers of pictures as a file takes them.
fn raw(pictures: &[RgbImage], pixels: Pixels, layout: Layout) -> Vec<u8> {
    let bytes = match layout {
        Layout::ChannelsLast => pictures.iter().flat_map(|p| p.as_raw().clone()).collect(),
        Layout::ChannelsFirst => planes(pictures),
    };
    match pixels {
        Pixels::Bytes => bytes,
        Pixels::Floats => bytes
            .iter()
            .flat_map(|&b| f32::from(b).to_le_bytes())
            .collect(),
    }
}

fn heads() -> [(&'static str, Head, usize); 4] {
    let average = Pooling::GlobalAverage;
    [
        ("sigmoid", Head::sigmoid().pooling(average), 2),
        (
            "sigmoid, hidden, flat",
            Head::sigmoid().hidden(16).dropout(0.5),
            2,
        ),
        ("softmax", Head::softmax(5).pooling(average), 5),
        (
            "softmax, two hidden",
            Head::softmax(3).hidden(24).hidden(8).pooling(average),
            3,
        ),
    ]
}

/// Random weights for every base but those whose real ones are at hand.
fn weights(arch: &Arch) -> Weights {
    let file = match arch.name() {
        "vgg16" => "vgg16-imagenet-caffe.safetensors",
        "tf_efficientnet_lite0" => "tf_efficientnet_lite0.safetensors",
        _ => return Weights::Random { seed: 7 },
    };
    Weights::file(Path::new(SHARED).join("weights").join(file))
}

#[test]
#[ignore = "needs Python with ONNX Runtime and OpenVINO, and takes minutes"]
fn every_base_and_head_says_the_same_in_onnxruntime_and_openvino() {
    let mut engines = Python::start("tests/onnx/check.py");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    let forms = [
        (Pixels::Bytes, Layout::ChannelsLast),
        (Pixels::Floats, Layout::ChannelsFirst),
        (Pixels::Floats, Layout::ChannelsLast),
        (Pixels::Bytes, Layout::ChannelsFirst),
    ];
    let mut all = Vec::new();
    for arch in Arch::all() {
        let base = ConvBase::new(arch.clone(), weights(&arch), &Device::Cpu).unwrap();
        let base = base.frozen();
        for ((name, head, classes), form) in heads().into_iter().zip(forms) {
            let classes: Vec<_> = (0..classes).map(|class| format!("class {class}")).collect();
            let model = Classifier::new(base.clone(), head, &classes).unwrap();
            // No multiple of anything, so that TensorFlow's padding is uneven somewhere.
            let model = model.input_size(97, 122).unwrap();
            let pictures = bundled(&model, 7);
            spread(&model, &preprocessed(&model, &pictures));
            let onnx = Onnx::new().pixels(form.0).layout(form.1);
            onnx.write(&model, &path).unwrap();
            let errors = compare(&mut engines, &path, &model, &pictures, form);
            assert!(errors.onnxruntime < 1e-5, "{arch}, {name}: {errors:?}");
            assert!(errors.openvino < 1e-5, "{arch}, {name}: {errors:?}");
            all.push(errors);
        }
    }
    let largest = |of: fn(&Errors) -> f64| all.iter().map(of).fold(0.0, f64::max);
    println!(
        "{} files; largest error of a probability: {:.1e} in ONNX Runtime, {:.1e} in OpenVINO",
        all.len(),
        largest(|errors| errors.onnxruntime),
        largest(|errors| errors.openvino)
    );
}
