//! Predicting on eight threads while another classifier trains and writes checkpoints, for as long as is asked:
//! `HEADSTART_SOAK_SECONDS=1800 cargo test --release --test train soak:: -- --ignored --nocapture`; two minutes by
//! default.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use candle_core::Device;
use headstart::model::{Pooling, Vgg};
use headstart::{AdamW, Block, Checkpoints, Classifier, ConvBase, Head, Trainer, Weights};

use crate::common;
use crate::many::megabytes;

const THREADS: usize = 8;

fn model() -> Classifier {
    let vgg = Vgg::Vgg11.width(1.0 / 16.0).unwrap();
    let base = ConvBase::new(vgg, Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    let base = base.frozen().unfreeze(Block::Conv5).unwrap();
    let head = Head::sigmoid().hidden(8).pooling(Pooling::GlobalAverage);
    Classifier::new(base, head, &["blue", "red"]).unwrap()
}

#[test]
#[ignore = "takes minutes"]
fn predictions_stay_equal_and_memory_flat_while_another_classifier_trains() {
    let seconds = std::env::var("HEADSTART_SOAK_SECONDS");
    let time = Duration::from_secs(seconds.map_or(120, |text| text.parse().unwrap()));
    headstart::progress::set_verbosity(headstart::progress::Verbosity::Warnings);
    let (_folder, dataset) = common::colours(8);
    let model = model();
    let picture = dataset.items()[3].decode().unwrap();
    let picture = image::DynamicImage::from(picture);
    let expected = model.predict(&picture).unwrap();
    let (done, predictions) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut runs, mut first, mut most) = (0, 0.0, 0.0f64);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    assert_eq!(model.predict(&picture).unwrap(), expected);
                    predictions.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while begun.elapsed() < time {
            let kept = tempfile::tempdir().unwrap();
            let trainer = Trainer::new(AdamW::new(1e-3)).epochs(3).batch_size(4);
            let trainer = trainer.checkpoint(Checkpoints::new(kept.path()));
            trainer.fit(&mut self::model(), &dataset, &dataset).unwrap();
            runs += 1;
            // What is taken once, such as threads and their buffers, is taken in the first tenth.
            let taken = megabytes("VmRSS:");
            if begun.elapsed() < time / 10 {
                first = taken.max(first);
            }
            most = most.max(taken);
        }
        done.store(true, Ordering::Relaxed);
    });
    let predicted = predictions.into_inner();
    println!(
        "{predicted} predictions, {runs} runs in {:?}: {first:.0} MB, then at most {most:.0} MB",
        begun.elapsed()
    );
    assert!(
        predicted > 0 && most <= first * 1.05,
        "{first} MB became {most} MB"
    );
}
