//! The memory that training on many pictures takes.

#![cfg(target_os = "linux")]

#[path = "common/many.rs"]
mod many;

use candle_core::Device;
use headstart::{
    AdamW, Augmenter, Classifier, ConvBase, DirectoryDataset, Head, Trainer, Vgg, Weights,
};
use many::{CLASSES, PICTURES, megabytes};

/// Training and validation pictures are the same: both sets are large.
#[test]
#[ignore = "writes an archive of 300 MB and trains an epoch on it"]
fn training_on_a_hundred_thousand_pictures_takes_less_than_600_megabytes() {
    let folder = tempfile::tempdir().unwrap();
    let archive = many::archive(folder.path());
    let slim = Vgg::Vgg19.width(0.25);
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
    let dataset = DirectoryDataset::open_tar(&[archive]).unwrap();
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
