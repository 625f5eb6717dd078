//! The files of a run and of a study: what is read of them can be shown and written, or is refused by name.

use std::fs;

use headstart::run::{Metrics, Run, Settings};
use headstart::study::Oddities;
use headstart::train::metrics::{EpochRecord, Evaluation, History, Scores};

use super::folder;

/// `history.json`: a chart, a file of lines, and curves can be made of what is read.
pub fn history(data: &[u8]) {
    let folder = folder();
    fs::write(folder.path().join("history.json"), data).expect("room for a file");
    let Ok(history) = Run::history_of(folder.path()) else {
        return;
    };
    let _ = (
        history.chart(80),
        history.seconds_per_epoch(),
        history.last(),
    );
    let csv = folder.path().join("history.csv");
    history.save_csv(csv).expect("a file of lines");
    #[cfg(feature = "report")]
    history.plot(folder.path().join("a.svg")).expect("curves");
}

pub fn history_seeds() -> Vec<Vec<u8>> {
    let history = [0, 1, 5].map(some_history);
    history.iter().map(json).collect()
}

/// `metrics.json`: what is read can be shown, alone and beside another run.
pub fn metrics(data: &[u8]) {
    let folder = folder();
    fs::write(folder.path().join("metrics.json"), data).expect("room for a file");
    let Ok(metrics) = Run::metrics_of(folder.path()) else {
        return;
    };
    if let Some((_, evaluation)) = metrics.judged() {
        let _ = (evaluation.to_string(), evaluation.table());
        let _ = evaluation.confusion_chart(80);
    }
    let _ = (metrics.settings.rows(), metrics.settings.check());
    #[cfg(feature = "report")]
    compare(folder.path());
}

/// The page of two runs that are one.
#[cfg(feature = "report")]
fn compare(run: &std::path::Path) {
    fs::write(run.join("history.json"), json(&some_history(3))).expect("room for a file");
    let compared = headstart::report::Report::compare([run, run]).expect("it was read before");
    let _ = compared.to_string();
    compared.write(run.join("page.html")).expect("a page");
}

pub fn metrics_seeds() -> Vec<Vec<u8>> {
    let names = ["ant", "bee", "<bdi>\u{5e9}\u{5dc}"].map(String::from);
    let seed = |classes: usize, part: &str| {
        let rows: Vec<Vec<f32>> = (0..9)
            .map(|n| {
                (0..classes)
                    .map(|c| ((n * 3 + c * 5) % 7) as f32 / 20.0)
                    .collect()
            })
            .collect();
        let labels: Vec<u32> = (0..9).map(|n| n % classes as u32).collect();
        let evaluation = Evaluation::from_predictions(&labels, &rows, &names[..classes], 0.5);
        let scores = Scores {
            evaluation: evaluation.expect("scores"),
            pictures: Vec::new(),
        };
        json(&Metrics::new(
            part,
            &scores,
            &some_history(2),
            &Settings::default(),
        ))
    };
    vec![seed(2, "test"), seed(3, "validation")]
}

/// `study.json`: what is read has probabilities that are some.
pub fn study(data: &[u8]) {
    let folder = folder();
    let path = folder.path().join("study.json");
    fs::write(&path, data).expect("room for a file");
    let Ok(oddities) = Oddities::load(&path) else {
        return;
    };
    for suspect in &oddities.suspects {
        for share in [suspect.confidence, suspect.probability] {
            assert!((0.0..=1.0).contains(&share), "{share}");
        }
    }
    for pair in &oddities.duplicates {
        let _ = (pair.to_string(), pair.leaks(), pair.contradicts());
        assert!(pair.similarity.is_finite());
    }
}

pub fn study_seeds() -> Vec<Vec<u8>> {
    let place = |split: &str| {
        let path = format!("pictures/{split}/ant/1.png");
        serde_json::json!({ "path": path, "class": "ant", "split": split })
    };
    let study = serde_json::json!({
        "suspects": [{
            "path": "pictures/train/ant/2.png", "class": "ant", "looks_like": "bee", "confidence": 0.0625,
            "probability": 0.9375, "is_likely": true,
        }],
        "duplicates": [{
            "first": place("train"), "second": place("test"), "is_exact": false, "similarity": 0.96875,
        }],
        "advice": [],
    });
    vec![json(&study)]
}

/// `config.toml`: what is read can be checked, and comes back when it is written.
#[cfg(feature = "cli")]
pub fn config(data: &[u8]) {
    use headstart::run::Config;
    let folder = folder();
    let path = folder.path().join("config.toml");
    fs::write(&path, data).expect("room for a file");
    let Ok(config) = Config::load(&path) else {
        return;
    };
    let _ = (config.settings.check(), config.settings.resolved());
    config.save(&path).expect("what was read can be written");
    assert!(Config::load(&path).expect("what was written can be read") == config);
}

#[cfg(feature = "cli")]
pub fn config_seeds() -> Vec<Vec<u8>> {
    let all = "pictures = \"pictures\"\nvalidation = \"other/validation\"\n\n[settings]\nbase = \"vgg19\"\n\
        weights = \"compact\"\nrecipe = \"fine-tune\"\nunfreeze = \"block5\"\nhead = \"softmax\"\nsize = 96\n\
        resize = \"bilinear\"\nepochs = 20\nhead_epochs = 5\nbatch_size = 32\nlr = 0.001\naugment = true\nseed = 1\n";
    let deep = format!("pictures = {}", "[".repeat(100_000));
    ["", all, &all.replace("0.001", "\"auto\""), &deep]
        .map(|text| text.as_bytes().to_vec())
        .into()
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("figures as JSON")
}

fn some_history(epochs: usize) -> History {
    let record = |epoch: usize| EpochRecord {
        epoch,
        loss: 1.0 / epoch as f64,
        accuracy: 0.5,
        val_loss: epoch.is_multiple_of(2).then_some(0.7),
        val_accuracy: epoch.is_multiple_of(2).then_some(0.6),
        seconds: 1.5,
    };
    History {
        epochs: (1..=epochs).map(record).collect(),
    }
}
