//! What can be read from the scores of single pictures, against laws and a calculation by hand; and charts as text.

use headstart::prelude::*;
use headstart::train::metrics::{PictureScore, Scores};
use unicode_width::UnicodeWidthStr;

use crate::common;

/// Two classes with these probabilities of the second.
fn scores(pictures: &[(u32, f32)]) -> Scores {
    let names = ["a", "b"].map(String::from);
    let labels: Vec<u32> = pictures.iter().map(|(label, _)| *label).collect();
    let rows: Vec<Vec<f32>> = pictures.iter().map(|(_, p)| vec![1.0 - p, *p]).collect();
    let evaluation = Evaluation::from_predictions(&labels, &rows, &names, 0.5).unwrap();
    let score = |(id, (label, second)): (u64, &(u32, f32))| PictureScore {
        id,
        label: *label,
        called: u32::from(*second > 0.5),
        confidence: second.max(1.0 - second),
        second: *second,
    };
    Scores {
        evaluation,
        pictures: (0..).zip(pictures).map(score).collect(),
    }
}

fn noisy(count: u32) -> Vec<(u32, f32)> {
    let picture = |index: u32| {
        let noise = (index.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32;
        let label = index % 2;
        // Rounded, so that some are equal.
        (
            label,
            ((0.3 * label as f32 + 0.7 * noise) * 50.0).round() / 50.0,
        )
    };
    (0..count).map(picture).collect()
}

#[test]
fn the_area_below_the_roc_curve_is_the_auc() {
    let scores = scores(&noisy(501));
    let curve = scores.roc().unwrap();
    assert_eq!((curve[0], curve[curve.len() - 1]), ((0.0, 0.0), (1.0, 1.0)));
    let trapezoids = curve.windows(2).map(|pair| {
        let ((x0, y0), (x1, y1)) = (pair[0], pair[1]);
        (x1 - x0) * (y0 + y1) / 2.0
    });
    let area: f64 = trapezoids.sum();
    assert!(
        (area - scores.evaluation.auc.unwrap()).abs() < 1e-12,
        "{area}"
    );
    // Where all are called, precision is the share of the second class.
    let (recall, precision) = *scores.precision_recall().unwrap().last().unwrap();
    assert!(recall == 1.0 && (precision - 250.0 / 501.0).abs() < 1e-12);
}

#[test]
fn the_calibration_error_is_that_of_a_calculation_by_hand() {
    // Confidences 0.9, 0.9, 0.9, 0.9 (three right) and 0.6, 0.6 (one right).
    let found = scores(&[(1, 0.9), (1, 0.9), (0, 0.1), (0, 0.9), (1, 0.6), (0, 0.6)]);
    let expected = 4.0 / 6.0 * (0.9 - 0.75) + 2.0 / 6.0 * (0.6 - 0.5);
    assert!((found.calibration_error().unwrap() - expected).abs() < 1e-6);
    assert_eq!(
        found
            .reliability()
            .iter()
            .map(|bin| bin.pictures)
            .collect::<Vec<_>>(),
        [2, 4]
    );
    assert_eq!(scores(&[]).calibration_error(), None);
    let mistakes: Vec<u64> = found.mistakes().iter().map(|picture| picture.id).collect();
    assert_eq!(mistakes, [3, 5]);
    assert_eq!(found.least_sure()[0].confidence, 0.6);
}

#[test]
fn scores_of_single_pictures_add_up_to_the_evaluation() {
    let (_folder, dataset) = common::colours(20);
    let head = Head::sigmoid();
    let model = Classifier::new(common::frozen_base(), head, &["blue", "red"]).unwrap();
    let model = model.input_size(32, 32).unwrap();
    let scores = model.score(&dataset).unwrap();
    assert_eq!(scores.evaluation, model.evaluate(&dataset).unwrap());
    let right = scores
        .pictures
        .iter()
        .filter(|picture| picture.is_right())
        .count();
    assert_eq!(scores.evaluation.accuracy, Some(right as f64 / 40.0));
    let ids: Vec<u64> = dataset.items().iter().map(|item| item.id).collect();
    assert_eq!(
        scores
            .pictures
            .iter()
            .map(|picture| picture.id)
            .collect::<Vec<_>>(),
        ids
    );
    // Pictures as they come get the same probabilities, whoever comes before them.
    let paths = dataset.items().iter().map(|item| item.path.clone());
    for (prediction, score) in model.predict_each(paths).zip(&scores.pictures) {
        let probability = prediction.unwrap().probability("red").unwrap();
        assert!((probability - score.second).abs() < 1e-5);
    }
}

#[test]
fn charts_are_as_wide_as_they_are_told() {
    let record = |epoch: usize| EpochRecord {
        epoch,
        loss: 1.0 / epoch as f64,
        accuracy: 1.0 - 0.5 / epoch as f64,
        val_loss: (epoch != 3).then_some(1.2 / epoch as f64),
        val_accuracy: Some(0.5),
        seconds: 1.0,
    };
    for epochs in [1, 2, 20, 500] {
        let history = History {
            epochs: (1..=epochs).map(record).collect(),
        };
        for columns in [40, 80, 200] {
            let chart = history.chart(columns);
            assert!(
                chart.lines().all(|line| line.width() <= columns),
                "{epochs} {columns}\n{chart}"
            );
            assert!(chart.contains('•') && chart.contains('○'), "{chart}");
        }
    }
    assert_eq!(History::default().chart(80), "");

    let names: Vec<String> = (0..30)
        .map(|class| format!("klasse 全角\u{1b}[2J {class}"))
        .collect();
    let labels: Vec<u32> = (0..30).collect();
    let rows: Vec<Vec<f32>> = (0..30)
        .map(|row| {
            (0..30)
                .map(|column| f32::from(u8::from(column == (row * 7) % 30)))
                .collect()
        })
        .collect();
    let evaluation = Evaluation::from_predictions(&labels, &rows, &names, 1.0).unwrap();
    for columns in [40, 80, 200] {
        let chart = evaluation.confusion_chart(columns);
        assert!(
            chart.lines().all(|line| line.width() <= columns),
            "{columns}\n{chart}"
        );
        assert!(
            !chart.contains('\u{1b}') && chart.contains("more") == (columns < 200),
            "{chart}"
        );
        let cells = chart.lines().skip(2).flat_map(|line| line.rsplit(' '));
        let cells = cells.filter_map(|cell| cell.parse::<usize>().ok());
        assert!(
            cells.sum::<usize>() >= 30,
            "no picture is left out\n{chart}"
        );
    }
}
