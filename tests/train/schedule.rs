//! Learning rates against PyTorch's schedulers.

use headstart::train::optimizer::Schedule;
use serde_json::Value;

const FIXTURE: &str = include_str!("../fixtures/schedule/schedules.json");

#[test]
fn schedules_are_pytorchs() {
    let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
    let peak = fixture["peak"].as_f64().unwrap();
    for (name, schedule) in [
        ("cosine", Schedule::cosine(0.1)),
        ("one_cycle", Schedule::one_cycle()),
        ("one_cycle_rise", Schedule::one_cycle().pct_start(0.25)),
        ("warm_cosine", Schedule::cosine(0.0).warmup(4)),
        ("warm_constant", Schedule::constant().warmup(5)),
    ] {
        let expected = fixture["schedules"][name].as_array().unwrap();
        for (step, expected) in expected.iter().enumerate() {
            let expected_rate = expected.as_f64().unwrap();
            let found = schedule.learning_rate(peak, step, expected_len(&fixture, name));
            assert!(
                (found - expected_rate).abs() < 1e-12 * peak,
                "{name}, step {step}: {found} is not {expected_rate}"
            );
        }
    }
}

fn expected_len(fixture: &Value, name: &str) -> usize {
    fixture["schedules"][name].as_array().unwrap().len()
}

/// Very short phases, and steps past the end, still give a number between 0 and the peak.
#[test]
fn short_phases_have_learning_rates() {
    let schedules = [
        Schedule::constant(),
        Schedule::cosine(0.5),
        Schedule::one_cycle(),
        Schedule::one_cycle().pct_start(0.9).warmup(2),
        Schedule::cosine(0.0).warmup(50),
    ];
    for schedule in schedules {
        for steps in 1..8 {
            for step in 0..steps {
                let rate = schedule.learning_rate(0.1, step, steps);
                assert!(
                    (0.0..=0.1).contains(&rate),
                    "{schedule:?}, step {step} of {steps}: {rate}"
                );
            }
        }
    }
}
