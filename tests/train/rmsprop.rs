//! RMSprop against Keras's and PyTorch's: trajectories of 50 steps, in f64 by them and f32 by us.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use headstart::RmsProp;
use serde_json::Value;

use crate::common::numbers::numbers;

const TRAJECTORIES: &str = include_str!("../fixtures/rmsprop/trajectories.json");

/// Applies the fixture's gradients: the gradient of Σ g·w with respect to w is g.
fn assert_trajectory(library: &str, form: &str, dtype: DType, tolerance: f64, optimizer: RmsProp) {
    let fixture: Value = serde_json::from_str(TRAJECTORIES).unwrap();
    let tensor = |values: Vec<f64>| {
        Tensor::new(values, &Device::Cpu)
            .unwrap()
            .to_dtype(dtype)
            .unwrap()
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
        let norm =
            |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
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
    assert_form(
        "keras",
        "centered_momentum",
        &plain.clone().centered(true).momentum(0.5),
    );
    assert_form("keras", "weight_decay", &plain.weight_decay(0.1));
}

#[test]
fn pytorch_forms() {
    let plain = RmsProp::pytorch(0.01);
    assert_form("pytorch", "plain", &plain);
    assert_form("pytorch", "momentum", &plain.clone().momentum(0.9));
    assert_form("pytorch", "centered", &plain.clone().centered(true));
    assert_form(
        "pytorch",
        "centered_momentum",
        &plain.centered(true).momentum(0.5),
    );
}

/// keras/src/optimizers/rmsprop_test.py, `test_single_step`.
#[test]
fn keras_own_single_step() {
    let variable = Var::new(&[1f32, 2., 3., 4.], &Device::Cpu).unwrap();
    let gradient = Tensor::new(&[1f32, 6., 7., 2.], &Device::Cpu).unwrap();
    let mut optimizer = RmsProp::new(0.5)
        .with_variables(vec![variable.clone()])
        .unwrap();
    let loss = (variable.as_tensor() * gradient)
        .unwrap()
        .sum_all()
        .unwrap();
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
    optimizer
        .backward_step(&variable.sqr().unwrap().sum_all().unwrap())
        .unwrap();
    assert_eq!(
        variable.to_vec1::<f32>().unwrap(),
        [1.0],
        "a learning rate of 0 moves nothing"
    );
}

#[test]
fn nonsense_is_named() {
    for (optimizer, option) in [
        (RmsProp::new(f64::NAN), "learning_rate"),
        (RmsProp::new(-1.0), "learning_rate"),
        (RmsProp::new(0.1).rho(1.0), "rho"),
        (RmsProp::new(0.1).momentum(-0.1), "momentum"),
        (RmsProp::new(0.1).epsilon(0.0), "epsilon"),
        (
            RmsProp::new(0.1).weight_decay(f64::INFINITY),
            "weight_decay",
        ),
    ] {
        let error = optimizer
            .with_variables(Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains(option), "{error}");
    }
}

/// Enough numbers for every thread and a ragged end, against the formula in f64, number by number.
#[test]
fn a_large_variable_is_updated_everywhere() {
    const COUNT: usize = 3 * 32_768 + 1_025;
    let number = |i: usize, step: usize| ((i * 7919 + step * 104_729) % 1009) as f32 / 500.0 - 1.0;
    let start: Vec<f32> = (0..COUNT).map(|i| 1.5 + number(i, 50)).collect();
    let variable = Var::from_vec(start.clone(), COUNT, &Device::Cpu).unwrap();
    let mut optimizer = RmsProp::new(0.01)
        .centered(true)
        .momentum(0.5)
        .weight_decay(0.1)
        .with_variables(vec![variable.clone()])
        .unwrap();
    for step in 0..3 {
        let gradient: Vec<f32> = (0..COUNT).map(|i| number(i, step)).collect();
        let gradient = Tensor::from_vec(gradient, COUNT, &Device::Cpu).unwrap();
        let loss = (variable.as_tensor() * gradient)
            .unwrap()
            .sum_all()
            .unwrap();
        optimizer.backward_step(&loss).unwrap();
    }
    let found: Vec<f32> = variable.to_vec1().unwrap();
    for (i, (found, start)) in found.iter().zip(start).enumerate() {
        let (mut w, mut v, mut a, mut m) = (f64::from(start), 0.0, 0.0, 0.0);
        for step in 0..3 {
            let g = f64::from(number(i, step));
            v = 0.9 * v + 0.1 * g * g;
            a = 0.9 * a + 0.1 * g;
            m = 0.5 * m + 0.01 * g / (v - a * a + 1e-7).sqrt();
            w = w * (1.0 - 0.1 * 0.01) - m;
        }
        assert!(
            (f64::from(*found) - w).abs() < 2e-6,
            "number {i}: {found} is not {w}"
        );
    }
}

/// A gradient may come from elsewhere (an average over machines) in a layout of its own.
#[test]
fn a_transposed_gradient_meets_its_own_weights() {
    for dtype in [DType::F32, DType::F64] {
        let variable = Var::zeros((2, 3), dtype, &Device::Cpu).unwrap();
        let columns = Tensor::new(&[[1f32, 0.0], [-1.0, 1.0], [0.0, -1.0]], &Device::Cpu).unwrap();
        let mut optimizer = RmsProp::new(0.1)
            .with_variables(vec![variable.clone()])
            .unwrap();
        let mut gradients = variable.sum_all().unwrap().backward().unwrap();
        gradients.insert(&variable, columns.to_dtype(dtype).unwrap().t().unwrap());
        optimizer.step(&gradients).unwrap();
        let signs = variable.sign().unwrap().to_dtype(DType::F32).unwrap();
        assert_eq!(
            signs.to_vec2::<f32>().unwrap(),
            [[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]
        );
    }
}

/// With one gradient again and again, v − a² tends to 0 and rounding may take it below: no NaN may come of it.
#[test]
fn a_constant_gradient_stays_finite_when_centered() {
    for dtype in [DType::F32, DType::F64] {
        for optimizer in [RmsProp::new(1e-3), RmsProp::pytorch(1e-3).rho(0.9)] {
            let gradients: Vec<f64> = (1..200).map(|i| f64::from(i) * 1.37).collect();
            let gradients = Tensor::new(gradients, &Device::Cpu)
                .unwrap()
                .to_dtype(dtype)
                .unwrap();
            let variable = Var::zeros(199, dtype, &Device::Cpu).unwrap();
            let mut optimizer = optimizer
                .centered(true)
                .with_variables(vec![variable.clone()])
                .unwrap();
            for _ in 0..1000 {
                let loss = (variable.as_tensor() * &gradients)
                    .unwrap()
                    .sum_all()
                    .unwrap();
                optimizer.backward_step(&loss).unwrap();
            }
            let values: Vec<f64> = variable.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
            assert!(
                values.iter().all(|value| value.is_finite()),
                "{dtype:?}: {values:?}"
            );
        }
    }
}

/// The averages after one step from zero, by the formula: (1 − rho)g², (1 − rho)g, and the increment.
#[test]
fn state_is_what_the_options_need() {
    for dtype in [DType::F32, DType::F64] {
        let state = |optimizer: RmsProp| -> Vec<(String, f64)> {
            let used = Var::ones((1, 2), dtype, &Device::Cpu).unwrap();
            let unused = Var::ones(3, dtype, &Device::Cpu).unwrap();
            let mut optimizer = optimizer
                .with_variables(vec![unused, used.clone()])
                .unwrap();
            optimizer
                .backward_step(&(used.sum_all().unwrap() * 2.0).unwrap())
                .unwrap();
            let state = optimizer.state().unwrap();
            // A copy: a later step leaves it alone.
            optimizer.backward_step(&used.sum_all().unwrap()).unwrap();
            state
                .into_iter()
                .map(|(name, tensor)| {
                    assert_eq!(
                        (tensor.dims(), tensor.dtype()),
                        (&[1, 2][..], dtype),
                        "{name}"
                    );
                    let values: Vec<f64> = tensor
                        .flatten_all()
                        .unwrap()
                        .to_dtype(DType::F64)
                        .unwrap()
                        .to_vec1()
                        .unwrap();
                    assert_eq!(values[0], values[1], "{name}");
                    (name, values[0])
                })
                .collect()
        };
        let assert_state = |found: Vec<(String, f64)>, expected: &[(&str, f64)]| {
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for ((name, value), (expected_name, expected)) in found.iter().zip(expected) {
                assert_eq!(name, expected_name);
                assert!(
                    (value - expected).abs() < 1e-6 * expected,
                    "{name}: {value} is not {expected}"
                );
            }
        };
        assert_state(state(RmsProp::new(0.1)), &[("1.mean_square", 0.4)]);
        let increment = 0.1 * 2.0 / (0.4f64 - 0.04 + 1e-7).sqrt();
        assert_state(
            state(RmsProp::new(0.1).centered(true).momentum(0.9)),
            &[
                ("1.mean_square", 0.4),
                ("1.mean", 0.2),
                ("1.momentum", increment),
            ],
        );
    }
}
