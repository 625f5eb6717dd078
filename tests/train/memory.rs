//! The memory that training on many pictures takes.

use std::process::Command;

use candle_core::Device;
use headstart::model::Vgg;
use headstart::{AdamW, Augmenter, Classifier, ConvBase, Dataset, Head, Trainer, Weights};

use crate::many::{self, CLASSES, PICTURES, megabytes};

/// What is measured: this test binary, asked for this one test, since a peak is that of a process. Training and
/// validation pictures are the same: both sets are large.
#[test]
#[ignore = "is run by the other"]
fn child() {
    let folder = tempfile::tempdir().unwrap();
    let archive = many::archive(folder.path());
    let slim = Vgg::Vgg19.width(0.25).unwrap();
    let base = ConvBase::new(slim, Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
    let classes: Vec<String> = (0..CLASSES)
        .map(|class| format!("class{class:03}"))
        .collect();
    let head = Head::softmax(CLASSES).hidden(16);
    let mut model = Classifier::new(base.frozen(), head, &classes)
        .unwrap()
        .input_size(32, 32)
        .unwrap();

    let before = megabytes("VmRSS:");
    let dataset = Dataset::open_tar(&[archive]).unwrap();
    assert_eq!(dataset.len(), PICTURES);
    let opened = megabytes("VmHWM:") - before;
    let history = Trainer::new(AdamW::new(1e-3))
        .augment(Augmenter::notebook())
        .fit(&mut model, &dataset, &dataset)
        .unwrap();
    let peak = megabytes("VmHWM:") - before;
    let seconds = history.seconds_per_epoch();
    println!("{opened:.0} MB for the index, {peak:.0} MB at most; the epoch took {seconds:.0} s");
    assert!(peak < 600.0, "{peak} MB");
}

#[test]
#[ignore = "writes an archive of 300 MB and trains an epoch on it"]
fn training_on_a_hundred_thousand_pictures_takes_less_than_600_megabytes() {
    let binary = std::env::current_exe().unwrap();
    let child = Command::new(binary)
        .args(["memory::child", "--exact", "--ignored", "--nocapture"])
        .status();
    assert!(child.unwrap().success());
}
