//! The memory that many predictions take. A peak is that of a process: what is measured is run alone, in a process of
//! its own.

use std::process::Command;

use candle_core::Device;
use headstart::model::{Pooling, Vgg};
use headstart::{Classifier, ConvBase, Head, Weights};

use crate::common;
use crate::many::megabytes;

/// As tensors, pictures of 32 × 32 take 49 MB.
const PICTURES: usize = 4_000;

#[test]
#[ignore = "is run by the other"]
fn child() {
    let vgg = Vgg::Vgg11.width(1.0 / 64.0).unwrap();
    let base = ConvBase::new(vgg, Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
    let model = Classifier::new(base.frozen(), head, &["blue", "red"]).unwrap();
    let model = model.input_size(32, 32).unwrap();
    let (_folder, dataset) = common::colours(2);
    let paths = dataset.items().iter().map(|item| &item.path).cycle();
    model.predict_batch(paths.clone().take(64)).unwrap();
    let before = megabytes("VmRSS:");
    let predictions = model.predict_batch(paths.take(PICTURES)).unwrap();
    let peak = megabytes("VmHWM:") - before;
    println!("{peak:.0} MB more than 64 predictions take");
    assert_eq!(predictions.len(), PICTURES);
    assert!(peak < 20.0, "{peak} MB");
}

#[test]
fn four_thousand_predictions_take_little_more_memory_than_a_few() {
    let binary = std::env::current_exe().unwrap();
    let child = Command::new(binary)
        .args(["memory::child", "--exact", "--ignored", "--nocapture"])
        .status();
    assert!(child.unwrap().success());
}
