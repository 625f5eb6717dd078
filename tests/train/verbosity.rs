//! The one switch for what goes to the standard error, seen by a process of its own.

use std::path::Path;
use std::process::{Command, Stdio};

use candle_core::Device;
use headstart::model::Vgg;
use headstart::progress::{Verbosity, set_verbosity};
use headstart::{Checkpoints, Classifier, ConvBase, Dataset, Head, Sgd, Trainer, Weights};

use crate::common;

const PICTURES: &str = "HEADSTART_TEST_PICTURES";
const FOLDER: &str = "HEADSTART_TEST_FOLDER";
const VERBOSITY: &str = "HEADSTART_TEST_VERBOSITY";

/// A run that skips a damaged checkpoint.
#[test]
#[ignore = "is run by the other"]
fn child() {
    let (Ok(pictures), Ok(folder)) = (std::env::var(PICTURES), std::env::var(FOLDER)) else {
        return;
    };
    match std::env::var(VERBOSITY).as_deref() {
        Ok("silent") => set_verbosity(Verbosity::Silent),
        Ok("warnings") => set_verbosity(Verbosity::Warnings),
        _ => {}
    }
    let dataset = Dataset::open(pictures).unwrap();
    let vgg = Vgg::Vgg11.width(1.0 / 16.0).unwrap();
    let base = ConvBase::new(vgg, Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    let model = Classifier::new(base.frozen(), Head::sigmoid(), &["blue", "red"]).unwrap();
    let mut model = model.input_size(32, 32).unwrap();
    Trainer::new(Sgd::new(0.01))
        .checkpoint(Checkpoints::new(&folder))
        .resume(&folder)
        .fit(&mut model, &dataset, &dataset)
        .unwrap();
}

fn standard_error(pictures: &Path, verbosity: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("checkpoint-00001-000000.safetensors");
    std::fs::write(damaged, b"half of a checkpoint").unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["verbosity::child", "--exact", "--ignored", "--nocapture"])
        .env(PICTURES, pictures)
        .env(FOLDER, folder.path())
        .env(VERBOSITY, verbosity)
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn warnings_reach_the_user_unless_switched_off() {
    let (pictures, _) = common::colours(2);
    for verbosity in ["warnings", "by default"] {
        let told = standard_error(pictures.path(), verbosity);
        assert!(
            told.contains("warning: checkpoint") && told.contains("is skipped"),
            "{verbosity}: {told}"
        );
    }
    assert_eq!(standard_error(pictures.path(), "silent"), "");
}
