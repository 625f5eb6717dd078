//! Fixtures whose weights and pictures are formulas: `tests/fixtures/streams.py` has the same lines.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::de::DeserializeOwned;

use super::common::numbers::values;

/// The tensors of a weight file: names and shapes, in order.
pub type Tensors = Vec<(String, Vec<usize>)>;

/// A safetensors file below `tests/fixtures`: what its metadata says under `fixture`, and its samples.
pub fn fixture<T: DeserializeOwned>(file: &str) -> (T, HashMap<String, Tensor>) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
    let bytes = std::fs::read(format!("{folder}/{file}.safetensors")).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let text = &header.metadata().as_ref().unwrap()["fixture"];
    let samples = candle_core::safetensors::load_buffer(&bytes, &Device::Cpu).unwrap();
    (serde_json::from_str(text).unwrap(), samples)
}

/// Numbers in [−1, 1) from splitmix64 of (stream, index).
fn uniform(stream: u64, count: usize) -> impl Iterator<Item = f64> {
    (0..count as u64).map(move |index| {
        let mut z = (stream << 40).wrapping_add(index);
        z = z.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}

/// centre + width · u, u from a stream.
pub fn numbers(stream: u64, shape: &[usize], centre: f64, width: f64) -> Tensor {
    let values = uniform(stream, shape.iter().product());
    let values: Vec<f32> = values.map(|u| (centre + width * u) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// What `fill` sets a tensor to.
pub fn weight(name: &str, shape: &[usize], gain: f64) -> Tensor {
    let stream = u64::from(crc32fast::hash(name.as_bytes()) & 0xFF_FFFF);
    let (centre, width) = if shape.len() == 4 {
        let fan_in: usize = shape[1..].iter().product();
        (0.0, gain * (3.0 / fan_in as f64).sqrt())
    } else if name.ends_with("running_var") || name.ends_with(".weight") {
        (1.0, 0.5)
    } else {
        (0.0, 0.1)
    };
    numbers(stream, shape, centre, width)
}

/// Relative error of the numbers that `sample` keeps: rms of the difference over rms of what is expected.
pub fn sampled_error(what: &str, found: &Tensor, expected: &Tensor, samples: usize) -> f64 {
    let least = (found.elem_count() / samples).max(1);
    let coprime = |stride: &usize| [2, 3, 5].iter().all(|prime| !stride.is_multiple_of(*prime));
    let stride = (least..).find(coprime).unwrap();
    let found: Vec<f32> = values(found).into_iter().step_by(stride).collect();
    let expected = values(expected);
    assert_eq!(found.len(), expected.len(), "{what}");
    let pairs = || {
        found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (f64::from(*a), f64::from(*b)))
    };
    let square: f64 = pairs().map(|(_, b)| b * b).sum();
    let distance: f64 = pairs().map(|(a, b)| (a - b).powi(2)).sum();
    assert!(square > 0.0, "{what}: nothing to compare with");
    (distance / square).sqrt()
}
