//! The callbacks that change a run, driven as Keras drives its own.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor, Var};
use headstart::EarlyStopping;
use headstart::train::callback::ReduceLrOnPlateau;
use headstart::train::callback::{Callback, EpochEnd, Monitor, Stop};
use headstart::train::metrics::{EpochRecord, Evaluation, History};
use serde_json::Value;

const FIXTURE: &str = include_str!("../fixtures/schedule/schedules.json");

fn cases(of: &str) -> Vec<Value> {
    let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
    fixture[of].as_array().unwrap().clone()
}

fn monitor(case: &Value) -> Monitor {
    serde_json::from_value(case["monitor"].clone()).unwrap()
}

/// A phase whose validation gives these figures: the learning rate after each epoch, and which epoch's weight
/// stands at the end.
fn drive(callback: &mut dyn Callback, case: &Value) -> (Vec<f64>, usize) {
    let weight = Var::new(0f32, &Device::Cpu).unwrap();
    let variables = [("weight".to_owned(), weight.clone())];
    let history = History::default();
    let validation = Evaluation::default();
    let (mut rate, mut rates) = (1.0, Vec::new());
    callback.on_phase_begin().unwrap();
    let figures: Vec<f64> = serde_json::from_value(case["figures"].clone()).unwrap();
    for (index, figure) in figures.into_iter().enumerate() {
        weight
            .set(&Tensor::new(index as f32 + 1.0, &Device::Cpu).unwrap())
            .unwrap();
        let record = EpochRecord {
            epoch: index + 1,
            val_loss: Some(figure),
            val_accuracy: Some(figure),
            ..EpochRecord::default()
        };
        let mut event = EpochEnd::new(&record, &validation, &history, &mut rate);
        event.variables = &variables;
        let flow = callback.on_epoch_end(&mut event).unwrap();
        rates.push(rate);
        if flow == ControlFlow::Break(Stop::Phase) {
            break;
        }
    }
    callback.on_phase_end(&variables).unwrap();
    (rates, weight.to_scalar::<f32>().unwrap() as usize)
}

#[test]
fn reduction_on_a_plateau_is_kerass() {
    let cases = cases("plateau");
    assert_eq!(cases.len(), 12);
    for case in cases {
        let options: Vec<f64> = serde_json::from_value(case["options"].clone()).unwrap();
        let [factor, patience, min_delta, cooldown, least] = options[..] else {
            panic!("{case}");
        };
        let mut plateau = ReduceLrOnPlateau::new(factor, patience as usize)
            .monitor(monitor(&case))
            .min_delta(min_delta)
            .cooldown(cooldown as usize)
            .min_learning_rate(least);
        let (rates, _) = drive(&mut plateau, &case);
        let expected: Vec<f64> = serde_json::from_value(case["rates"].clone()).unwrap();
        assert_eq!(rates.len(), expected.len());
        for (found, expected) in rates.iter().zip(&expected) {
            // Keras's learning rate is an f32.
            assert!(
                (found - expected).abs() < 1e-5 * expected,
                "{case}: {rates:?}"
            );
        }
    }
}

#[test]
fn early_stopping_is_kerass() {
    let cases = cases("early_stopping");
    assert_eq!(cases.len(), 18);
    for case in cases {
        let (patience, min_delta): (usize, f64) =
            serde_json::from_value(serde_json::json!([case["options"][0], case["options"][1]]))
                .unwrap();
        let mut stopping = EarlyStopping::new(patience)
            .monitor(monitor(&case))
            .min_delta(min_delta);
        let (rates, weights_of) = drive(&mut stopping, &case);
        assert_eq!(rates.len() as u64, case["epochs"], "{case}");
        assert_eq!(weights_of as u64, case["weights_of"], "{case}");
    }
}
