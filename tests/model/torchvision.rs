//! torchvision's files load into our tables, whose names and epsilons differ, and give torchvision's features.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use headstart::model::{Arch, Backbone};
use headstart::{ConvBase, Preprocess, Weights};
use serde::Deserialize;

use super::streams::{Tensors, fixture, numbers, sampled_error, weight};

/// About how many features are compared, as in `make.py`.
const SAMPLES: usize = 67;

/// What `make.py` wrote beside its sample.
#[derive(Deserialize)]
struct Fixture {
    arch: String,
    gain: f64,
    /// Everything in torchvision's file, classifier included.
    tensors: Tensors,
    shape: Vec<usize>,
    stream: u64,
    output: Vec<usize>,
}

fn check(network: &str) {
    let (fixture, samples) = fixture::<Fixture>(&format!("torchvision/{network}"));
    let tensor = |name: &str, shape: &[usize]| match name.ends_with("num_batches_tracked") {
        true => Tensor::new(0i64, &Device::Cpu).unwrap(),
        false => weight(name, shape, fixture.gain),
    };
    let tensors: HashMap<_, _> = fixture
        .tensors
        .iter()
        .map(|(name, shape)| (name, tensor(name, shape)))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.safetensors");
    candle_core::safetensors::save(&tensors, &file).unwrap();

    let arch: Arch = fixture.arch.parse().unwrap();
    let base = ConvBase::new(arch, Weights::file(file), &Device::Cpu).unwrap();
    assert_eq!(base.preprocess(), Preprocess::Torch, "{network}");
    let images = numbers(fixture.stream, &fixture.shape, 0.0, 1.0);
    for base in [base.clone(), base.frozen()] {
        let features = base.forward(&images).unwrap();
        assert_eq!(features.dims(), fixture.output, "{network}");
        let error = sampled_error(network, &features, &samples["features"], SAMPLES);
        assert!(error < 1e-4, "{network}: relative error {error:e}");
    }
}

#[test]
fn resnet18_is_torchvisions() {
    check("resnet18");
}

#[test]
fn efficientnet_b0_is_torchvisions() {
    check("efficientnet_b0");
}

#[test]
fn efficientnet_b1_is_torchvisions() {
    check("efficientnet_b1");
}

#[test]
fn efficientnet_b2_is_torchvisions() {
    check("efficientnet_b2");
}

#[test]
fn mobilenet_v2_is_torchvisions() {
    check("mobilenet_v2");
}

#[test]
fn mobilenet_v3_large_is_torchvisions() {
    check("mobilenet_v3_large");
}

#[test]
fn mobilenet_v3_small_is_torchvisions() {
    check("mobilenet_v3_small");
}
