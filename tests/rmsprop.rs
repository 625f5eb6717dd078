//! RMSprop against Keras's and PyTorch's: trajectories of 50 steps, in f64 by them and f32 by us.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use headstart::RmsProp;
use serde_json::Value;

const TRAJECTORIES: &str = include_str!("fixtures/rmsprop/trajectories.json");

fn numbers(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|number| number.as_f64().unwrap())
        .collect()
}

/// Applies the fixture's gradients: the gradient of Σ g·w with respect to w is g.
fn assert_trajectory(library: &str, form: &str, dtype: DType, tolerance: f64, optimizer: RmsProp) {
    let fixture: Value = serde_json::from_str(TRAJECTORIES).unwrap();
    let tensor = |values: Vec<f64>| {
        Tensor::new(values, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    };
    let variable = Var::from_tensor(&tensor(numbers(&fixture["start"]))).unwrap();
    let mut optimizer = optimizer.with_variables(vec![variable.clone()]).unwrap();
    let gradients = fixture["gradients"].as_array().unwrap();
    let path = fixture[library][form].as_array().unwrap();
    assert_eq!((gradients.len(), path.len()), (50, 50));
    for (step, (gradient, expected)) in gradients.iter().zip(path).enumerate() {
        let loss = (variable.as_tensor() * tensor(numbers(gradient))).unwrap();
        optimizer.backward_step(&loss.sum_all().unwrap()).unwrap();
        let found: Vec<f64> = variable.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
        let expected = numbers(expected);
        let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
        let difference = norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b));
        let error = difference / norm(&mut expected.iter().copied());
        assert!(
            error < tolerance,
            "{library} {form} {dtype:?}, step {step}: {found:?} is not {expected:?}"
        );
    }
}

/// The formula itself in f64, and what rounding to f32 leaves of it over 50 steps.
fn assert_form(library: &str, form: &str, optimizer: &RmsProp) {
    assert_trajectory(library, form, DType::F64, 1e-12, optimizer.clone());
    assert_trajectory(library, form, DType::F32, 1e-6, optimizer.clone());
}

#[test]
fn keras_forms() {
    let plain = RmsProp::new(0.01);
    assert_form("keras", "plain", &plain);
    assert_form("keras", "momentum", &plain.clone().momentum(0.9));
    assert_form("keras", "centered", &plain.clone().centered(true));
    assert_form("keras", "centered_momentum", &plain.clone().centered(true).momentum(0.5));
    assert_form("keras", "weight_decay", &plain.weight_decay(0.1));
}

#[test]
fn pytorch_forms() {
    let plain = RmsProp::pytorch(0.01);
    assert_form("pytorch", "plain", &plain);
    assert_form("pytorch", "momentum", &plain.clone().momentum(0.9));
    assert_form("pytorch", "centered", &plain.clone().centered(true));
    assert_form("pytorch", "centered_momentum", &plain.centered(true).momentum(0.5));
}

/// keras/src/optimizers/rmsprop_test.py, `test_single_step`.
#[test]
fn keras_own_single_step() {
    let variable = Var::new(&[1f32, 2., 3., 4.], &Device::Cpu).unwrap();
    let gradient = Tensor::new(&[1f32, 6., 7., 2.], &Device::Cpu).unwrap();
    let mut optimizer = RmsProp::new(0.5).with_variables(vec![variable.clone()]).unwrap();
    let loss = (variable.as_tensor() * gradient).unwrap().sum_all().unwrap();
    optimizer.backward_step(&loss).unwrap();
    let found: Vec<f32> = variable.to_vec1().unwrap();
    for (found, expected) in found.iter().zip([-0.5811, 0.4189, 1.4189, 2.4189]) {
        assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
    }
}

#[test]
fn the_trait_makes_the_same_optimizer() {
    let variable = Var::new(&[1f32], &Device::Cpu).unwrap();
    let config = RmsProp::new(0.1);
    let mut optimizer = <RmsProp as Optimizer>::new(vec![variable.clone()], config).unwrap();
    assert_eq!(optimizer.learning_rate(), 0.1);
    optimizer.set_learning_rate(0.0);
    optimizer.backward_step(&variable.sqr().unwrap().sum_all().unwrap()).unwrap();
    assert_eq!(variable.to_vec1::<f32>().unwrap(), [1.0], "a learning rate of 0 moves nothing");
}

#[test]
fn nonsense_is_named() {
    for (optimizer, option) in [
        (RmsProp::new(f64::NAN), "learning_rate"),
        (RmsProp::new(-1.0), "learning_rate"),
        (RmsProp::new(0.1).rho(1.0), "rho"),
        (RmsProp::new(0.1).momentum(-0.1), "momentum"),
        (RmsProp::new(0.1).epsilon(0.0), "epsilon"),
        (RmsProp::new(0.1).weight_decay(f64::INFINITY), "weight_decay"),
    ] {
        let error = optimizer.with_variables(Vec::new()).unwrap_err().to_string();
        assert!(error.contains(option), "{error}");
    }
}
