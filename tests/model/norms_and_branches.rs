//! Weight files of bases with batch norms and branches: what loads, and what is refused by which name.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use headstart::model::{Arch, Backbone};
use headstart::{ConvBase, Error, Weights};
use serde::Deserialize;
use tempfile::TempDir;

use super::common::numbers::{bits, norm, values};
use super::streams::{Tensors, fixture, numbers, weight};

/// timm's names and shapes, from the fixtures of `bases`.
#[derive(Deserialize)]
struct Fixture {
    gain: f64,
    tensors: Tensors,
    /// RepVGG's after timm has added its branches up.
    fused: Option<Tensors>,
}

type File = HashMap<String, Tensor>;

fn timm(variant: &str) -> Fixture {
    fixture(&format!("bases/{variant}")).0
}

/// A file as timm writes it.
fn filled(variant: &str) -> File {
    let Fixture { gain, tensors, .. } = timm(variant);
    let tensors = tensors.into_iter();
    tensors
        .map(|(name, shape)| {
            let tensor = weight(&name, &shape, gain);
            (name, tensor)
        })
        .collect()
}

fn save(file: &File) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    candle_core::safetensors::save(file, &path).unwrap();
    (folder, path)
}

fn open(variant: &str, path: &Path) -> headstart::Result<ConvBase> {
    let arch: Arch = variant.parse().unwrap();
    ConvBase::new(arch, Weights::file(path), &Device::Cpu).map(ConvBase::frozen)
}

fn load(variant: &str, file: &File) -> headstart::Result<ConvBase> {
    let (_folder, path) = save(file);
    open(variant, &path)
}

fn features(base: &ConvBase) -> Tensor {
    base.forward(&numbers(1001, &[2, 3, 75, 90], 0.0, 1.0))
        .unwrap()
}

/// One number of a tensor replaced by another.
fn spoil(file: &mut File, name: &str, place: usize, value: f32) {
    let tensor = &file[name];
    let mut numbers = values(tensor);
    numbers[place] = value;
    let spoilt = Tensor::from_vec(numbers, tensor.shape(), &Device::Cpu).unwrap();
    file.insert(name.to_owned(), spoilt);
}

#[test]
fn a_file_of_another_family_is_refused_by_every_name_of_the_first_tensor() {
    for (variant, others, names) in [
        (
            "efficientnet_b0",
            ["resnet18", "repvgg_a0"],
            &[
                "features.0.0.weight",
                "conv_stem.weight",
                "base.conv_stem.weight",
            ][..],
        ),
        (
            "resnet18",
            ["tf_efficientnet_lite0", "mobilenetv3_small_100"],
            &["conv1.weight", "base.conv1.weight"],
        ),
        (
            "repvgg_a0",
            ["resnet18", "efficientnet_b0"],
            &[
                "stem.reparam_conv.weight",
                "stem.conv_kxk.conv.weight",
                "base.stem.reparam_conv.weight",
            ],
        ),
        (
            "vgg11",
            ["resnet18", "efficientnet_b0"],
            &["features.0.weight", "block1_conv1.weight"],
        ),
    ] {
        for other in others {
            let (_folder, path) = save(&filled(other));
            let error = open(variant, &path).unwrap_err();
            assert!(matches!(error, Error::MissingTensor { .. }), "{error}");
            let error = error.to_string();
            assert!(error.contains(&path.display().to_string()), "{error}");
            for name in names {
                assert!(error.contains(&format!("`{name}`")), "{name}: {error}");
            }
        }
    }
}

#[test]
fn a_file_of_another_member_of_the_family_is_refused_by_the_first_tensor_that_differs() {
    let file = filled("resnet18");
    let error = load("resnet34", &file).unwrap_err();
    assert!(
        matches!(&error, Error::MissingTensor { tensor, .. } if tensor == "layer1.2.conv1.weight"),
        "{error}"
    );
    let error = load("resnet50", &file).unwrap_err();
    assert!(
        matches!(&error, Error::TensorShape { tensor, expected, found, .. }
            if tensor == "layer1.0.conv1.weight" && *expected == [64, 64, 1, 1] && *found == [64, 64, 3, 3]),
        "{error}"
    );
    let error = load("mobilenetv2_100", &filled("tf_efficientnet_lite0")).unwrap_err();
    assert!(
        matches!(
            &error,
            Error::MissingTensor { .. } | Error::TensorShape { .. }
        ),
        "{error}"
    );
    assert!(error.to_string().contains("`blocks."), "{error}");
}

#[test]
fn a_missing_tensor_of_a_batch_norm_or_a_gate_is_named() {
    let variant = "mobilenetv3_small_100";
    for name in [
        "bn1.running_mean",
        "blocks.1.0.bn2.bias",
        "blocks.2.0.se.conv_expand.bias",
        "blocks.5.0.bn1.running_var",
    ] {
        let mut file = filled(variant);
        file.remove(name).unwrap();
        let error = load(variant, &file).unwrap_err();
        assert!(
            matches!(&error, Error::MissingTensor { tensor, .. } if tensor == name),
            "{error}"
        );
    }
}

#[test]
fn a_batch_norm_that_would_give_nan_is_refused_by_name() {
    for (variant, name) in [
        ("mobilenetv3_small_100", "blocks.1.0.bn2.running_var"),
        ("mobilenetv3_small_100", "bn1.running_var"),
        ("repvgg_a0", "stages.1.1.identity.running_var"),
        ("repvgg_a0", "stages.0.0.conv_1x1.bn.running_var"),
    ] {
        let file = filled(variant);
        for (value, said) in [
            (f32::NAN, "NaN"),
            (f32::INFINITY, "inf"),
            (-0.25, "-0.25"),
            (-1e-6, "-0.000001"),
        ] {
            let mut file = file.clone();
            spoil(&mut file, name, 5, value);
            let error = load(variant, &file).unwrap_err();
            assert!(matches!(error, Error::WeightFile { .. }), "{error}");
            let error = error.to_string();
            for part in [&format!("`{name}`"), said] {
                assert!(error.contains(part), "{part}: {error}");
            }
        }
        for value in [0.0, -0.0] {
            let mut file = file.clone();
            spoil(&mut file, name, 5, value);
            let features = features(&load(variant, &file).unwrap());
            assert!(values(&features).iter().all(|value| value.is_finite()));
        }
    }
}

#[test]
fn other_numbers_may_be_negative() {
    let variant = "mobilenetv3_small_100";
    let mut file = filled(variant);
    for kind in ["weight", "bias", "running_mean"] {
        spoil(&mut file, &format!("blocks.1.0.bn2.{kind}"), 5, -3.0);
    }
    load(variant, &file).unwrap();
}

#[test]
fn what_the_base_has_no_use_for_is_passed_over() {
    for variant in ["mobilenetv3_small_100", "repvgg_a0"] {
        let mut file = filled(variant);
        let expected = bits(&features(&load(variant, &file).unwrap()));
        let norms: Vec<String> = file
            .keys()
            .filter_map(|name| name.strip_suffix(".running_mean").map(str::to_owned))
            .collect();
        assert!(norms.len() > 20);
        for norm in norms {
            let count = Tensor::new(0i64, &Device::Cpu).unwrap();
            file.insert(format!("{norm}.num_batches_tracked"), count);
        }
        // Of such as are read they would be refused.
        let nan = Tensor::full(f32::NAN, (1000, 8), &Device::Cpu).unwrap();
        let negative = Tensor::full(-1f32, 8, &Device::Cpu).unwrap();
        for (name, tensor) in [
            ("classifier.weight", &nan),
            ("conv_head.weight", &nan),
            ("head.fc.weight", &nan),
            ("head.bn.running_var", &negative),
        ] {
            assert!(file.insert(name.to_owned(), tensor.clone()).is_none());
        }
        assert_eq!(bits(&features(&load(variant, &file).unwrap())), expected);
    }
}

#[test]
fn halves_are_the_numbers_they_round_to() {
    let variant = "mobilenetv3_small_100";
    let halves: File = filled(variant)
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_dtype(DType::F16).unwrap()))
        .collect();
    let base = load(variant, &halves).unwrap();
    let tensors = base.tensors();
    assert_eq!(tensors.len(), halves.len());
    for (name, tensor) in tensors {
        let expected = halves[&name].to_dtype(DType::F32).unwrap();
        assert_eq!(bits(&tensor), bits(&expected), "{name}");
    }
}

/// A branch's weight (out, in, k, k) and bias in f64: its batch norm is (y − mean) / √(variance + 1e-5) · scale +
/// shift.
fn branch(file: &File, weight: Vec<f64>, norm: &str) -> (Vec<f64>, Vec<f64>) {
    let norm = |kind: &str| {
        values(&file[&format!("{norm}.{kind}")])
            .into_iter()
            .map(f64::from)
    };
    let deviations = norm("running_var").map(|variance| (variance + 1e-5).sqrt());
    let factors: Vec<f64> = norm("weight").zip(deviations).map(|(w, d)| w / d).collect();
    let means = norm("running_mean")
        .zip(&factors)
        .map(|(mean, factor)| mean * factor);
    let bias = norm("bias").zip(means).map(|(bias, mean)| bias - mean);
    let of_channel = weight.len() / factors.len();
    let weight = weight.iter().enumerate();
    let weight = weight.map(|(place, w)| w * factors[place / of_channel]);
    (weight.collect(), bias.collect())
}

/// Section 3.3 of Ding et al. 2021, number by number.
fn fuse(file: &File, prefix: &str, shape: &[usize]) -> (Tensor, Tensor) {
    let (outputs, inputs) = (shape[0], shape[1]);
    let kernel = |name: &str| -> Vec<f64> {
        let kernel = values(&file[&format!("{prefix}.{name}.conv.weight")]);
        kernel.into_iter().map(f64::from).collect()
    };
    let (mut weight, mut bias) = branch(file, kernel("conv_kxk"), &format!("{prefix}.conv_kxk.bn"));
    let mut add = |pointwise: Vec<f64>, norm: String| {
        let (pointwise, shift) = branch(file, pointwise, &norm);
        for (channel, value) in pointwise.into_iter().enumerate() {
            weight[9 * channel + 4] += value;
        }
        bias.iter_mut()
            .zip(shift)
            .for_each(|(sum, value)| *sum += value);
    };
    add(kernel("conv_1x1"), format!("{prefix}.conv_1x1.bn"));
    if file.contains_key(&format!("{prefix}.identity.weight")) {
        let passes = |place: usize| f64::from(place / inputs == place % inputs);
        let passes = (0..outputs * inputs).map(passes).collect();
        add(passes, format!("{prefix}.identity"));
    }
    let single = |numbers: Vec<f64>| numbers.into_iter().map(|number| number as f32).collect();
    let tensor =
        |numbers: Vec<f32>, shape: &[usize]| Tensor::from_vec(numbers, shape, &Device::Cpu);
    (
        tensor(single(weight), shape).unwrap(),
        tensor(single(bias), &[outputs]).unwrap(),
    )
}

#[test]
fn branches_and_their_sum_give_the_same_features() {
    let variant = "repvgg_a0";
    let branches = filled(variant);
    let mut sums = File::new();
    for (name, shape) in timm(variant).fused.unwrap() {
        if let Some(prefix) = name.strip_suffix(".reparam_conv.weight") {
            let (weight, bias) = fuse(&branches, prefix, &shape);
            sums.insert(name.clone(), weight);
            sums.insert(format!("{prefix}.reparam_conv.bias"), bias);
        }
    }
    assert_eq!(sums.len(), timm(variant).fused.unwrap().len());
    let found = features(&load(variant, &branches).unwrap());
    let expected = features(&load(variant, &sums).unwrap());
    let difference = (found - &expected).unwrap();
    let [difference, whole] =
        [difference, expected].map(|tensor| norm(values(&tensor).into_iter().map(f64::from)));
    let error = difference / whole;
    assert!(error < 1e-5, "relative error {error:e}");
}

#[test]
fn a_missing_branch_is_named() {
    let file = filled("repvgg_a0");
    for name in [
        "stem.conv_1x1.conv.weight",
        "stages.0.1.identity.weight",
        "stages.2.3.conv_1x1.bn.running_mean",
        "stages.3.0.conv_kxk.conv.weight",
    ] {
        let mut file = file.clone();
        file.remove(name).unwrap();
        let error = load("repvgg_a0", &file).unwrap_err();
        assert!(
            matches!(&error, Error::MissingTensor { tensor, .. } if tensor == name),
            "{error}"
        );
    }
}
