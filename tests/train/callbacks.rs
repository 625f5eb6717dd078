//! What callbacks are told, what they may do, and the files the built-in ones write.

use crate::common;
use crate::common::numbers::bits;

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Var};
use headstart::model::Backbone;
use headstart::train::Phase;
use headstart::train::callback::{Callback, CsvLogger, JsonLinesLogger};
use headstart::train::callback::{EpochBegin, EpochEnd, StepEnd, Stop, TrainBegin};
use headstart::train::metrics::{EpochRecord, History};
use headstart::{Checkpoints, Classifier, ConvBase, Error, Head, Result, Sgd, Trainer, Weights};

fn model() -> Classifier {
    Classifier::new(common::frozen_base(), Head::sigmoid(), &["blue", "red"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

fn trainer() -> Trainer {
    Trainer::new(Sgd::new(0.01))
        .batch_size(3)
        .phases([Phase::new(1), Phase::new(2)])
}

/// Writes down what it is told, and ends what it is asked to end after an epoch.
#[derive(Default)]
struct Diary {
    told: Vec<String>,
    end: Option<(usize, Stop)>,
}

impl Callback for Diary {
    fn on_train_begin(&mut self, run: &TrainBegin<'_>) -> Result<()> {
        self.told.push(format!("run of {}", run.epochs));
        Ok(())
    }
    fn on_phase_begin(&mut self) -> Result<()> {
        self.told.push("phase".into());
        Ok(())
    }
    fn on_epoch_begin(&mut self, epoch: &EpochBegin) -> Result<()> {
        self.told
            .push(format!("epoch {} of {} steps", epoch.epoch, epoch.steps));
        Ok(())
    }
    fn on_step_end(&mut self, step: &StepEnd) -> Result<ControlFlow<()>> {
        self.told.push(format!("step {}", step.step));
        Ok(ControlFlow::Continue(()))
    }
    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        assert_eq!(epoch.history.last(), Some(epoch.record));
        assert_eq!(epoch.validation.loss, epoch.record.val_loss);
        self.told.push(format!("end of {}", epoch.record.epoch));
        Ok(match self.end {
            Some((number, stop)) if number == epoch.record.epoch => ControlFlow::Break(stop),
            _ => ControlFlow::Continue(()),
        })
    }
    fn on_phase_end(&mut self, variables: &[(String, Var)]) -> Result<()> {
        self.told
            .push(format!("end of phase, {} variables", variables.len()));
        Ok(())
    }
    fn on_train_end(&mut self, history: &History) -> Result<()> {
        self.told
            .push(format!("end after {}", history.epochs.len()));
        Ok(())
    }
}

#[test]
fn callbacks_are_told_of_everything_in_order() {
    let (_folder, dataset) = common::colours(2);
    let told = |end| {
        let diary = Arc::new(Mutex::new(Diary {
            end,
            ..Diary::default()
        }));
        let trainer = trainer().callback(diary.clone());
        trainer.fit(&mut model(), &dataset, &dataset).unwrap();
        std::mem::take(&mut diary.lock().unwrap().told)
    };
    let epoch = |number: usize| {
        let begin = format!("epoch {number} of 2 steps");
        [
            begin,
            "step 1".into(),
            "step 2".into(),
            format!("end of {number}"),
        ]
    };
    let frame = |phases: &[&[usize]], epochs: usize| -> Vec<String> {
        let mut expected = vec!["run of 3".to_owned()];
        for phase in phases {
            expected.push("phase".into());
            expected.extend(phase.iter().flat_map(|number| epoch(*number)));
            expected.push("end of phase, 2 variables".into());
        }
        expected.push(format!("end after {epochs}"));
        expected
    };
    assert_eq!(told(None), frame(&[&[1], &[2, 3]], 3));
    assert_eq!(told(Some((2, Stop::Phase))), frame(&[&[1], &[2]], 2));
    assert_eq!(told(Some((1, Stop::Phase))), frame(&[&[1], &[2, 3]], 3));
    assert_eq!(told(Some((1, Stop::Run))), frame(&[&[1]], 1));
}

/// Fails, or does what a user may do after an epoch.
struct AtEpochEnd<F>(F);

impl<F: FnMut(&mut EpochEnd<'_>) -> Result<()> + Send> Callback for AtEpochEnd<F> {
    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        (self.0)(epoch)?;
        Ok(ControlFlow::Continue(()))
    }
}

#[test]
fn an_error_of_a_callback_ends_the_run() {
    let (_folder, dataset) = common::colours(2);
    let failing = AtEpochEnd(|_: &mut EpochEnd<'_>| {
        Err(Error::Io {
            path: "full.disk".into(),
            source: std::io::Error::other("no room"),
        })
    });
    let error = trainer()
        .callback(failing)
        .fit(&mut model(), &dataset, &dataset)
        .unwrap_err();
    assert!(error.to_string().contains("full.disk"), "{error}");
}

#[test]
fn a_callback_may_save_weights_and_change_the_rate() {
    let (folder, dataset) = common::colours(2);
    let file = folder.path().join("weights.safetensors");
    let path = file.clone();
    let rates = Arc::new(Mutex::new(Vec::new()));
    let seen = rates.clone();
    let callback = AtEpochEnd(move |epoch: &mut EpochEnd<'_>| {
        seen.lock().unwrap().push(epoch.learning_rate);
        *epoch.phase_learning_rate = 0.005;
        epoch.save_weights(&path)
    });
    let mut model = model();
    let trainer = Trainer::new(Sgd::new(0.01)).epochs(2).callback(callback);
    trainer.fit(&mut model, &dataset, &dataset).unwrap();
    assert_eq!(*rates.lock().unwrap(), [0.01, 0.005]);
    let saved = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    for (name, tensor) in model.head().tensors() {
        assert_eq!(
            bits(&saved[&format!("head.{name}")]),
            bits(&tensor),
            "{name}"
        );
    }
    assert!(saved.contains_key("base.block1_conv1.weight"));

    // Whoever writes it, the crate reads it.
    let loaded = Classifier::load(&file, &Device::Cpu).unwrap();
    assert_eq!(loaded.class_names(), model.class_names());
    let base = ConvBase::new(
        model.base().arch().clone(),
        Weights::file(&file),
        &Device::Cpu,
    );
    let base = base.unwrap();
    assert_eq!(base.preprocess(), model.preprocess());
    for ((name, own), (_, read)) in model.base().tensors().iter().zip(base.tensors()) {
        assert_eq!(bits(own), bits(&read), "{name}");
    }
}

#[test]
fn logs_hold_every_epoch_also_of_a_resumed_run() {
    let (_pictures, dataset) = common::colours(2);
    let folder = tempfile::tempdir().unwrap();
    let (csv, json) = (
        folder.path().join("log.csv"),
        folder.path().join("log.jsonl"),
    );
    let logged = |trainer: Trainer| {
        trainer
            .callback(CsvLogger::new(&csv))
            .callback(JsonLinesLogger::new(&json))
    };
    let assert_logged = |history: &History| {
        let whole = folder.path().join("whole.csv");
        history.save_csv(&whole).unwrap();
        let read = |path| std::fs::read_to_string(path).unwrap();
        assert_eq!(read(&csv), read(&whole));
        let lines = read(&json);
        let records: Vec<EpochRecord> = lines
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(records, history.epochs);
    };
    let text = |path| std::fs::read_to_string(path).unwrap();
    let history = logged(trainer())
        .fit(&mut model(), &dataset, &dataset)
        .unwrap();
    assert_eq!(history.epochs.len(), 3);
    assert_logged(&history);
    let first = (text(&csv), text(&json));

    // Left in its second epoch, after the last checkpoint but one line of the log later.
    let kept = folder.path().join("checkpoints");
    let run = |trainer: Trainer| trainer.checkpoint(Checkpoints::new(&kept)).resume(&kept);
    let failing = AtEpochEnd(|epoch: &mut EpochEnd<'_>| {
        if epoch.record.epoch == 2 {
            return Err(Error::Dataset {
                path: "x".into(),
                source: "gone".into(),
            });
        }
        Ok(())
    });
    run(logged(trainer()))
        .callback(failing)
        .fit(&mut model(), &dataset, &dataset)
        .unwrap_err();
    // The first run's lines stay.
    assert_eq!(text(&csv).lines().count(), 1 + 3 + 2);
    let resumed = run(logged(trainer()))
        .fit(&mut model(), &dataset, &dataset)
        .unwrap();
    assert_eq!(resumed.epochs.len(), 3);
    let after = |path, before: &str| text(path).strip_prefix(before).unwrap().to_owned();
    let (csv_rest, json_rest) = (after(&csv, &first.0), after(&json, &first.1));
    let header = first.0.lines().next().unwrap();
    std::fs::write(&csv, format!("{header}\n{csv_rest}")).unwrap();
    std::fs::write(&json, json_rest).unwrap();
    assert_logged(&resumed);

    // What is no log is not written over.
    std::fs::write(&csv, "precious\n").unwrap();
    let error = logged(trainer()).fit(&mut model(), &dataset, &dataset);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("not written over"), "{error}");
    assert_eq!(text(&csv), "precious\n");
}

#[cfg(feature = "tensorboard")]
#[test]
fn event_files_hold_the_figures() {
    use headstart::train::callback::TensorBoard;
    let (_pictures, dataset) = common::colours(2);
    let folder = tempfile::tempdir().unwrap();
    let trainer = trainer().callback(TensorBoard::new(folder.path()));
    let history = trainer.fit(&mut model(), &dataset, &dataset).unwrap();
    let file = std::fs::read_dir(folder.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    let bytes = std::fs::read(file.path()).unwrap();
    // Records: length, its checksum, data, its checksum; a value is its tag (field 1) and an f32 (field 2).
    let (mut rest, mut records) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        records.push(&rest[12..12 + length]);
        rest = &rest[16 + length..];
    }
    assert_eq!(records.len(), 4);
    assert!(records[0].windows(13).any(|w| w == b"brain.Event:2"));
    for (record, epoch) in records[1..].iter().zip(&history.epochs) {
        for (tag, value) in [
            ("loss/train", epoch.loss),
            ("loss/validation", epoch.val_loss.unwrap()),
            ("accuracy/train", epoch.accuracy),
            ("learning_rate", 0.01),
        ] {
            let mut field = vec![0x0a, tag.len() as u8];
            field.extend(tag.as_bytes());
            field.push(0x15);
            field.extend((value as f32).to_le_bytes());
            assert!(record.windows(field.len()).any(|w| w == field), "{tag}");
        }
    }
}

/// A second run shows beside the first, and a resumed one goes on with the last.
#[cfg(feature = "tensorboard")]
#[test]
fn event_files_of_two_runs_are_two() {
    use headstart::train::callback::TensorBoard;
    let (_pictures, dataset) = common::colours(2);
    let (folder, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = |folder: &std::path::Path| {
        let entries = std::fs::read_dir(folder).into_iter().flatten();
        entries
            .filter(|entry| entry.as_ref().unwrap().path().is_file())
            .count()
    };
    let run = |trainer: Trainer| {
        let trainer = trainer.callback(TensorBoard::new(folder.path()));
        trainer.fit(&mut model(), &dataset, &dataset).unwrap();
    };
    run(trainer());
    run(trainer().resume(kept.path()));
    run(trainer().resume(kept.path()));
    run(trainer());
    let places = ["", "run-2", "run-3", "run-4"].map(|name| files(&folder.path().join(name)));
    assert_eq!(places, [1, 2, 1, 0]);
}

/// Each would write its line of every epoch.
#[test]
fn two_loggers_of_one_file_are_refused_before_anything_is_written() {
    let (_folder, dataset) = common::colours(2);
    let logs = tempfile::tempdir().unwrap();
    let log = logs.path().join("log.csv");
    let fit = |trainer: Trainer| trainer.fit(&mut model(), &dataset, &dataset);
    let round_about = logs
        .path()
        .join("..")
        .join(logs.path().file_name().unwrap());
    let shared = Arc::new(Mutex::new(CsvLogger::new(&log)));
    for both in [
        trainer()
            .callback(CsvLogger::new(&log))
            .callback(CsvLogger::new(&log)),
        trainer()
            .callback(CsvLogger::new(&log))
            .callback(JsonLinesLogger::new(&log)),
        trainer()
            .callback(CsvLogger::new(&log))
            .callback(CsvLogger::new(round_about.join("log.csv"))),
        trainer().callback(shared.clone()).callback(shared.clone()),
    ] {
        let error = fit(both).unwrap_err();
        let told = error.to_string();
        assert!(matches!(error, Error::InvalidOption { .. }), "{told}");
        assert!(
            told.contains("log.csv") && told.contains("a file for each"),
            "{told}"
        );
        assert!(!log.exists());
    }
    let trainer = trainer().callback(CsvLogger::new(&log));
    let trainer = trainer.callback(CsvLogger::new(logs.path().join("other.csv")));
    fit(trainer.clone()).unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 4);
    #[cfg(unix)]
    {
        let link = logs.path().join("link.csv");
        std::os::unix::fs::symlink(&log, &link).unwrap();
        assert!(fit(trainer.callback(CsvLogger::new(link))).is_err());
    }
}
