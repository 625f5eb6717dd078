//! The head's layers: fresh parameters, dropout, pooling, and the order Keras flattens in.

use candle_core::{DType, Device, Tensor};
use headstart::model::Pooling;
use headstart::model::{Dropout, HeadLayers, Mode};
use headstart::{Error, Head};

const CPU: Device = Device::Cpu;

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Features (N, C, h, w) of small different numbers.
fn features(shape: (usize, usize, usize, usize)) -> Tensor {
    let count = shape.0 * shape.1 * shape.2 * shape.3;
    let numbers: Vec<f32> = (0..count)
        .map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0)
        .collect();
    Tensor::from_vec(numbers, shape, &CPU).unwrap()
}

/// Glorot and Bengio (2010): uniform in ±√(6 / (inputs + outputs)), whose variance is a third of its limit squared.
#[test]
fn fresh_weights_are_glorot_uniform() {
    let head = Head::softmax(3)
        .hidden(64)
        .seed(5)
        .build([8, 4, 4], &CPU)
        .unwrap();
    for (name, tensor) in head.tensors() {
        let values: Vec<f64> = values(&tensor).into_iter().map(f64::from).collect();
        let [outputs, inputs] = *tensor.dims() else {
            assert!(values.iter().all(|bias| *bias == 0.0), "{name}");
            continue;
        };
        let (limit, count) = (
            (6.0 / (outputs + inputs) as f64).sqrt(),
            values.len() as f64,
        );
        let largest = values
            .iter()
            .fold(0f64, |most, value| most.max(value.abs()));
        assert!(
            largest <= limit && largest > 0.95 * limit,
            "{name}: {largest} of {limit}"
        );
        // Five standard errors of a uniform's mean and of its variance.
        let mean = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|value| value * value).sum::<f64>() / count;
        let (third, fifth) = (limit.powi(2) / 3.0, limit.powi(4) / 5.0);
        assert!(
            mean.abs() < 5.0 * (third / count).sqrt(),
            "{name}: mean {mean}"
        );
        let error = ((fifth - third * third) / count).sqrt();
        assert!(
            (variance - third).abs() < 5.0 * error,
            "{name}: variance {variance}"
        );
    }
}

#[test]
fn the_seed_fixes_the_weights() {
    let weights = |seed| {
        let head = Head::sigmoid()
            .hidden(8)
            .seed(seed)
            .build([4, 2, 2], &CPU)
            .unwrap();
        head.tensors()
            .into_iter()
            .map(|(name, tensor)| (name, values(&tensor)))
            .collect::<Vec<_>>()
    };
    assert_eq!(weights(3), weights(3));
    assert_ne!(weights(3), weights(4));
}

/// The mask of each picture: a logit's slope in a feature is weight · mask.
fn kept(head: &HeadLayers, pictures: &[u64], epoch: u64, seed: u64) -> Vec<Vec<f32>> {
    let shape = (pictures.len(), 100, 2, 2);
    let input = candle_core::Var::ones(shape, DType::F32, &CPU).unwrap();
    let dropout = Dropout {
        seed,
        epoch,
        pictures,
    };
    let logits = head.forward(&input, Mode::Train, Some(&dropout)).unwrap();
    let gradients = logits.sum_all().unwrap().backward().unwrap();
    let weight = values(&head.tensors()[0].1);
    gradients
        .get(&input)
        .unwrap()
        .flatten_from(1)
        .unwrap()
        .to_vec2::<f32>()
        .unwrap()
        .into_iter()
        .map(|row| {
            row.iter()
                .zip(&weight)
                .map(|(slope, weight)| slope / weight)
                .collect()
        })
        .collect()
}

#[test]
fn dropout_depends_on_the_picture_not_on_the_batch() {
    let head = Head::sigmoid()
        .dropout(0.25)
        .build([100, 2, 2], &CPU)
        .unwrap();
    let together = kept(&head, &[7, 8, 9], 2, 1);
    assert_eq!(
        together[1],
        kept(&head, &[8], 2, 1)[0],
        "alone in its batch"
    );
    assert_eq!(
        together[0],
        kept(&head, &[9, 7], 2, 1)[1],
        "elsewhere in its batch"
    );
    assert_ne!(together[0], together[1], "another picture");
    assert_ne!(together[0], kept(&head, &[7], 3, 1)[0], "another epoch");
    assert_ne!(together[0], kept(&head, &[7], 2, 2)[0], "another seed");
}

#[test]
fn dropout_zeroes_its_share_and_scales_the_rest() {
    let head = Head::sigmoid()
        .dropout(0.25)
        .build([100, 2, 2], &CPU)
        .unwrap();
    let pictures: Vec<u64> = (0..100).collect();
    let all = kept(&head, &pictures, 1, 1).concat();
    let zeros = all.iter().filter(|share| **share == 0.0).count() as f64 / all.len() as f64;
    // Five standard errors of a share of 40 000.
    assert!(
        (zeros - 0.25).abs() < 5.0 * (0.25f64 * 0.75 / all.len() as f64).sqrt(),
        "{zeros}"
    );
    for share in all.iter().filter(|share| **share != 0.0) {
        assert!((share - 4.0 / 3.0).abs() < 1e-5, "{share}");
    }
}

#[test]
fn two_dropout_layers_drop_different_units() {
    let double = Head::sigmoid()
        .dropout(0.5)
        .dropout(0.5)
        .build([100, 2, 2], &CPU)
        .unwrap();
    let all = kept(&double, &(0..50).collect::<Vec<_>>(), 1, 1).concat();
    let zeros = all.iter().filter(|share| **share == 0.0).count() as f64 / all.len() as f64;
    assert!(
        (zeros - 0.75).abs() < 0.02,
        "independent halves leave a quarter: {zeros}"
    );
}

#[test]
fn dropout_rests_when_the_head_is_used() {
    let with = Head::softmax(3)
        .hidden(5)
        .dropout(0.9)
        .build([4, 2, 2], &CPU)
        .unwrap();
    let without = Head::softmax(3).hidden(5).build([4, 2, 2], &CPU).unwrap();
    let input = features((2, 4, 2, 2));
    let dropout = Dropout {
        seed: 1,
        epoch: 1,
        pictures: &[0, 1],
    };
    assert_eq!(
        values(&with.forward(&input, Mode::Infer, Some(&dropout)).unwrap()),
        values(&without.forward(&input, Mode::Infer, None).unwrap())
    );
}

#[test]
fn global_averages_are_the_means_of_the_maps() {
    let head = Head::softmax(3)
        .pooling(Pooling::GlobalAverage)
        .build([4, 2, 3], &CPU)
        .unwrap();
    let input = features((2, 4, 2, 3));
    let flat = values(&input);
    let weight: Vec<Vec<f32>> = head.tensors()[0].1.to_vec2().unwrap();
    let logits: Vec<Vec<f32>> = head
        .forward(&input, Mode::Infer, None)
        .unwrap()
        .to_vec2()
        .unwrap();
    for (picture, row) in logits.iter().enumerate() {
        for (class, logit) in row.iter().enumerate() {
            let expected: f64 = (0..4)
                .map(|channel| {
                    let map = &flat[(picture * 4 + channel) * 6..][..6];
                    let mean = map.iter().map(|x| f64::from(*x)).sum::<f64>() / 6.0;
                    mean * f64::from(weight[class][channel])
                })
                .sum();
            assert!(
                (f64::from(*logit) - expected).abs() < 1e-6,
                "{logit} is not {expected}"
            );
        }
    }
}

/// A dense layer trained in Keras reads (h, w, c); reordered, it gives the same logits on (c, h, w).
#[test]
fn keras_weights_are_reordered() {
    let (c, h, w) = (4, 2, 3);
    let trained_in_keras = Head::softmax(3).build([c, h, w], &CPU).unwrap();
    let ours = trained_in_keras.from_keras_order().unwrap();
    let input = features((2, c, h, w));
    let kernel: Vec<Vec<f32>> = trained_in_keras.tensors()[0].1.to_vec2().unwrap();
    let logits: Vec<Vec<f32>> = ours
        .forward(&input, Mode::Infer, None)
        .unwrap()
        .to_vec2()
        .unwrap();
    let keras_flat = input.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
    let keras_flat: Vec<Vec<f32>> = keras_flat.flatten_from(1).unwrap().to_vec2().unwrap();
    for (flat, row) in keras_flat.iter().zip(&logits) {
        for (kernel, logit) in kernel.iter().zip(row) {
            let products = flat
                .iter()
                .zip(kernel)
                .map(|(x, k)| f64::from(*x) * f64::from(*k));
            let expected: f64 = products.sum();
            assert!(
                (f64::from(*logit) - expected).abs() < 1e-6,
                "{logit} is not {expected}"
            );
        }
    }
}

#[test]
fn nonsense_is_named() {
    for (head, expected) in [
        (Head::softmax(1), "softmax"),
        (Head::sigmoid().hidden(0), "hidden"),
        (Head::sigmoid().dropout(1.0), "dropout"),
        (Head::sigmoid().dropout(-0.1), "dropout"),
        (Head::sigmoid().dropout(f64::NAN), "dropout"),
    ] {
        match head.build([4, 2, 2], &CPU) {
            Err(Error::InvalidOption { option, .. }) => assert_eq!(option, expected),
            other => panic!("{expected}: {other:?}"),
        }
    }
    let head = Head::sigmoid().build([4, 2, 2], &CPU).unwrap();
    let error = head
        .forward(&features((2, 4, 2, 3)), Mode::Infer, None)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "features: expected shape (N, 4, 2, 2), found [2, 4, 2, 3]"
    );
}

/// A base may work in half precision on a device: the head's own numbers are f32, and so is what it makes.
#[test]
fn features_in_half_precision_make_logits_in_f32() {
    for pooling in [Pooling::Flatten, Pooling::GlobalAverage] {
        let head = Head::softmax(3).hidden(8).pooling(pooling);
        let head = head.build([6, 3, 3], &CPU).unwrap();
        for half in [DType::F16, DType::BF16] {
            let features = features((2, 6, 3, 3)).to_dtype(half).unwrap();
            let variable = candle_core::Var::from_tensor(&features).unwrap();
            let logits = head.forward(&variable, Mode::Train, None).unwrap();
            let widened = features.to_dtype(DType::F32).unwrap();
            let expected = head.forward(&widened, Mode::Train, None).unwrap();
            assert_eq!(values(&logits), values(&expected));
            let gradients = logits.sum_all().unwrap().backward().unwrap();
            assert_eq!(gradients.get(&variable).unwrap().dtype(), half);
            let names = head.variables().into_iter();
            for (name, var) in names {
                assert!(gradients.get(&var).is_some(), "{name}");
            }
        }
    }
}
