//! The callbacks that change a run, driven as Keras drives its own.

use std::ops::ControlFlow;

use candle_core::{Device, Tensor, Var};
use serde_json::Value;

use super::callback::{Callback, EpochEnd, Stop};
use super::{EarlyStopping, EpochRecord, Evaluation, History, Monitor, ReduceOnPlateau};

const FIXTURE: &str = include_str!("../../tests/fixtures/schedule/schedules.json");

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
    let validation = Evaluation::from_predictions(&[], &[], &[], 0.0).unwrap();
    let (mut rate, mut rates) = (1.0, Vec::new());
    callback.on_phase_begin().unwrap();
    let figures: Vec<f64> = serde_json::from_value(case["figures"].clone()).unwrap();
    for (index, figure) in figures.into_iter().enumerate() {
        weight
            .set(&Tensor::new(index as f32 + 1.0, &Device::Cpu).unwrap())
            .unwrap();
        let record = EpochRecord {
            epoch: index + 1,
            loss: 0.0,
            accuracy: 0.0,
            val_loss: figure,
            val_accuracy: figure,
            seconds: 0.0,
        };
        let flow = callback.on_epoch_end(&mut EpochEnd {
            record: &record,
            validation: &validation,
            history: &history,
            phase_epoch: index + 1,
            learning_rate: rate,
            phase_learning_rate: &mut rate,
            variables: &variables,
            tensors: &|| Vec::new(),
        });
        rates.push(rate);
        if flow.unwrap() == ControlFlow::Break(Stop::Phase) {
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
        let mut plateau = ReduceOnPlateau::new(factor, patience as usize)
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
