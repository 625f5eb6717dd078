//! Losses on logits and their gradients against PyTorch's in f64.

use candle_core::{DType, Device, Tensor, Var};
use headstart::Loss;
use serde_json::Value;

const CASES: &str = include_str!("fixtures/loss/losses.json");

fn matrix(value: &Value) -> Vec<Vec<f64>> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn losses_and_gradients_are_pytorchs() {
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let loss = match case["kind"].as_str().unwrap() {
            "binary" => Loss::BinaryCrossEntropy,
            _ => Loss::CategoricalCrossEntropy,
        };
        let labels: Vec<u32> = serde_json::from_value(case["labels"].clone()).unwrap();
        let logits = Tensor::new(matrix(&case["logits"]), &Device::Cpu).unwrap();
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
            let logits = Var::from_tensor(&logits.to_dtype(dtype).unwrap()).unwrap();
            let found = loss.forward(&logits, &labels).unwrap();
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
