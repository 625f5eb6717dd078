//! Networks of timm and torchvision: what is written has their names and says there what it says here, and the reverse.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use headstart::export::TorchNames;
use headstart::model::arch::layer::Activation;
use headstart::model::{Arch, Backbone, Pooling};
use headstart::{Classifier, ConvBase, Error, Head, Weights};
use safetensors::SafeTensors;
use serde::Deserialize;
use serde_json::json;

use crate::common::numbers::{bits, crc32, values};
use crate::common::pictures::{bundled, preprocessed, spread};
use crate::common::python::Python;

const FIXTURE: &str = include_str!("../fixtures/torch/names.json");
const CLASSES: [&str; 5] = ["ant", "bee", "cat", "dog", "elk"];

/// What a network of PyTorch has on top.
fn top(arch: &str, classes: usize) -> Head {
    let average = Head::softmax(classes).pooling(Pooling::GlobalAverage);
    match arch {
        "vgg11" => Head::softmax(classes).hidden(4096).hidden(4096),
        "mobilenetv3_large_100" => average.hidden_with(1280, Activation::HardSwish),
        "mobilenetv3_small_100" => average.hidden_with(1024, Activation::HardSwish),
        _ => average,
    }
}

fn classifier(arch: &str) -> Classifier {
    let weights = Weights::Random { seed: 5 };
    let arch: Arch = arch.parse().unwrap();
    let head = top(arch.name(), 5);
    let base = ConvBase::new(arch, weights, &Device::Cpu).unwrap().frozen();
    let model = Classifier::new(base, head, &CLASSES).unwrap();
    model.fresh_head(224, 224).unwrap()
}

/// torchvision's names for those that have others in timm.
fn timm_name(torchvision: &str) -> &str {
    match torchvision {
        "mobilenet_v2" => "mobilenetv2_100",
        "mobilenet_v3_large" => "mobilenetv3_large_100",
        "mobilenet_v3_small" => "mobilenetv3_small_100",
        name => name,
    }
}

/// A library, a network's name in it, and what that is here.
fn networks() -> Vec<(TorchNames, &'static str, String, String)> {
    let fixture: BTreeMap<String, [u64; 2]> = serde_json::from_str(FIXTURE).unwrap();
    let of = |key: &String| {
        let (library, name) = key.split_once(' ').unwrap();
        let (names, library) = match library {
            "timm" => (TorchNames::Timm, "timm"),
            _ => (TorchNames::Torchvision, "torchvision"),
        };
        (names, library, name.to_owned(), timm_name(name).to_owned())
    };
    fixture.keys().map(of).collect()
}

#[test]
fn files_have_the_names_and_shapes_of_pytorchs_networks() {
    let fixture: BTreeMap<String, [u64; 2]> = serde_json::from_str(FIXTURE).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torch");
    for (names, library, name, arch) in networks() {
        // VGG's top of half a gigabyte is tried with the real networks.
        if name == "vgg11" {
            continue;
        }
        classifier(&arch).export_torch(&path, names).unwrap();
        let file = std::fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&file).unwrap();
        let line = |(name, tensor): (String, safetensors::tensor::TensorView<'_>)| {
            format!("{name} {:?}", tensor.shape())
        };
        let mut lines: Vec<String> = file.tensors().into_iter().map(line).collect();
        lines.sort();
        let checksum = u64::from(crc32(lines.join("\n").as_bytes()));
        let found = [lines.len() as u64, checksum];
        assert_eq!(
            found,
            fixture[&format!("{library} {name}")],
            "{library} {name}: {lines:?}"
        );
    }
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torch");
    for names in [TorchNames::Timm, TorchNames::Torchvision] {
        let model = classifier("mobilenetv3_small_100");
        model.export_torch(&path, names).unwrap();
        let arch = model.base().arch().clone();
        let read = Classifier::from_torch(arch, &path, &CLASSES, &Device::Cpu).unwrap();
        assert_eq!(read.preprocess(), model.preprocess());
        let images = Tensor::randn(0f32, 1.0, (2, 3, 224, 224), &Device::Cpu).unwrap();
        let logits = |model: &Classifier| values(&model.forward(&images).unwrap());
        for (read, written) in logits(&read).iter().zip(logits(&model)) {
            // torchvision's variances differ by its epsilon.
            assert!(
                (read - written).abs() <= 1e-5 * written.abs().max(1.0),
                "{read} {written}"
            );
        }
        model.base().export_torch(&path, names).unwrap();
        let base = ConvBase::new(
            model.base().arch().clone(),
            Weights::file(&path),
            &Device::Cpu,
        );
        for ((name, read), (_, written)) in
            base.unwrap().tensors().iter().zip(model.base().tensors())
        {
            if name.ends_with("running_var") && names == TorchNames::Torchvision {
                continue;
            }
            assert_eq!(bits(read), bits(&written), "{name}");
        }
    }
}

#[test]
fn a_sigmoid_unit_is_written_as_two_softmax_units() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torch");
    let base = ConvBase::resnet18(Weights::Random { seed: 2 }, &Device::Cpu).unwrap();
    let arch = base.arch().clone();
    let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
    let model = Classifier::new(base.frozen(), head, &["cat", "dog"]).unwrap();
    model.export_torch(&path, TorchNames::Timm).unwrap();
    let read = Classifier::from_torch(arch, &path, &["cat", "dog"], &Device::Cpu).unwrap();
    let images = Tensor::randn(0f32, 1.0, (2, 3, 224, 224), &Device::Cpu).unwrap();
    let one = values(&model.forward(&images).unwrap());
    let two = values(&read.forward(&images).unwrap());
    for (one, two) in one.iter().zip(two.chunks(2)) {
        assert!((one - (two[1] - two[0])).abs() <= 1e-5 * one.abs().max(1.0));
    }
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("torch");
    let base = |name: &str| {
        let arch: Arch = name.parse().unwrap();
        ConvBase::new(arch, Weights::Random { seed: 2 }, &Device::Cpu)
            .unwrap()
            .frozen()
    };
    let average = Pooling::GlobalAverage;
    for (model, names, words) in [
        (
            Classifier::new(
                base("repvgg_a0"),
                Head::softmax(5).pooling(average),
                &CLASSES,
            ),
            TorchNames::Torchvision,
            "torchvision",
        ),
        (
            Classifier::new(
                base("resnet18"),
                Head::softmax(5).hidden(8).pooling(average),
                &CLASSES,
            ),
            TorchNames::Timm,
            "Pooling::GlobalAverage, a unit a class",
        ),
        (
            Classifier::new(
                base("mobilenetv3_small_100"),
                Head::softmax(5).pooling(average),
                &CLASSES,
            ),
            TorchNames::Timm,
            "1024 hidden units with HardSwish",
        ),
        (
            Classifier::new(base("vgg11"), Head::softmax(5), &CLASSES),
            TorchNames::Timm,
            "features of 7×7, flattened",
        ),
    ] {
        let error = model.unwrap().export_torch(&path, names).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert!(!path.exists());
    }
    let model = classifier("resnet18");
    let error = model.export_torch(folder.path().join("no/folder"), TorchNames::Timm);
    assert!(error.unwrap_err().to_string().contains("no/folder"));
    model.export_torch(&path, TorchNames::Timm).unwrap();
    let arch = || model.base().arch().clone();
    let error = Classifier::from_torch(arch(), &path, &CLASSES[..4], &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("class_names"), "{error}");
    model.base().export_torch(&path, TorchNames::Timm).unwrap();
    let error = Classifier::from_torch(arch(), &path, &CLASSES, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("`fc.weight`"), "{error}");
    let narrow = headstart::model::Vgg::Vgg11.width(0.125).unwrap();
    let error = Classifier::from_torch(narrow, &path, &CLASSES, &Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("usual width"), "{error}");
}

/// The logits of a script's network.
#[derive(Deserialize)]
struct Logits {
    logits: Vec<Vec<f64>>,
}

/// The largest difference of a classifier's logits from others, relative to the largest.
fn difference(model: &Classifier, images: &Tensor, wanted: &Logits) -> f64 {
    let wanted: Vec<f64> = wanted.logits.concat();
    let found = values(&model.forward(images).unwrap());
    assert_eq!(found.len(), wanted.len());
    let pairs = found.iter().map(|&x| f64::from(x)).zip(&wanted);
    let largest = wanted
        .iter()
        .fold(0f64, |largest, logit| largest.max(logit.abs()));
    let errors = pairs.map(|(x, y)| (x - y).abs() / largest);
    // NaN is no small error.
    errors.fold(
        0.0,
        |worst, error| if error <= worst { worst } else { error },
    )
}

#[test]
#[ignore = "needs Python with timm and torchvision, and takes minutes"]
fn timm_and_torchvision_load_ours_and_we_theirs() {
    let mut python = Python::start("tests/torch/check.py");
    let folder = tempfile::tempdir().unwrap();
    let pixels = folder.path().join("pixels");
    let (mut out, mut back, mut count) = (0f64, 0f64, 0);
    for (names, library, name, arch) in networks() {
        let model = classifier(&arch);
        let images = preprocessed(&model, &bundled(&model, 3));
        spread(&model, &images);
        let raw: Vec<u8> = values(&images)
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        std::fs::write(&pixels, raw).unwrap();
        let mut ask = |what: &str, file: &Path| -> Logits {
            python.ask(&json!({
                "do": what, "library": library, "name": name, "classes": 5, "file": file,
                "pixels": pixels, "shape": images.dims(),
            }))
        };
        let path = folder.path().join("ours.safetensors");
        model.export_torch(&path, names).unwrap();
        out = out.max(difference(&model, &images, &ask("load", &path)));
        for file in ["theirs.safetensors", "theirs.pth", "theirs.pth.tar"] {
            let path = folder.path().join(file);
            let logits = ask("make", &path);
            let arch = model.base().arch().clone();
            let read = Classifier::from_torch(arch, &path, &CLASSES, &Device::Cpu).unwrap();
            back = back.max(difference(&read, &images, &logits));
            count += 1;
        }
        assert!(
            out < 1e-5 && back < 1e-5,
            "{library} {name}: {out:.1e} out, {back:.1e} back"
        );
    }
    println!(
        "{} networks out, largest error {out:.1e}; {count} files in, {back:.1e}",
        networks().len()
    );
}
