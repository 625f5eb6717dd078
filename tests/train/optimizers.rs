//! AdamW, Adam and SGD against PyTorch's trajectories of 50 steps, and the state of every optimizer.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use headstart::{AdamW, RmsProp, Sgd};
use serde_json::Value;

use crate::common::numbers::{norm, numbers};

const TRAJECTORIES: &str = include_str!("../fixtures/optimizers/trajectories.json");

/// The formula itself in f64, and what rounding to f32 leaves of it over 50 steps.
fn assert_form<O: Optimizer<Config = O> + Clone>(form: &str, optimizer: &O) {
    let fixture: Value = serde_json::from_str(TRAJECTORIES).unwrap();
    let gradients = fixture["gradients"].as_array().unwrap();
    let path = fixture[form].as_array().unwrap();
    assert_eq!((gradients.len(), path.len()), (50, 50));
    for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-6)] {
        let tensor = |value: &Value| {
            let tensor = Tensor::new(numbers::<f64>(value), &Device::Cpu).unwrap();
            tensor.to_dtype(dtype).unwrap()
        };
        let variable = Var::from_tensor(&tensor(&fixture["start"])).unwrap();
        let mut optimizer = O::new(vec![variable.clone()], optimizer.clone()).unwrap();
        for (step, (gradient, expected)) in gradients.iter().zip(path).enumerate() {
            if step == 25 {
                optimizer.set_learning_rate(0.002);
            }
            // The gradient of Σ g·w with respect to w is g.
            let loss = (variable.as_tensor() * tensor(gradient)).unwrap();
            optimizer.backward_step(&loss.sum_all().unwrap()).unwrap();
            let found: Vec<f64> = variable.to_dtype(DType::F64).unwrap().to_vec1().unwrap();
            let expected: Vec<f64> = numbers(expected);
            let difference = norm(found.iter().zip(&expected).map(|(a, b)| a - b));
            assert!(
                difference / norm(expected.iter().copied()) < tolerance,
                "{form} {dtype:?}, step {step}: {found:?} is not {expected:?}"
            );
        }
    }
}

#[test]
fn adam_is_pytorchs() {
    assert_form("adam", &AdamW::adam(0.01));
    let betas = AdamW::adam(0.01).betas(0.5, 0.9).epsilon(1e-3);
    assert_form("adam_betas", &betas);
}

#[test]
fn adamw_is_pytorchs() {
    assert_form("adamw", &AdamW::new(0.01));
    assert_form("adamw_decay", &AdamW::new(0.01).weight_decay(0.5));
}

#[test]
fn sgd_is_pytorchs() {
    assert_form("sgd", &Sgd::new(0.01));
    assert_form("sgd_momentum", &Sgd::new(0.01).momentum(0.9));
    let nesterov = Sgd::new(0.01).momentum(0.9).nesterov(true);
    assert_form("sgd_nesterov", &nesterov);
    assert_form("sgd_decay", &Sgd::new(0.01).weight_decay(0.1));
}

/// Enough numbers for every thread and a ragged end, against the formula in f64, number by number.
#[test]
fn a_large_variable_is_updated_everywhere() {
    const COUNT: usize = 3 * 32_768 + 1_025;
    let number = |i: usize, step: usize| ((i * 7919 + step * 104_729) % 1009) as f64 / 500.0 - 1.0;
    let run = |mut step: Box<dyn FnMut(&Tensor)>, variable: &Var| -> Vec<f32> {
        for index in 0..3 {
            let gradient: Vec<f32> = (0..COUNT).map(|i| number(i, index) as f32).collect();
            let gradient = Tensor::from_vec(gradient, COUNT, &Device::Cpu).unwrap();
            let loss = (variable.as_tensor() * gradient).unwrap();
            step(&loss.sum_all().unwrap());
        }
        variable.to_vec1().unwrap()
    };
    let start = || Var::ones(COUNT, DType::F32, &Device::Cpu).unwrap();

    let variable = start();
    let mut adamw = AdamW::new(0.01)
        .with_variables(vec![variable.clone()])
        .unwrap();
    let found = run(
        Box::new(move |loss| adamw.backward_step(loss).unwrap()),
        &variable,
    );
    for (i, found) in found.into_iter().enumerate() {
        let (mut w, mut m, mut v) = (1.0, 0.0, 0.0);
        for step in 0..3 {
            let g = number(i, step);
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let (a, b) = (
                1.0 - 0.9f64.powi(step as i32 + 1),
                1.0 - 0.999f64.powi(step as i32 + 1),
            );
            w = w * (1.0 - 0.01 * 0.01) - 0.01 * (m / a) / ((v / b).sqrt() + 1e-8);
        }
        assert!(
            (f64::from(found) - w).abs() < 2e-6,
            "adamw {i}: {found} is not {w}"
        );
    }

    let variable = start();
    let sgd = Sgd::new(0.01).momentum(0.9).nesterov(true);
    let mut sgd = sgd.with_variables(vec![variable.clone()]).unwrap();
    let found = run(
        Box::new(move |loss| sgd.backward_step(loss).unwrap()),
        &variable,
    );
    for (i, found) in found.into_iter().enumerate() {
        let (mut w, mut m) = (1.0, 0.0);
        for step in 0..3 {
            let g = number(i, step);
            m = 0.9 * m + g;
            w -= 0.01 * (g + 0.9 * m);
        }
        assert!(
            (f64::from(found) - w).abs() < 2e-6,
            "sgd {i}: {found} is not {w}"
        );
    }
}

/// Three steps, the state out and into a fresh optimizer, three more: the same bits as six in a row.
macro_rules! assert_restores {
    ($optimizer:expr, $names:expr) => {
        for dtype in [DType::F32, DType::F64] {
            let device = Device::Cpu;
            let fresh = || {
                let values = Tensor::new(&[[1f32, -2.0, 0.5]], &device).unwrap();
                Var::from_tensor(&values.to_dtype(dtype).unwrap()).unwrap()
            };
            let loss = |w: &Var, step: usize| {
                let shifted = (w.as_tensor() - step as f64 * 0.3).unwrap();
                shifted.sqr().unwrap().sum_all().unwrap()
            };
            let unused = Var::ones(2, dtype, &device).unwrap();
            let straight = fresh();
            let variables = vec![unused.clone(), straight.clone()];
            let mut optimizer = $optimizer.with_variables(variables).unwrap();
            let mut halfway = None;
            for step in 0..6 {
                if step == 3 {
                    halfway = Some((
                        optimizer.state().unwrap(),
                        straight.as_tensor().copy().unwrap(),
                    ));
                }
                optimizer.backward_step(&loss(&straight, step)).unwrap();
            }
            let (state, weights) = halfway.unwrap();
            let names: Vec<&str> = state.iter().map(|(name, _)| name.as_str()).collect();
            assert_eq!(names, $names);

            let resumed = Var::from_tensor(&weights).unwrap();
            let variables = vec![unused, resumed.clone()];
            let mut optimizer = $optimizer.with_variables(variables).unwrap();
            optimizer.restore(&state).unwrap();
            // Gradients that are used up move variables just so; some tensors come back where the step is fused.
            for step in 3..6 {
                let gradients = loss(&resumed, step).backward().unwrap();
                let spent = optimizer.step_spending(gradients).unwrap();
                assert_eq!(spent.len(), usize::from(dtype == DType::F32));
            }
            let bits = |w: &Var| -> Vec<u64> {
                let w = w.flatten_all().unwrap().to_dtype(DType::F64).unwrap();
                w.to_vec1::<f64>()
                    .unwrap()
                    .into_iter()
                    .map(f64::to_bits)
                    .collect()
            };
            assert_eq!(bits(&straight), bits(&resumed), "{dtype:?}");

            let stray = vec![(
                "7.momentum".to_owned(),
                Tensor::ones(2, dtype, &device).unwrap(),
            )];
            let error = optimizer.restore(&stray).unwrap_err().to_string();
            assert!(error.contains("7.momentum"), "{error}");
            if state.len() > 1 {
                let error = optimizer.restore(&state[1..]).unwrap_err().to_string();
                assert!(error.contains(names[0]), "{error}");
            }
            if let Some((name, _)) = state.last() {
                let mut misfit = state.clone();
                misfit.last_mut().unwrap().1 = Tensor::ones(2, dtype, &device).unwrap();
                let error = optimizer.restore(&misfit).unwrap_err().to_string();
                assert!(error.contains(name) && error.contains("[1, 3]"), "{error}");
            }
        }
    };
}

#[test]
fn state_goes_out_and_in_exactly() {
    let none: [&str; 0] = [];
    assert_restores!(RmsProp::new(0.1), ["1.mean_square"]);
    assert_restores!(
        RmsProp::new(0.1).centered(true).momentum(0.5),
        ["1.mean_square", "1.mean", "1.momentum"]
    );
    assert_restores!(AdamW::new(0.1), ["1.step", "1.mean", "1.mean_square"]);
    assert_restores!(Sgd::new(0.1), none);
    assert_restores!(Sgd::new(0.1).momentum(0.9), ["1.momentum"]);
    assert_restores!(Sgd::new(0.1).momentum(0.9).nesterov(true), ["1.momentum"]);
}

#[test]
fn nonsense_is_named() {
    let adamw = [
        (AdamW::new(f64::NAN), "learning_rate"),
        (AdamW::new(0.1).betas(1.0, 0.9), "beta1"),
        (AdamW::new(0.1).betas(0.9, -0.1), "beta2"),
        (AdamW::new(0.1).epsilon(0.0), "epsilon"),
        (AdamW::new(0.1).weight_decay(-1.0), "weight_decay"),
    ];
    for (optimizer, option) in adamw {
        let error = optimizer
            .with_variables(Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains(option), "{error}");
    }
    let sgd = [
        (Sgd::new(-0.1), "learning_rate"),
        (Sgd::new(0.1).momentum(1.0), "momentum"),
        (Sgd::new(0.1).nesterov(true), "nesterov"),
        (Sgd::new(0.1).weight_decay(f64::INFINITY), "weight_decay"),
    ];
    for (optimizer, option) in sgd {
        let error = optimizer
            .with_variables(Vec::new())
            .unwrap_err()
            .to_string();
        assert!(error.contains(option), "{error}");
    }
}
