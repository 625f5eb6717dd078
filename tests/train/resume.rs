//! What a resumed run may differ in, and what is said of the rest.

use crate::common;
use crate::common::numbers::bits;

use std::path::Path;

use headstart::train::Phase;
use headstart::train::metrics::History;
use headstart::train::optimizer::Schedule;
use headstart::{AdamW, Augmenter, Checkpoints, Classifier, Dataset, EarlyStopping, Head, Trainer};

fn model() -> Classifier {
    let head = Head::sigmoid().hidden(4).dropout(0.3);
    Classifier::new(common::frozen_base(), head, &["blue", "red"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

fn trainer(epochs: usize) -> Trainer {
    Trainer::new(AdamW::new(1e-3))
        .epochs(epochs)
        .batch_size(4)
        .augment(Augmenter::notebook())
}

type End = (Vec<Vec<u32>>, Vec<[u64; 2]>);

fn end(trainer: &Trainer, dataset: &Dataset) -> End {
    let mut model = model();
    let history: History = trainer.fit(&mut model, dataset, dataset).unwrap();
    let tensors = model.head().tensors().into_iter();
    let figures = history.epochs.iter();
    (
        tensors.map(|(_, tensor)| bits(&tensor)).collect(),
        figures
            .map(|e| [e.loss, e.val_loss.unwrap()].map(f64::to_bits))
            .collect(),
    )
}

#[test]
fn a_run_may_be_made_longer() {
    let (_folder, dataset) = common::colours(4);
    let expected = end(&trainer(4), &dataset);
    let kept = tempfile::tempdir().unwrap();
    let resumed = |trainer: Trainer| trainer.resume(kept.path());
    // `resume` alone keeps checkpoints there too.
    assert_eq!(end(&resumed(trainer(2)), &dataset).1.len(), 2);
    assert!(
        kept.path()
            .join("checkpoint-00002-000000.safetensors")
            .exists()
    );
    assert_eq!(end(&resumed(trainer(3)), &dataset).1.len(), 3);
    assert!(end(&resumed(trainer(4)), &dataset) == expected);
    // Fewer than are made is nothing that can be done.
    let error = resumed(trainer(3))
        .fit(&mut model(), &dataset, &dataset)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("4 epochs of its phase are made, of 3"),
        "{error}"
    );
    // All else is as it was.
    let error = resumed(trainer(5))
        .seed(9)
        .fit(&mut model(), &dataset, &dataset)
        .unwrap_err();
    assert!(error.to_string().contains("`seed` is 9"), "{error}");
}

/// The rates of the steps that are left are those of the longer run.
#[test]
fn a_schedule_runs_over_the_new_length() {
    let (_folder, dataset) = common::colours(4);
    let kept = tempfile::tempdir().unwrap();
    let trainer = |epochs| {
        trainer(epochs)
            .schedule(Schedule::cosine(0.0))
            .resume(kept.path())
    };
    end(&trainer(2), &dataset);
    let rates = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    struct Rates(std::sync::Arc<std::sync::Mutex<Vec<f64>>>);
    impl headstart::train::callback::Callback for Rates {
        fn on_step_end(
            &mut self,
            step: &headstart::train::callback::StepEnd,
        ) -> headstart::Result<std::ops::ControlFlow<()>> {
            self.0.lock().unwrap().push(step.learning_rate);
            Ok(std::ops::ControlFlow::Continue(()))
        }
    }
    end(&trainer(4).callback(Rates(rates.clone())), &dataset);
    let expected: Vec<f64> = (4..8)
        .map(|step| Schedule::cosine(0.0).learning_rate(1e-3, step, 8))
        .collect();
    assert_eq!(*rates.lock().unwrap(), expected);
}

#[test]
fn phases_after_the_one_it_is_in_may_be_longer_and_earlier_ones_not() {
    let (_folder, dataset) = common::colours(4);
    let kept = tempfile::tempdir().unwrap();
    let run = |first, second| {
        let trainer = Trainer::new(AdamW::new(1e-3))
            .batch_size(4)
            .resume(kept.path());
        trainer.phases([Phase::new(first).frozen(), Phase::new(second).frozen()])
    };
    assert_eq!(end(&run(1, 1), &dataset).1.len(), 2);
    assert_eq!(end(&run(1, 3), &dataset).1.len(), 4);
    let error = run(2, 3).fit(&mut model(), &dataset, &dataset).unwrap_err();
    assert!(
        error.to_string().contains("`phases.0.epochs` is 2"),
        "{error}"
    );
}

#[test]
fn what_early_stopping_ended_stays_ended() {
    let (_folder, dataset) = common::colours(4);
    let kept = tempfile::tempdir().unwrap();
    let run = |epochs| {
        let stop = EarlyStopping::new(0).min_delta(100.0);
        trainer(epochs).callback(stop).resume(kept.path())
    };
    assert_eq!(end(&run(5), &dataset).1.len(), 2);
    assert_eq!(end(&run(9), &dataset).1.len(), 2);
}

fn copy(from: &Path, to: &Path) {
    std::fs::copy(from, to).unwrap();
}

#[test]
fn pictures_that_differ_are_named_in_words() {
    type Change<'a> = (&'a str, fn(&Path), &'a [&'a str]);
    let changes: [Change<'_>; 7] = [
        (
            "more",
            |f| copy(&f.join("red/0.png"), &f.join("red/9.png")),
            &["`red/9.png` is new"],
        ),
        (
            "fewer",
            |f| std::fs::remove_file(f.join("red/3.png")).unwrap(),
            &["`red/3.png` is gone"],
        ),
        (
            "replaced",
            |f| copy(&f.join("red/0.png"), &f.join("red/1.png")),
            &["`red/1.png` has other contents"],
        ),
        (
            "renamed",
            |f| std::fs::rename(f.join("blue/1.png"), f.join("blue/1b.png")).unwrap(),
            &["`blue/1.png` is now `blue/1b.png`"],
        ),
        (
            "another class",
            |f| std::fs::rename(f.join("blue/1.png"), f.join("red/7.png")).unwrap(),
            &["`blue/1.png` is now `red/7.png`"],
        ),
        (
            "exchanged",
            |f| {
                let (a, b, c) = (f.join("red/1.png"), f.join("blue/1.png"), f.join("x"));
                std::fs::rename(&a, &c).unwrap();
                std::fs::rename(&b, &a).unwrap();
                std::fs::rename(&c, &b).unwrap();
            },
            &[
                "`red/1.png` has other contents",
                "`blue/1.png` has other contents",
            ],
        ),
        ("nothing", |_| (), &[]),
    ];
    for (what, change, words) in changes {
        let (folder, dataset) = common::colours(4);
        let kept = tempfile::tempdir().unwrap();
        let run = |epochs| {
            trainer(epochs)
                .checkpoint(Checkpoints::new(kept.path()))
                .resume(kept.path())
        };
        end(&run(1), &dataset);
        change(folder.path());
        let changed = Dataset::open(folder.path()).unwrap();
        let outcome = run(2).fit(&mut model(), &changed, &changed);
        match outcome {
            Ok(_) => assert!(words.is_empty(), "{what} resumes"),
            Err(error) => {
                let error = error.to_string();
                assert!(error.contains("training pictures"), "{what}: {error}");
                assert!(
                    !words.is_empty() && words.iter().all(|word| error.contains(word)),
                    "{what}: {error}"
                );
            }
        }
    }
}

/// A checkpoint whose description was meddled with, under a checksum that agrees.
fn meddle(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    use safetensors::{SafeTensors, View};
    let bytes = std::fs::read(path).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let entry = &metadata.metadata().as_ref().unwrap()["headstart_checkpoint"];
    let mut description = serde_json::from_str(entry).unwrap();
    change(&mut description);
    let json = description.to_string();
    let mut views = file.tensors();
    views.sort_by(|a, b| a.0.cmp(&b.0));
    let mut sum = crc32fast::Hasher::new();
    sum.update(json.as_bytes());
    for (name, view) in &views {
        sum.update(name.as_bytes());
        sum.update(&View::data(view));
    }
    let metadata = std::collections::HashMap::from([
        ("headstart_checkpoint".to_owned(), json),
        ("crc32".to_owned(), sum.finalize().to_string()),
    ]);
    std::fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

#[test]
fn a_position_that_cannot_be_is_refused() {
    use serde_json::json;
    let (_folder, dataset) = common::colours(4);
    type Change = (&'static str, fn(&mut serde_json::Value));
    let changes: [Change; 13] = [
        ("phase", |d| d["position"]["phase"] = json!(7)),
        ("phase", |d| d["position"]["phase"] = json!(u64::MAX)),
        ("epochs of its phase", |d| {
            d["position"]["phase_epochs"] = json!(99)
        }),
        ("epochs are made", |d| {
            d["position"]["phase_epochs"] = json!(0)
        }),
        ("steps of its phase", |d| {
            d["position"]["phase_steps"] = json!(1_000_000)
        }),
        ("step", |d| d["position"]["step"] = json!(u64::MAX)),
        ("learning rate", |d| {
            d["position"]["learning_rate"] = json!(-1e-3)
        }),
        ("unfinished epoch", |d| {
            d["position"]["seconds"] = json!(-1.0)
        }),
        ("unfinished epoch", |d| {
            d["position"]["mean"]["pictures"] = json!(1_000_000)
        }),
        ("unfinished epoch", |d| {
            d["position"]["mean"]["correct"] = json!(8)
        }),
        ("figures of epoch 1", |d| {
            d["position"]["history"]["epochs"][0]["accuracy"] = json!(7.0)
        }),
        ("figures of epoch 1", |d| {
            d["position"]["history"]["epochs"][0]["epoch"] = json!(5)
        }),
        ("callback states", |d| d["callbacks"] = json!([])),
    ];
    for (named, change) in changes {
        let kept = tempfile::tempdir().unwrap();
        let run = |epochs| {
            trainer(epochs)
                .callback(EarlyStopping::new(3))
                .resume(kept.path())
        };
        end(&run(1), &dataset);
        meddle(
            &kept.path().join("checkpoint-00001-000000.safetensors"),
            change,
        );
        let error = run(2)
            .fit(&mut model(), &dataset, &dataset)
            .unwrap_err()
            .to_string();
        assert!(error.contains(named), "{error} does not name {named}");
    }
    // Unmeddled, and with a list of pictures that none had in format 2.
    let kept = tempfile::tempdir().unwrap();
    end(&trainer(1).resume(kept.path()), &dataset);
    meddle(
        &kept.path().join("checkpoint-00001-000000.safetensors"),
        |d| d["format"] = json!(2),
    );
    assert_eq!(end(&trainer(2).resume(kept.path()), &dataset).1.len(), 2);
}
