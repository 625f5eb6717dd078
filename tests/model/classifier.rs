//! A classifier from pictures to verdicts, and to its file and back.

use crate::common;

use candle_core::{DType, Device, Tensor};
use headstart::model::Backbone;
use headstart::model::Pooling;
use headstart::{Block, Classifier, ConvBase, Head, Preprocess, Resize, Weights};
use image::DynamicImage;
use safetensors::SafeTensors;

fn base() -> ConvBase {
    ConvBase::vgg11(Weights::Random { seed: 3 }, &Device::Cpu)
        .unwrap()
        .frozen()
}

fn model() -> Classifier {
    let base = base()
        .unfreeze(Block::Conv5)
        .unwrap()
        .with_preprocess(Preprocess::Caffe);
    let head = Head::softmax(3)
        .hidden(7)
        .dropout(0.25)
        .pooling(Pooling::GlobalAverage)
        .seed(5);
    let names = ["ant", "bee", "cat"];
    Classifier::new(base, head, &names)
        .unwrap()
        .resize(Resize::Nearest)
        .input_size(40, 33)
        .unwrap()
}

#[test]
fn a_saved_classifier_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let model = model();
    model.save(&file).unwrap();
    let loaded = Classifier::load(&file, &Device::Cpu).unwrap();

    assert_eq!(loaded.class_names(), model.class_names());
    assert_eq!(loaded.size(), (40, 33));
    assert_eq!(loaded.resize_filter(), Resize::Nearest);
    assert_eq!(loaded.preprocess(), Preprocess::Caffe);
    assert_eq!(loaded.head().config(), model.head().config());
    for block in Block::ALL {
        assert_eq!(
            loaded.base().is_trainable(block),
            block == Block::Conv5,
            "{block:?}"
        );
    }
    let names = |model: &Classifier| {
        model
            .variables()
            .into_iter()
            .map(|(name, _)| name)
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&loaded), names(&model));
    let picture = DynamicImage::new_rgb8(90, 70);
    assert_eq!(
        loaded.predict(&picture).unwrap(),
        model.predict(&picture).unwrap()
    );

    // Equal classifiers make equal files.
    let again = folder.path().join("again.safetensors");
    loaded.save(&again).unwrap();
    assert_eq!(
        std::fs::read(&file).unwrap(),
        std::fs::read(&again).unwrap()
    );
    // A saved classifier is a weight file for its base.
    let reused = ConvBase::vgg11(Weights::file(&file), &Device::Cpu).unwrap();
    assert_eq!(
        headstart::model::Backbone::preprocess(&reused),
        Preprocess::Caffe
    );
}

#[test]
fn files_that_are_not_classifiers_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    model().save(&file).unwrap();
    // Without a checksum, which would speak up first.
    let whole = common::files::unsealed(&file, |_| ());
    let header_end = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let error = |bytes: &[u8]| {
        let path = folder.path().join("other.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let error = Classifier::load(&path, &Device::Cpu)
            .unwrap_err()
            .to_string();
        assert!(error.contains("other.safetensors"), "{error}");
        error
    };
    let replaced = |from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let header = String::from_utf8(whole[8..header_end].to_vec()).unwrap();
        assert!(header.contains(from), "{header}");
        let mut bytes = whole.clone();
        bytes[8..header_end].copy_from_slice(header.replace(from, to).as_bytes());
        bytes
    };

    assert!(error(b"").contains("not a safetensors file"));
    assert!(error(b"GIF89a, surely not a model").contains("not a safetensors file"));
    assert!(error(&whole[..whole.len() / 2]).contains("safetensors"));
    assert!(error(&replaced("\\\"format\\\":2", "\\\"format\\\":9")).contains("newer"));
    assert!(error(&replaced("\\\"classes\\\"", "\\\"klasses\\\"")).contains("damaged description"));
    assert!(
        error(&replaced("head.output.bias", "head.output.bigs"))
            .contains("`head.output.bias` is missing")
    );

    let plain = folder.path().join("plain.safetensors");
    let tensors = std::collections::HashMap::from([(
        "x".to_owned(),
        Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap(),
    )]);
    candle_core::safetensors::save(&tensors, &plain).unwrap();
    let error = Classifier::load(&plain, &Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(error.contains("not a classifier"), "{error}");
    assert!(SafeTensors::deserialize(&std::fs::read(&plain).unwrap()).is_ok());

    let error = Classifier::load("no/such.safetensors", &Device::Cpu)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no/such.safetensors"), "{error}");
    assert!(model().save("no/such/folder/model.safetensors").is_err());
}

#[test]
fn a_path_its_bytes_and_its_pixels_get_one_verdict() {
    let (folder, dataset) = crate::common::colours(1);
    let model = model();
    let path = &dataset.items()[0].path;
    let bytes = std::fs::read(path).unwrap();
    let pixels = image::open(path).unwrap();
    let verdict = model.predict(path).unwrap();
    assert_eq!(model.predict(&bytes).unwrap(), verdict);
    assert_eq!(model.predict(&pixels).unwrap(), verdict);
    assert_eq!(model.predict(path.to_str().unwrap()).unwrap(), verdict);
    let together = model
        .predict_batch([path, &dataset.items()[1].path])
        .unwrap();
    assert_eq!(together.len(), 2);
    assert_eq!(together[0].class(), verdict.class());

    let total: f32 = verdict
        .ranked
        .iter()
        .map(|(_, probability)| probability)
        .sum();
    assert!((total - 1.0).abs() < 1e-6);
    assert!(verdict.ranked.is_sorted_by(|a, b| a.1 >= b.1));
    assert_eq!(verdict.probability("dog"), None);

    let missing = folder.path().join("missing.png");
    assert!(
        model
            .predict(&missing)
            .unwrap_err()
            .to_string()
            .contains("missing.png")
    );
    assert!(
        model
            .predict(&b"no picture"[..])
            .unwrap_err()
            .to_string()
            .contains("<bytes>")
    );
}

#[test]
fn the_summary_counts_as_keras_does() {
    // keras 3.15: VGG19 without top at 64×64, Flatten, Dense(132), Dense(1).
    let base = ConvBase::vgg19(Weights::Random { seed: 1 }, &Device::Cpu)
        .unwrap()
        .frozen();
    let model = Classifier::new(base, Head::sigmoid().hidden(132), &["no", "yes"]).unwrap();
    let summary = model.summary();
    assert_eq!(summary.total_parameters(), 20_294_985);
    assert_eq!(summary.trainable_parameters(), 270_601);
    assert_eq!(model.trainable_parameters(), 270_601);
    let table = summary.to_string();
    for part in [
        "block5_conv4 (Conv2D)",
        "(None, 512, 4, 4)",
        "2,359,808",
        "Total params: 20,294,985 (77.42 MB)",
    ] {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
    let mut model = model;
    model.base_mut().set_block(Block::Conv5, true).unwrap();
    assert_eq!(model.summary().trainable_parameters(), 9_709_833);
    assert_eq!(model.trainable_parameters(), 9_709_833);
}

#[test]
fn two_class_forms_agree_on_pictures() {
    let model = Classifier::new(base(), Head::sigmoid().hidden(9), &["no", "yes"]).unwrap();
    let picture = DynamicImage::new_rgb8(64, 64);
    let sigmoid = model.predict(&picture).unwrap().probability("yes").unwrap();
    let softmax = model.to_softmax().unwrap();
    assert_eq!(softmax.head().config().classes(), 2);
    let two = softmax
        .predict(&picture)
        .unwrap()
        .probability("yes")
        .unwrap();
    assert!((sigmoid - two).abs() < 1e-6, "{sigmoid} and {two}");
}

#[test]
fn evaluation_sees_every_picture_once() {
    let (_folder, dataset) = crate::common::colours(37);
    let model = Classifier::new(base(), Head::sigmoid(), &["blue", "red"]).unwrap();
    let score = model.evaluate(&dataset).unwrap();
    let rows: Vec<usize> = score.confusion.iter().map(|row| row.iter().sum()).collect();
    assert_eq!(rows, [37, 37]);
    let right = dataset.items().iter().filter(|item| {
        model.predict(&item.path).unwrap().class() == dataset.class_names()[item.label]
    });
    assert_eq!(score.accuracy, Some(right.count() as f64 / 74.0));
}

#[test]
fn misfits_are_named() {
    let error = |head: Head, names: &[&str]| {
        Classifier::new(base(), head, names)
            .unwrap_err()
            .to_string()
    };
    assert!(error(Head::sigmoid(), &["a", "b", "c"]).contains("3 names"));
    assert!(error(Head::softmax(3), &["a", "b"]).contains("2 names"));
    assert!(error(Head::softmax(2), &["a", "a"]).contains("`a` twice"));
    assert!(error(Head::sigmoid().hidden(0), &["a", "b"]).contains("hidden"));
    assert!(
        model()
            .input_size(31, 64)
            .unwrap_err()
            .to_string()
            .contains("32×32")
    );
    let (_folder, dataset) = crate::common::colours(1);
    let error = model().evaluate(&dataset).unwrap_err().to_string();
    assert!(
        error.contains("blue, red") && error.contains("ant, bee, cat"),
        "{error}"
    );
}

const SAVED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/saved");

/// A classifier's file that version 0.1.0 wrote before bases were tables (format 1). That of the compact base is kept
/// without what the crate already carries: its base's tensors, in f32.
fn written_by_an_earlier_version(name: &str) -> Vec<u8> {
    if name != "compact" {
        return std::fs::read(format!("{SAVED}/{name}.safetensors")).unwrap();
    }
    let compact = std::fs::read(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/src/model/weights/compact.safetensors"
    ));
    let compact = compact.unwrap();
    let compact = SafeTensors::deserialize(&compact).unwrap();
    let mut names = compact.names();
    names.sort_unstable();
    let mut file = std::fs::read(format!("{SAVED}/compact.start")).unwrap();
    for name in names {
        let halves = compact.tensor(name).unwrap().data().as_chunks::<2>().0;
        let singles = halves
            .iter()
            .map(|half| half::f16::from_le_bytes(*half).to_f32());
        file.extend(singles.flat_map(f32::to_le_bytes));
    }
    file.extend(std::fs::read(format!("{SAVED}/compact.end")).unwrap());
    assert_eq!(
        crc32fast::hash(&file),
        1_220_806_309,
        "to the byte what was written"
    );
    file
}

#[test]
fn files_of_earlier_versions_load_and_say_what_they_said() {
    let expected = std::fs::read_to_string(format!("{SAVED}/expected.json")).unwrap();
    let expected: serde_json::Value = serde_json::from_str(&expected).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let picture = image::RgbImage::from_fn(50, 40, |x, y| {
        image::Rgb([(x * 5) as u8, (y * 6) as u8, ((x * y) % 251) as u8])
    });
    for (name, expected) in expected.as_object().unwrap() {
        let path = folder.path().join(format!("{name}.safetensors"));
        std::fs::write(&path, written_by_an_earlier_version(name)).unwrap();
        let model = Classifier::load(&path, &Device::Cpu).unwrap();
        let blocks = model.base().blocks().into_iter();
        let trainable: Vec<_> = blocks
            .filter(|block| block.trainable)
            .map(|block| block.name)
            .collect();
        assert_eq!(
            serde_json::json!(trainable),
            expected["trainable"],
            "{name}"
        );
        assert_eq!(
            serde_json::json!(model.class_names()),
            expected["classes"],
            "{name}"
        );
        assert_eq!(serde_json::json!(model.size()), expected["size"], "{name}");
        assert_eq!(
            serde_json::json!(model.resize_filter()),
            expected["resize"],
            "{name}"
        );
        assert_eq!(
            serde_json::json!(model.preprocess()),
            expected["preprocess"],
            "{name}"
        );
        let prediction = model
            .predict(DynamicImage::ImageRgb8(picture.clone()))
            .unwrap();
        let probabilities = expected["probabilities"].as_array().unwrap();
        for (class, probability) in model.class_names().iter().zip(probabilities) {
            let found = f64::from(prediction.probability(class).unwrap());
            let expected = probability.as_f64().unwrap();
            assert!(
                (found - expected).abs() < 1e-5,
                "{name}, {class}: {found}, {expected}"
            );
        }
    }
}

#[test]
fn a_classifier_that_could_not_be_loaded_is_not_saved() {
    use headstart::model::Arch;
    use headstart::model::arch::BlockTable;
    use headstart::model::arch::layer::{Conv, Layer};

    let folder = tempfile::tempdir().unwrap();
    // A name of its own, and one that stands for another table.
    for name in ["mine", "resnet18"] {
        let conv = Layer::Conv(Conv::new("conv", 3, 4, 3));
        let arch = Arch::new(name, vec![BlockTable::new("stem", vec![conv])]);
        let base = ConvBase::new(arch, Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
        let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
        let model = Classifier::new(base, head, &["a", "b"]).unwrap();
        let path = folder.path().join(name);
        let error = model.save(&path).unwrap_err().to_string();
        assert!(error.contains(name) && !path.exists(), "{error}");
    }
}
