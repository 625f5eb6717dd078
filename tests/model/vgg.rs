//! The bases against torchvision's: every block's output, the gradients of weights, and what freezing means.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use headstart::data::{decode_file, resize};
use headstart::model::Backbone;
use headstart::model::{Mode, Vgg};
use headstart::{Block, ConvBase, Preprocess, Resize, RmsProp, Weights};
use serde_json::Value;

const RANDOM: &str = include_str!("../fixtures/vgg/random.json");
const GRADIENTS: &str = include_str!("../fixtures/vgg/gradients.json");
const REAL: &str = include_str!("../fixtures/vgg/real.json");
const SHARED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared");

/// Numbers in [−1, 1) from splitmix64 of (stream, index): `make.py` has the same lines.
fn uniform(stream: u64, count: usize) -> Vec<f64> {
    (0..count as u64)
        .map(|index| {
            let mut z = (stream << 40).wrapping_add(index);
            z = z.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 40) as f64 / f64::from(1 << 23) - 1.0
        })
        .collect()
}

fn tensor(values: Vec<f64>, scale: f64, shape: &[usize]) -> Tensor {
    let values: Vec<f32> = values
        .into_iter()
        .map(|value| (value * scale) as f32)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A base with the fixture's weights, through a file with torchvision's names.
fn random_base(vgg: Vgg) -> ConvBase {
    let mut tensors = std::collections::HashMap::new();
    let (mut inputs, mut index, mut number) = (3, 0, 0);
    for (count, outputs) in vgg.convolutions().into_iter().zip(vgg.channels()) {
        for _ in 0..count {
            let size = outputs * inputs * 9;
            let limit = (6.0 / (inputs * 9) as f64).sqrt();
            let weight = tensor(uniform(2 * number, size), limit, &[outputs, inputs, 3, 3]);
            let bias = tensor(uniform(2 * number + 1, outputs), 0.1, &[outputs]);
            tensors.insert(format!("features.{index}.weight"), weight);
            tensors.insert(format!("features.{index}.bias"), bias);
            inputs = outputs;
            index += 2;
            number += 1;
        }
        index += 1;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.safetensors");
    candle_core::safetensors::save(&tensors, &file).unwrap();
    ConvBase::new(vgg, Weights::file(file), &Device::Cpu).unwrap()
}

/// Relative error of the sampled numbers: rms of the difference over rms of what is expected.
fn assert_sampled(what: &str, found: &Tensor, expected: &Value) {
    let shape: Vec<usize> = serde_json::from_value(expected["shape"].clone()).unwrap();
    assert_eq!(found.dims(), shape, "{what}");
    let stride = expected["stride"].as_u64().unwrap() as usize;
    let values: Vec<f64> = serde_json::from_value(expected["values"].clone()).unwrap();
    let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
    let found: Vec<f64> = found.into_iter().step_by(stride).map(f64::from).collect();
    assert_eq!(found.len(), values.len(), "{what}");
    let square: f64 = values.iter().map(|value| value * value).sum();
    let error: f64 = found
        .iter()
        .zip(&values)
        .map(|(a, b)| (a - b).powi(2))
        .sum();
    let relative = (error / square).sqrt();
    assert!(
        square > 0.0 && relative < 1e-4,
        "{what}: relative error {relative:e}"
    );
}

#[test]
fn every_block_of_every_base_is_torchvisions() {
    let cases: Vec<Value> = serde_json::from_str(RANDOM).unwrap();
    for case in cases {
        let vgg: Vgg = case["arch"].as_str().unwrap().parse().unwrap();
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
        let images = tensor(uniform(1000, shape.iter().product()), 1.0, &shape);
        for base in [random_base(vgg).frozen(), random_base(vgg)] {
            for block in Block::ALL {
                let what = format!(
                    "{vgg} {shape:?} {}, trainable: {}",
                    block.name(),
                    base.is_trainable(block)
                );
                let found = base.forward_to(&images, block).unwrap();
                assert_sampled(&what, &found, &case["blocks"][block.index()]);
            }
            let inferred = base.features(&images, Mode::Infer).unwrap();
            assert_sampled("inference", &inferred, &case["blocks"][4]);
        }
    }
}

#[test]
fn gradients_of_weights_are_pytorchs() {
    let cases: Vec<Value> = serde_json::from_str(GRADIENTS).unwrap();
    let mut checked = 0;
    for case in cases {
        let vgg: Vgg = case["arch"].as_str().unwrap().parse().unwrap();
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
        let images = tensor(
            uniform(case["stream"].as_u64().unwrap(), shape.iter().product()),
            1.0,
            &shape,
        );
        let gradients = case["gradients"].as_array().unwrap();
        // From the fifth block alone to all: the gradient of what is open does not depend on what is frozen.
        for first in [Block::Conv5, Block::Conv3, Block::Conv1] {
            let base = random_base(vgg).frozen().unfreeze_from(first).unwrap();
            let features = base.forward(&images).unwrap();
            let cotangent = tensor(uniform(2000, features.elem_count()), 1.0, features.dims());
            let found = (features * cotangent)
                .unwrap()
                .sum_all()
                .unwrap()
                .backward()
                .unwrap();
            let variables = base.variables();
            let expected = gradients.iter().flat_map(|layer| layer.as_array().unwrap());
            let expected: Vec<&Value> = expected.collect();
            let expected = &expected[expected.len() - variables.len()..];
            for ((name, var), expected) in variables.iter().zip(expected) {
                let what = format!("{vgg} {shape:?} open from {}: {name}", first.name());
                assert_sampled(&what, found.get(var).unwrap(), expected);
                checked += 1;
            }
        }
    }
    // Weights and biases of vgg19 (twice: 4, 12 and 16 convolutions) and vgg11 (2, 6 and 8).
    assert_eq!(checked, 2 * (2 * (4 + 12 + 16) + 2 + 6 + 8));
}

#[test]
#[ignore = "needs ../shared"]
fn real_weights_on_real_pictures_are_pytorchs() {
    let weights = Weights::file(format!("{SHARED}/weights/vgg16-imagenet-caffe.safetensors"));
    let base = ConvBase::vgg16(weights, &Device::Cpu).unwrap().frozen();
    let cases: Vec<Value> = serde_json::from_str(REAL).unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let names: Vec<String> = serde_json::from_value(case["pictures"].clone()).unwrap();
        let (height, width): (usize, usize) = serde_json::from_value(case["size"].clone()).unwrap();
        let mut pixels = Vec::new();
        for name in &names {
            let path = format!("{SHARED}/data/santa/test/{name}");
            let picture = decode_file(&path).unwrap();
            let picture = resize(&picture, height as u32, width as u32, Resize::Nearest);
            pixels.extend(picture.iter().map(|level| f32::from(*level)));
        }
        let pixels =
            Tensor::from_vec(pixels, (names.len(), height, width, 3), &Device::Cpu).unwrap();
        let images = Preprocess::Caffe
            .apply(&pixels.permute((0, 3, 1, 2)).unwrap())
            .unwrap();
        for block in Block::ALL {
            let found = base.forward_to(&images, block).unwrap();
            let what = format!("{names:?} {}", block.name());
            assert_sampled(&what, &found, &case["blocks"][block.index()]);
        }
    }
}

#[test]
fn parameters_are_those_of_keras() {
    // keras 3.15 and torchvision 0.29: parameters of the bases without top.
    for (vgg, parameters) in [
        (Vgg::Vgg11, 9_220_480),
        (Vgg::Vgg13, 9_404_992),
        (Vgg::Vgg16, 14_714_688),
        (Vgg::Vgg19, 20_024_384),
    ] {
        let base = ConvBase::new(vgg, Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
        let summary = base.summary(64, 64).unwrap();
        assert_eq!(summary.total_parameters(), parameters, "{vgg}");
        assert_eq!(summary.trainable_parameters(), parameters, "{vgg}");
        let base = base.frozen();
        assert_eq!(base.summary(64, 64).unwrap().trainable_parameters(), 0);
    }
}

#[test]
fn layers_are_named_as_in_keras() {
    let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
    let layers = base.layers(64, 64).unwrap();
    let names: Vec<_> = layers.iter().map(|layer| layer.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "block1_conv1",
            "block1_pool",
            "block2_conv1",
            "block2_pool",
            "block3_conv1",
            "block3_conv2",
            "block3_pool",
            "block4_conv1",
            "block4_conv2",
            "block4_pool",
            "block5_conv1",
            "block5_conv2",
            "block5_pool",
        ]
    );
    assert_eq!(layers[0].output, [64, 64, 64]);
    assert_eq!(layers[12].output, [512, 2, 2]);
}

#[test]
fn flags_open_what_they_say() {
    let base = || ConvBase::vgg11(Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
    let open = |base: &ConvBase| {
        Block::ALL
            .into_iter()
            .filter(|block| base.is_trainable(*block))
            .collect::<Vec<_>>()
    };
    assert_eq!(open(&base()), Block::ALL);
    assert_eq!(open(&base().frozen()), []);
    assert_eq!(
        open(&base().frozen().unfreeze(Block::Conv3).unwrap()),
        [Block::Conv3]
    );
    let from = base().frozen().unfreeze_from(Block::Conv4).unwrap();
    assert_eq!(open(&from), [Block::Conv4, Block::Conv5]);
    let names: Vec<_> = from.variables().into_iter().map(|(name, _)| name).collect();
    assert_eq!(
        names,
        [
            "block4_conv1.weight",
            "block4_conv1.bias",
            "block4_conv2.weight",
            "block4_conv2.bias",
            "block5_conv1.weight",
            "block5_conv1.bias",
            "block5_conv2.weight",
            "block5_conv2.bias",
        ]
    );
    let mut base = base();
    base.set_block(Block::Conv1, false).unwrap();
    assert_eq!(open(&base), Block::ALL[1..]);
}

#[test]
fn a_frozen_block_takes_no_gradient_and_no_change() {
    let device = Device::Cpu;
    let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &device).unwrap();
    let base = base.frozen().unfreeze(Block::Conv4).unwrap();
    let images = tensor(uniform(1, 2 * 3 * 32 * 32), 1.0, &[2, 3, 32, 32]);
    assert!(
        !base.forward_to(&images, Block::Conv3).unwrap().track_op(),
        "a frozen prefix has no graph"
    );
    assert!(base.forward(&images).unwrap().track_op());
    assert!(!base.features(&images, Mode::Infer).unwrap().track_op());

    let bits = |base: &ConvBase| -> Vec<(String, Vec<u32>)> {
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let tensors = base.tensors().into_iter();
        tensors
            .map(|(name, tensor)| (name, flat(&tensor).into_iter().map(f32::to_bits).collect()))
            .collect()
    };
    let before = bits(&base);
    let variables = base.variables().into_iter().map(|(_, var)| var).collect();
    let mut optimizer = RmsProp::new(1e-3).with_variables(variables).unwrap();
    let loss = base.forward(&images).unwrap().sum_all().unwrap();
    optimizer.backward_step(&loss).unwrap();
    for ((name, before), (_, after)) in before.iter().zip(bits(&base)) {
        let changed = *before != after;
        assert_eq!(changed, name.starts_with("block4"), "{name}");
    }
    // What the kernels made of frozen weights must not outlive a change of flags.
    let reopened = base.clone().unfreeze_from(Block::Conv1).unwrap();
    for (_, var) in reopened.variables() {
        var.set(&var.zeros_like().unwrap()).unwrap();
    }
    let zero = reopened.frozen().forward(&images).unwrap();
    assert_eq!(
        zero.abs()
            .unwrap()
            .max_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap(),
        0.0
    );
}

#[test]
fn images_may_ask_for_a_gradient() {
    let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &Device::Cpu)
        .unwrap()
        .frozen();
    let images = Var::from_tensor(&tensor(uniform(1, 3 * 32 * 32), 1.0, &[1, 3, 32, 32])).unwrap();
    let gradients = base
        .forward(&images)
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    assert!(gradients.get(&images).is_some());
}

#[test]
fn sizes_are_checked() {
    let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &Device::Cpu)
        .unwrap()
        .frozen();
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for (height, width) in [(32, 32), (33, 63), (64, 47), (224, 32)] {
        let features = base.forward(&zeros(&[1, 3, height, width])).unwrap();
        assert_eq!(features.dims(), [1, 512, height / 32, width / 32]);
        assert_eq!(
            base.output_shape(height, width).unwrap(),
            [512, height / 32, width / 32]
        );
    }
    for shape in [
        &[1, 3, 31, 64][..],
        &[1, 3, 64, 16],
        &[1, 1, 64, 64],
        &[3, 64, 64],
    ] {
        let error = base.forward(&zeros(shape)).unwrap_err().to_string();
        assert!(error.contains("(N, 3, H, W)"), "{error}");
    }
    assert!(
        base.summary(16, 64)
            .unwrap_err()
            .to_string()
            .contains("32×32")
    );
}
