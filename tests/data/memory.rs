//! The memory that a dataset of many pictures takes.

use std::process::Command;

use headstart::data::Loader;
use headstart::{Augmenter, DirectoryDataset};

use crate::many::{self, PICTURES, megabytes};

/// What is measured: this test binary, asked for this one test, since a peak is that of a process.
#[test]
#[ignore = "is run by the other"]
fn child() {
    let folder = tempfile::tempdir().unwrap();
    let archive = many::archive(folder.path());

    let before = megabytes("VmRSS:");
    let dataset = DirectoryDataset::open_tar(&[archive]).unwrap();
    let opened = megabytes("VmHWM:") - before;
    let loader = Loader::new(&dataset, 64, 64).batch_size(32).shuffle(1);
    let loader = loader.augment(Augmenter::notebook(), 1);
    for epoch in 0..2 {
        let batches = loader.epoch(epoch).map(|batch| batch.unwrap().ids.len());
        assert_eq!(batches.sum::<usize>(), PICTURES);
    }
    let peak = megabytes("VmHWM:") - before;
    println!("{opened:.0} MB for the index, {peak:.0} MB at most");
    assert!(peak < 600.0, "{peak} MB");
}

#[test]
#[ignore = "writes an archive of 300 MB and reads it twice"]
fn a_hundred_thousand_pictures_take_less_than_600_megabytes() {
    let binary = std::env::current_exe().unwrap();
    let child = Command::new(binary)
        .args(["memory::child", "--exact", "--ignored", "--nocapture"])
        .status();
    assert!(child.unwrap().success());
}
