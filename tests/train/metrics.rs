//! Evaluations against scikit-learn's metrics.

use headstart::Error;
use headstart::train::metrics::Evaluation;
use serde::Deserialize;

const CASES: &str = include_str!("../fixtures/metrics/metrics.json");

#[derive(Deserialize)]
struct Case {
    name: String,
    classes: usize,
    labels: Vec<u32>,
    probabilities: Vec<Vec<f32>>,
    accuracy: f64,
    precision: Vec<f64>,
    recall: Vec<f64>,
    f1: Vec<f64>,
    support: Vec<usize>,
    auc: Option<f64>,
    confusion: Vec<Vec<usize>>,
}

fn names(classes: usize) -> Vec<String> {
    (0..classes).map(|class| format!("class {class}")).collect()
}

#[test]
fn figures_are_scikit_learns() {
    let cases: Vec<Case> = serde_json::from_str(CASES).unwrap();
    assert_eq!(cases.len(), 8);
    for case in cases {
        let found = Evaluation::from_predictions(
            &case.labels,
            &case.probabilities,
            &names(case.classes),
            0.25,
        )
        .unwrap();
        let close = |found: f64, expected: f64, figure: &str| {
            assert!(
                (found - expected).abs() < 1e-12,
                "{}: {figure} {found} is not {expected}",
                case.name
            );
        };
        assert_eq!(found.confusion, case.confusion, "{}", case.name);
        assert_eq!(found.loss, Some(0.25));
        close(found.accuracy.unwrap(), case.accuracy, "accuracy");
        assert_eq!(found.per_class.len(), case.classes);
        for (class, figures) in found.per_class.iter().enumerate() {
            close(figures.precision, case.precision[class], "precision");
            close(figures.recall, case.recall[class], "recall");
            close(figures.f1, case.f1[class], "F1");
            assert_eq!(figures.support, case.support[class], "{}", case.name);
        }
        match (found.auc, case.auc) {
            (Some(found), Some(expected)) => close(found, expected, "AUC"),
            (found, expected) => assert_eq!(found, expected, "{}", case.name),
        }
    }
}

#[test]
fn exactly_one_half_is_the_first_class() {
    let just_above = 0.5f32.next_up();
    let rows = [
        vec![0.5, 0.5],
        vec![0.5f32.next_down(), 0.5],
        vec![1.0 - just_above, just_above],
    ];
    let score = Evaluation::from_predictions(&[1, 1, 1], &rows, &names(2), 0.0).unwrap();
    assert_eq!(score.confusion, [[0, 0], [2, 1]]);
}

#[test]
fn misfits_are_named() {
    let even = vec![0.5f32, 0.5];
    let error = |labels: &[u32], rows: &[Vec<f32>]| {
        Evaluation::from_predictions(labels, rows, &names(2), 0.0).unwrap_err()
    };
    assert!(matches!(
        error(&[2], std::slice::from_ref(&even)),
        Error::InvalidOption {
            option: "label",
            ..
        }
    ));
    assert!(matches!(error(&[0, 1], &[even]), Error::Shape { .. }));
    assert!(matches!(error(&[0], &[vec![1.0]]), Error::Shape { .. }));
}

#[test]
fn the_table_has_every_figure() {
    let rows = [
        vec![0.9, 0.1],
        vec![0.8, 0.2],
        vec![0.3, 0.7],
        vec![0.4, 0.6],
    ];
    let score = Evaluation::from_predictions(&[0, 1, 1, 1], &rows, &names(2), 0.5).unwrap();
    let table = score.to_string();
    for figure in [
        "0.5000",
        "0.7500",
        "AUC 1.0000",
        "class 1",
        "1.0000  0.6667  0.8000         3",
    ] {
        assert!(table.contains(figure), "{figure} is not in\n{table}");
    }
}

/// Letters of two columns, of one, and marks of none: the columns of the table stay under each other.
#[test]
fn tables_stand_beside_wide_names() {
    use unicode_width::UnicodeWidthStr;
    let names = ["サンタクロース", "santa", "cafe\u{301}"].map(String::from);
    let rows = [vec![0.5, 0.25, 0.25], vec![0.25, 0.5, 0.25]];
    let score = Evaluation::from_predictions(&[0, 1], &rows, &names, 0.5).unwrap();
    let text = score.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert!(
        lines[2..5]
            .iter()
            .all(|line| line.width() == lines[1].width()),
        "{text}"
    );
    assert_eq!(lines[6].width(), lines[7].width(), "{text}");
    // Of a class without pictures there is no recall.
    assert!(lines[4].contains('–'), "{text}");
}
