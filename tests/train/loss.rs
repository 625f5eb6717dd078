//! Losses on logits and their gradients against PyTorch's and Keras's in f64.

use candle_core::{DType, Device, Tensor, Var};
use headstart::train::metrics::Loss;
use headstart::train::metrics::LossOptions;
use serde_json::Value;

const CASES: &str = include_str!("../fixtures/loss/losses.json");
const TARGETS: &str = include_str!("../fixtures/loss/targets.json");

fn matrix(value: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

/// A case's loss and gradient, in f64 to this tolerance and in f32.
fn assert_case(case: &Value, f64_tolerance: f64) {
    let loss = match case["kind"].as_str().unwrap() {
        "binary" => Loss::BinaryCrossEntropy,
        _ => Loss::CategoricalCrossEntropy,
    };
    let labels: Vec<u32> = serde_json::from_value(case["labels"].clone()).unwrap();
    let weights = case.get("class_weights").cloned();
    let options = LossOptions {
        label_smoothing: case
            .get("label_smoothing")
            .map_or(0.0, |s| s.as_f64().unwrap()),
        class_weights: weights.map_or(Vec::new(), |weights| {
            serde_json::from_value(weights).unwrap()
        }),
    };
    let logits = Tensor::new(matrix(&case["logits"]), &Device::Cpu).unwrap();
    for (dtype, tolerance) in [(DType::F64, f64_tolerance), (DType::F32, 1e-6)] {
        let logits = Var::from_tensor(&logits.to_dtype(dtype).unwrap()).unwrap();
        let found = loss.forward_with(&logits, &labels, &options).unwrap();
        let gradients = found.backward().unwrap();
        let expected = case["loss"].as_f64().unwrap();
        let value = found
            .to_dtype(DType::F64)
            .unwrap()
            .to_scalar::<f64>()
            .unwrap();
        assert!(
            (value - expected).abs() <= tolerance * expected.abs().max(1.0),
            "{case}: loss {value}"
        );
        let gradient = gradients
            .get(&logits)
            .unwrap()
            .to_dtype(DType::F64)
            .unwrap();
        let found: Vec<Vec<f64>> = gradient.to_vec2().unwrap();
        let expected = matrix(&case["gradient"]);
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!(
                (found - expected).abs() <= tolerance,
                "{case}: gradient {gradient}"
            );
        }
    }
}

#[test]
fn losses_and_gradients_are_pytorchs() {
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    assert_eq!(cases.len(), 8);
    cases.iter().for_each(|case| assert_case(case, 1e-12));
}

#[test]
fn smoothed_and_weighted_losses_are_kerass() {
    let cases: Vec<Value> = serde_json::from_str(TARGETS).unwrap();
    assert_eq!(cases.len(), 17);
    // Keras computes part of it in f32.
    cases.iter().for_each(|case| assert_case(case, 1e-6));
}

#[test]
fn targets_out_of_range_are_named() {
    let logits = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let error = |label_smoothing, class_weights: &[f64]| {
        let options = LossOptions {
            label_smoothing,
            class_weights: class_weights.to_vec(),
        };
        let loss = Loss::CategoricalCrossEntropy.forward_with(&logits, &[0, 2], &options);
        loss.unwrap_err().to_string()
    };
    assert!(error(1.0, &[]).contains("label_smoothing"));
    assert!(error(f64::NAN, &[]).contains("label_smoothing"));
    assert!(error(0.0, &[1.0, 1.0]).contains("3 numbers"));
    assert!(error(0.0, &[1.0, 1.0, -1.0]).contains("class_weights"));
}

#[test]
fn misfits_are_named() {
    let zeros = |shape| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let error = |loss: Loss, shape, labels: &[u32]| {
        loss.forward(&zeros(shape), labels).unwrap_err().to_string()
    };
    let (binary, categorical) = (Loss::BinaryCrossEntropy, Loss::CategoricalCrossEntropy);
    assert!(error(binary, (2, 2), &[0, 1]).contains("(2, 1)"));
    assert!(error(binary, (2, 1), &[0, 1, 1]).contains("(3, 1)"));
    assert!(error(binary, (2, 1), &[0, 2]).contains("label"));
    assert!(error(categorical, (2, 3), &[0, 3]).contains("below 3"));
    assert!(error(categorical, (0, 3), &[]).contains("logits"));
}

/// Integers would be taken for logits and their sign for a huge number.
#[test]
fn integers_are_no_logits() {
    for dtype in [DType::U8, DType::U32, DType::I64] {
        for (loss, columns) in [
            (Loss::BinaryCrossEntropy, 1),
            (Loss::CategoricalCrossEntropy, 3),
        ] {
            let logits = Tensor::ones((2, columns), dtype, &Device::Cpu).unwrap();
            let error = loss.forward(&logits, &[0, 1]).unwrap_err().to_string();
            assert!(error.contains("`logits`"), "{error}");
        }
    }
    let options = LossOptions {
        class_weights: vec![0.0, 0.0],
        ..LossOptions::default()
    };
    let logits = Tensor::ones((2, 1), DType::F32, &Device::Cpu).unwrap();
    assert!(
        Loss::BinaryCrossEntropy
            .forward_with(&logits, &[0, 1], &options)
            .is_err()
    );
}
