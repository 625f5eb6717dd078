//! Every writer on a disk that is really full: it says so, names the file, and leaves nothing half written.
//!
//! The disk is a small one in memory, mounted in a namespace of its own, which needs no rights on most Linux systems.
//! Where it does, the test says that it was skipped.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{DType, Device};
use headstart::export::TorchNames;
use headstart::model::{Arch, Pooling, Vgg};
use headstart::run::{Metrics, Run, Settings, Start};
use headstart::study::{CrossValidation, Features, Gallery, LinearHead, Study, Suspects};
use headstart::train::callback::{Callback, CsvLogger, EpochEnd, JsonLinesLogger, Stop};
use headstart::train::metrics::{EpochRecord, Evaluation, History, Scores};
use headstart::{
    Checkpoints, Classifier, ConvBase, Dataset, Error, FeatureCache, Head, Result, Sgd, Trainer,
    Weights,
};

use crate::common;

/// Where the child finds the small disk.
const DISK: &str = "HEADSTART_FULL_DISK";

/// What the script that mounts it ends with where it cannot.
const NO_DISK: i32 = 77;

/// What fills it.
const FILLER: &str = "filler";

#[test]
fn every_writer_says_that_the_disk_is_full_and_leaves_nothing_half_written() {
    let folder = tempfile::tempdir().unwrap();
    let script = format!("mount -t tmpfs -o size=16m tmpfs \"$0\" || exit {NO_DISK}; exec \"$@\"");
    let test = std::env::current_exe().unwrap();
    let outcome = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .arg(folder.path())
        .arg(test)
        .args([
            "--exact",
            "full_disk::child",
            "--ignored",
            "--nocapture",
            "--test-threads",
            "1",
        ])
        .env(DISK, folder.path())
        .output();
    let output = match outcome {
        Ok(output) => output,
        Err(error) => return eprintln!("SKIPPED, the disk was not filled: unshare: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(NO_DISK) || said.starts_with("unshare:") {
        return eprintln!("SKIPPED, the disk was not filled: {said}");
    }
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

fn model() -> Classifier {
    let vgg = Vgg::Vgg11.width(1.0 / 64.0).unwrap();
    let base = ConvBase::new(vgg, Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
    let model = Classifier::new(base.frozen(), head, &["blue", "red"]).unwrap();
    model.input_size(32, 32).unwrap()
}

/// One that PyTorch has, too.
fn of_pytorch() -> Classifier {
    let arch = "mobilenetv2_100".parse::<Arch>().unwrap();
    let base = ConvBase::new(arch, Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    let head = Head::softmax(2).pooling(Pooling::GlobalAverage);
    Classifier::new(base.frozen(), head, &["blue", "red"]).unwrap()
}

/// Saves the classifier after each epoch.
struct Save(PathBuf);

impl Callback for Save {
    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        epoch.save_weights(&self.0)?;
        Ok(ControlFlow::Continue(()))
    }
}

type Writer = (&'static str, Box<dyn Fn(&Path) -> Result<()>>);

/// Everything that writes, into a folder on the disk; another one has a run that was finished.
fn writers(dataset: &Dataset, finished: &Path) -> Vec<Writer> {
    let trainer = || Trainer::new(Sgd::new(1e-3)).epochs(2).batch_size(8);
    let history = trainer().fit(&mut model(), dataset, dataset).unwrap();
    let fitting = |with: fn(Trainer, &Path) -> Trainer| {
        let dataset = dataset.clone();
        Box::new(move |folder: &Path| {
            let fit = with(trainer(), folder).fit(&mut model(), &dataset, &dataset);
            fit.map(|_| ())
        })
    };
    let study = Study::options()
        .input_size(32, 32)
        .run(model().base(), dataset)
        .unwrap();
    let torch = of_pytorch();
    #[cfg(feature = "report")]
    let (pictures, finished) = (dataset.clone(), finished.to_owned());
    #[cfg(not(feature = "report"))]
    let _ = finished;
    vec![
        (
            "model",
            Box::new(|folder| model().save(folder.join("model.safetensors"))),
        ),
        (
            "weights",
            Box::new(|folder| {
                model()
                    .base()
                    .save(folder.join("base.safetensors"), DType::F32, &[])
            }),
        ),
        (
            "gallery",
            Box::new(|folder| Gallery::of(&rows()).save(folder.join("gallery.safetensors"))),
        ),
        (
            "suspects",
            Box::new(|folder| {
                let validation = CrossValidation::new(2, 1);
                let estimate = validation.linear_head(&rows(), &LinearHead::new().c([1.0]))?;
                Suspects::of(&estimate).write_csv(folder.join("suspects.csv"))
            }),
        ),
        (
            "history",
            Box::new(move |folder| history.save_csv(folder.join("history.csv"))),
        ),
        (
            "features",
            fitting(|t, folder| t.feature_cache(FeatureCache::on_disk(folder))),
        ),
        (
            "checkpoints",
            fitting(|t, folder| t.checkpoint(Checkpoints::new(folder))),
        ),
        (
            "csv",
            fitting(|t, folder| t.callback(CsvLogger::new(folder.join("log.csv")))),
        ),
        (
            "json lines",
            fitting(|t, folder| t.callback(JsonLinesLogger::new(folder.join("log.jsonl")))),
        ),
        (
            "best weights",
            fitting(|t, folder| t.callback(Save(folder.join("best.safetensors")))),
        ),
        (
            "study",
            Box::new(move |folder| study.write_json(folder.join("study.json"))),
        ),
        (
            "torch",
            Box::new(move |folder| {
                torch.export_torch(folder.join("torch.safetensors"), TorchNames::Timm)
            }),
        ),
        ("run", Box::new(run)),
        #[cfg(feature = "onnx")]
        (
            "onnx",
            Box::new(|folder| model().export_onnx(folder.join("model.onnx"))),
        ),
        #[cfg(feature = "report")]
        (
            "plots",
            Box::new(|folder| {
                some_history().plot(folder.join("history.svg"))?;
                some_history().plot(folder.join("history.png"))
            }),
        ),
        #[cfg(feature = "report")]
        (
            "report",
            Box::new(move |folder| {
                let scores = model().score(&pictures)?;
                headstart::report::Report::new(&model(), &pictures, &scores)
                    .write(folder.join("report.html"))
            }),
        ),
        #[cfg(feature = "report")]
        (
            "comparison",
            Box::new(move |folder| {
                headstart::report::Report::compare([&finished])?.write(folder.join("compare.html"))
            }),
        ),
        #[cfg(feature = "cli")]
        (
            "config",
            Box::new(|folder| headstart::run::Config::default().save(folder.join("config.toml"))),
        ),
        #[cfg(feature = "tensorboard")]
        (
            "tensorboard",
            fitting(|t, folder| t.callback(headstart::train::callback::TensorBoard::new(folder))),
        ),
    ]
}

/// All that a run leaves.
fn run(folder: &Path) -> Result<()> {
    let run = Run::begin(folder, Start::New)?;
    let history = some_history();
    run.save_history(&history)?;
    run.save_model(&model())?;
    let names = ["blue", "red"].map(String::from);
    let evaluation =
        Evaluation::from_predictions(&[0, 1], &[vec![0.9, 0.1], vec![0.2, 0.8]], &names, 0.2);
    let scores = Scores {
        evaluation: evaluation?,
        pictures: Vec::new(),
    };
    run.save_metrics(&Metrics::new(
        "test",
        &scores,
        &history,
        &Settings::default(),
    ))
}

fn some_history() -> History {
    let record = |epoch| EpochRecord {
        epoch,
        ..EpochRecord::default()
    };
    History {
        epochs: (1..=200).map(record).collect(),
    }
}

/// Features whose gallery takes 24 kB, and whose suspects do.
fn rows() -> Features {
    let rows = (0..1200).map(|n| (n * 37 % 101) as f32).collect();
    let labels: Vec<usize> = (0..400).map(|n| n % 2).collect();
    Features::from_rows(rows, 3, &labels, &["blue", "red"]).unwrap()
}

/// Fills the disk but for so many bytes.
fn fill(disk: &Path, room: u64) {
    let mut filler = fs::File::create(disk.join(FILLER)).unwrap();
    let mut length = 0u64;
    while let Ok(written) = filler.write(&[1; 4096]) {
        length += written as u64;
    }
    filler.set_len(length.saturating_sub(room)).unwrap();
}

fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file());
    files
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect()
}

/// Whether an error, or what caused it, says that the disk is full, and names the folder.
fn says_full(error: &Error, folder: &Path) -> bool {
    let said = error.to_string();
    said.contains("No space left") && said.contains(&folder.display().to_string())
}

/// Whatever is there is whole: files of tensors load, lines end.
fn assert_whole(name: &str, folder: &Path) {
    for (path, bytes) in contents(folder) {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            !file.starts_with(".headstart-") || file.contains("lock") || file.contains("run"),
            "{name} leaves {file}"
        );
        if file.ends_with(".safetensors") {
            safetensors::SafeTensors::deserialize(&bytes)
                .unwrap_or_else(|e| panic!("{name}, {file}: {e}"));
        } else if file.ends_with(".csv") || file.ends_with(".jsonl") {
            assert!(
                bytes.is_empty() || bytes.ends_with(b"\n"),
                "{name}: {file} ends within a line"
            );
        }
    }
}

#[test]
#[ignore = "every_writer_says_that_the_disk_is_full_and_leaves_nothing_half_written runs it on a small disk"]
fn child() {
    let Some(disk) = std::env::var_os(DISK).map(PathBuf::from) else {
        return;
    };
    let (_pictures, dataset) = common::colours(12);
    let mut refused = BTreeMap::new();
    let finished = tempfile::tempdir().unwrap();
    run(finished.path()).unwrap();
    for (name, write) in writers(&dataset, finished.path()) {
        for room in [0, 4096, 8192, 16_384] {
            let folder = disk.join(format!("{name} {room}"));
            fs::create_dir(&folder).unwrap();
            fill(&disk, room);
            match write(&folder) {
                Ok(()) => {}
                Err(error) => {
                    assert!(
                        says_full(&error, &folder),
                        "{name}, room for {room}: {error}"
                    );
                    *refused.entry(name).or_insert(0) += 1;
                }
            }
            assert_whole(name, &folder);
            // What is there already stays when there is no room for what should replace it.
            fs::remove_file(disk.join(FILLER)).unwrap();
            fs::remove_dir_all(&folder).unwrap();
            fs::create_dir(&folder).unwrap();
            write(&folder).unwrap_or_else(|error| panic!("{name} with room: {error}"));
            assert_whole(name, &folder);
            if name == "model" || name == "weights" || name == "history" {
                let before = contents(&folder);
                fill(&disk, room);
                if write(&folder).is_err() {
                    assert!(contents(&folder) == before, "{name} spoils the old file");
                }
                fs::remove_file(disk.join(FILLER)).unwrap();
            }
            fs::remove_dir_all(&folder).unwrap();
        }
        assert!(
            refused.contains_key(name),
            "{name} never notices a full disk"
        );
    }
    println!("refused for want of room: {refused:?}");
}
