//! Exported classifiers say in ONNX Runtime and OpenVINO what they say here.

use std::path::Path;
use std::time::Instant;

use candle_core::Device;
use headstart::export::{Layout, Onnx, Pixels};
use headstart::model::{Arch, Pooling};
use headstart::train::optimizer::Schedule;
use headstart::{AdamW, Classifier, ConvBase, Dataset, FeatureCache, Head, Trainer, Weights};
use image::RgbImage;
use serde::Deserialize;
use serde_json::json;

use crate::common::pictures::{bundled, planes, preprocessed, probabilities, read, spread};
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

/// A file as users ask for it, beside the classifier it is of.
#[derive(Deserialize)]
struct Timed {
    probabilities: Vec<Vec<f32>>,
    milliseconds: f64,
}

/// EfficientNet-Lite0 with a linear head, trained on the notebook's pictures.
fn trained(pictures: &Path) -> Classifier {
    let arch: Arch = "tf_efficientnet_lite0".parse().unwrap();
    let base = ConvBase::new(arch.clone(), weights(&arch), &Device::Cpu).unwrap();
    let train = Dataset::open(pictures.join("train")).unwrap();
    let validation = Dataset::open(pictures.join("validation")).unwrap();
    let head = Head::softmax(2).pooling(Pooling::GlobalAverage);
    let mut model = Classifier::new(base.frozen(), head, train.class_names()).unwrap();
    let trainer = Trainer::new(AdamW::new(3e-3).weight_decay(0.01))
        .epochs(40)
        .schedule(Schedule::one_cycle())
        .feature_cache(FeatureCache::in_memory());
    trainer.fit(&mut model, &train, &validation).unwrap();
    model
}

/// The median of fifty, in milliseconds.
fn own_milliseconds(model: &Classifier, picture: &RgbImage) -> f64 {
    let image = preprocessed(model, std::slice::from_ref(picture));
    let mut times: Vec<f64> = (0..50)
        .map(|_| {
            let start = Instant::now();
            model.predict_tensor(&image).unwrap();
            1000.0 * start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[25]
}

#[test]
#[ignore = "needs ../shared and Python with ONNX Runtime"]
fn half_and_eight_bits_keep_the_classes_of_real_pictures() {
    let mut engines = Python::start("tests/onnx/check.py");
    let folder = tempfile::tempdir().unwrap();
    let pictures = Path::new(SHARED).join("data/santa");
    let model = trained(&pictures);
    let train = Dataset::open(pictures.join("train")).unwrap();
    let test = Dataset::open(pictures.join("test")).unwrap();
    let images: Vec<RgbImage> = test.items().iter().map(|item| read(&model, item)).collect();
    let pixels = folder.path().join("pixels");
    std::fs::write(&pixels, raw(&images, Pixels::Bytes, Layout::ChannelsLast)).unwrap();
    let own = probabilities(&model, &preprocessed(&model, &images));
    let accuracy = |rows: &[Vec<f32>]| {
        let right = rows.iter().zip(test.items());
        let right = right.filter(|(row, item)| usize::from(row[1] > row[0]) == item.label);
        right.count() as f64 / rows.len() as f64
    };
    let milliseconds = own_milliseconds(&model, &images[0]);
    println!("| file | MB | accuracy | largest change of a probability | milliseconds a picture |");
    println!("|---|---|---|---|---|");
    println!(
        "| this crate, `float` | – | {:.4} | – | {milliseconds:.1} |",
        accuracy(&own)
    );
    let (height, width) = model.size();
    for (name, onnx, most) in [
        ("`float`", Onnx::new(), 1e-5),
        ("`float16`", Onnx::new().half(), 0.02),
        ("`int8`", Onnx::new().int8(&train), 1.0),
    ] {
        let path = folder.path().join("model.onnx");
        onnx.write(&model, &path).unwrap();
        let timed: Timed = engines.ask(&json!({
            "time": true, "model": path, "pixels": pixels,
            "shape": [images.len(), height, width, 3], "type": "uint8",
        }));
        let rows = timed.probabilities.iter().zip(&own);
        let change = rows
            .map(|(row, own)| (row[0] - own[0]).abs())
            .fold(0f32, f32::max);
        let accuracy_here = accuracy(&timed.probabilities);
        println!(
            "| {name} | {:.1} | {accuracy_here:.4} | {change:.1e} | {:.1} |",
            std::fs::metadata(&path).unwrap().len() as f64 / 1e6,
            timed.milliseconds
        );
        assert!(f64::from(change) < most, "{name}: {change}");
        assert!(
            accuracy_here >= accuracy(&own) - 0.02,
            "{name}: {accuracy_here}"
        );
    }
}

#[test]
fn a_file_is_written_whole_or_not_at_all() {
    let base = ConvBase::resnet18(Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
    let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
    let model = Classifier::new(base.frozen(), head, &["cat", "dog"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("no/such/folder/model.onnx");
    let error = model.export_onnx(&nowhere).unwrap_err().to_string();
    assert!(error.contains("no/such/folder"), "{error}");
    for (_, var) in model.variables() {
        let value = var.as_tensor().affine(0.0, f64::NAN).unwrap();
        var.set(&value).unwrap();
    }
    let path = folder.path().join("model.onnx");
    let error = model.export_onnx(&path).unwrap_err().to_string();
    assert!(error.contains("head.output"), "{error}");
    assert!(!path.exists());
}
