//! All of it in one call.

use headstart::study::{Oddities, Study};
use headstart::{Classifier, ConvBase, Dataset, Device};

use crate::common::files::message;
use crate::common::{colours, frozen_base};

const PICTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/santa/pictures");

#[test]
fn a_study_tells_of_everything_and_changes_no_picture() {
    let train = Dataset::open(format!("{PICTURES}/train")).unwrap();
    let test = Dataset::open_with_classes(format!("{PICTURES}/test"), train.class_names()).unwrap();
    let bytes = || -> Vec<Vec<u8>> {
        train
            .items()
            .iter()
            .map(|item| std::fs::read(&item.path).unwrap())
            .collect()
    };
    let before = bytes();
    let base = ConvBase::compact(&Device::Cpu).unwrap();
    let study = Study::options()
        .part("test", &test)
        .run(&base, &train)
        .unwrap();
    assert!(before == bytes());

    let page = study.to_string();
    for told in [
        "What is there",
        "train: ",
        "test: ",
        "accuracy",
        "likely wrong",
        "What to try next",
    ] {
        assert!(page.contains(told), "{told}:\n{page}");
    }
    let estimate = study.estimate.as_ref().unwrap();
    assert_eq!(estimate.pictures.len(), train.len());
    assert_eq!(study.curve.len(), 3);
    assert!(study.curve[0].pictures < study.curve[2].pictures);
    let evaluation = study.model.evaluate(&test).unwrap();
    assert_eq!(
        evaluation.accuracy,
        Some(study.parts[1].accuracy.unwrap().mean)
    );

    let folder = tempfile::tempdir().unwrap();
    study.write_json(folder.path().join("study.json")).unwrap();
    let text = std::fs::read_to_string(folder.path().join("study.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["suspects"].as_array().unwrap().len(), train.len());
    let path = folder.path().join("model.safetensors");
    study.model.save(&path).unwrap();
    let model = Classifier::load(&path, &Device::Cpu).unwrap();
    let prediction = model.predict(&test.items()[0].path).unwrap();
    assert!(prediction.familiarity.is_some());
}

/// JSON is text, and a name on Linux need not be.
#[test]
#[cfg(target_os = "linux")]
fn a_name_that_is_no_text_is_written_with_a_mark() {
    use std::os::unix::ffi::OsStrExt;
    let (folder, _) = colours(6);
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9.png");
    let odd = folder.path().join("red").join(name);
    std::fs::copy(folder.path().join("blue/0.png"), &odd).unwrap();
    let dataset = Dataset::open(folder.path()).unwrap();
    let study = Study::options()
        .input_size(32, 32)
        .run(&frozen_base(), &dataset)
        .unwrap();
    let path = folder.path().join("study.json");
    study.write_json(&path).unwrap();
    let read = Oddities::load(&path).unwrap();
    let paths = read
        .duplicates
        .iter()
        .flat_map(|pair| [&pair.first, &pair.second]);
    let paths: Vec<String> = paths
        .map(|place| place.path.display().to_string())
        .collect();
    assert!(
        paths.iter().any(|path| path.ends_with("caf\u{fffd}.png")),
        "{paths:?}"
    );
    assert_eq!(read.suspects.len(), study.suspects().likely().count());
}

#[test]
fn few_pictures_are_studied_as_far_as_they_go() {
    let (folder, dataset) = colours(1);
    let study = Study::options()
        .input_size(32, 32)
        .run(&frozen_base(), &dataset)
        .unwrap();
    assert!(study.estimate.is_none() && study.curve.is_empty());
    assert!(
        study.to_string().contains("a class has a single picture"),
        "{study}"
    );
    let (_two, dataset) = colours(2);
    let study = Study::options()
        .input_size(32, 32)
        .run(&frozen_base(), &dataset)
        .unwrap();
    assert_eq!(study.estimate.unwrap().folds.len(), 2);
    // A class without a picture is named.
    std::fs::remove_file(folder.path().join("red/0.png")).unwrap();
    let none = Dataset::open_with_classes(folder.path(), &["blue", "red"]).unwrap();
    let error = message(
        Study::options()
            .input_size(32, 32)
            .run(&frozen_base(), &none),
    );
    assert!(error.contains("`red`"), "{error}");
}
