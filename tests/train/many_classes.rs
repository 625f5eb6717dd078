//! Twenty thousand classes: nothing takes time or memory for each pair of them. What is measured is run alone, in a
//! process of its own.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use candle_core::Device;
use headstart::model::{Pooling, Vgg};
use headstart::{AdamW, Classifier, ConvBase, Dataset, Head, Trainer, Weights};
use image::{Rgb, RgbImage};

use crate::many::megabytes;

const CLASSES: usize = 20_000;

/// Of so many classes there are pictures to train and validate on: it is the classes that matter.
const USED: usize = 200;

/// Classes of a picture each, all the same file; and the same classes of which most have none.
fn write(folder: &Path) {
    let picture = folder.join("picture.png");
    let pixels = RgbImage::from_fn(8, 8, |x, y| Rgb([x, y, x * y].map(|level| 3 * level as u8)));
    pixels.save(&picture).unwrap();
    for class in 0..CLASSES {
        let of = |root: &str| folder.join(format!("{root}/class {class:05}"));
        fs::create_dir_all(of("few")).unwrap();
        fs::create_dir_all(of("pictures")).unwrap();
        // A file may have 65,000 names on common file systems.
        fs::hard_link(&picture, of("pictures").join("1.png")).unwrap();
        if class < USED {
            fs::hard_link(&picture, of("few").join("1.png")).unwrap();
        }
    }
}

/// Runs one thing, within so many seconds.
fn timed<T>(what: &str, seconds: f32, run: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let result = run();
    let taken = begun.elapsed().as_secs_f32();
    println!(
        "{what}: {taken:.1} s, {:.0} MB at most so far",
        megabytes("VmHWM:")
    );
    assert!(taken < seconds, "{what}: {taken} s");
    result
}

#[test]
#[ignore = "is run by the other"]
fn child() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    let root = folder.path().join("pictures");
    let dataset = timed("open", 30.0, || Dataset::open(&root).unwrap());
    assert_eq!(dataset.class_names().len(), CLASSES);
    let names = dataset.class_names();
    let few = timed("open with classes", 30.0, || {
        Dataset::open_with_classes(folder.path().join("few"), names).unwrap()
    });
    assert_eq!(few.len(), USED);
    let model = |names: &[String]| {
        let vgg = Vgg::Vgg11.width(1.0 / 64.0).unwrap();
        let base = ConvBase::new(vgg, Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
        let head = Head::softmax(CLASSES).pooling(Pooling::GlobalAverage);
        Classifier::new(base.frozen(), head, names).and_then(|model| model.input_size(32, 32))
    };
    let before = megabytes("VmRSS:");
    let mut own = timed("model", 10.0, || model(names).unwrap());
    let score = timed("evaluate", 120.0, || own.evaluate(&few).unwrap());
    // For each pair of classes a number: 3.2 GB.
    let peak = megabytes("VmHWM:") - before;
    assert!(peak < 300.0, "{peak} MB");
    assert!(score.confusion.is_empty() && score.per_class.len() == CLASSES);
    let printed = score.to_string();
    assert!(printed.len() < 8_000, "{} bytes", printed.len());
    assert!(printed.contains("and 19960 classes more"), "{printed}");
    let trainer = Trainer::new(AdamW::new(1e-3)).epochs(1);
    timed("an epoch", 240.0, || {
        trainer.fit(&mut own, &few, &few).unwrap()
    });
    let prediction = own.predict(&dataset.items()[0].path).unwrap().to_string();
    assert!(prediction.len() < 500, "{prediction}");
    // Other names: told in few words.
    let mut other = names.to_vec();
    other[12_345] = "another".into();
    let error = model(&other)
        .unwrap()
        .evaluate(&few)
        .unwrap_err()
        .to_string();
    assert!(error.contains("another") && error.len() < 2_000, "{error}");
    let peak = megabytes("VmHWM:") - before;
    assert!(peak < 500.0, "{peak} MB");
}

#[test]
fn twenty_thousand_classes_take_no_time_or_memory_for_each_pair() {
    let binary = std::env::current_exe().unwrap();
    let child = Command::new(binary)
        .args(["many_classes::child", "--exact", "--ignored", "--nocapture"])
        .status();
    assert!(child.unwrap().success());
}
