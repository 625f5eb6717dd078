//! Pictures whose labels are wrong, and those that are like no other.

use headstart::study::{CrossValidation, Features, LinearHead, Suspects, outliers};

use super::estimate::clouds;

#[test]
fn wrong_labels_come_first_with_the_class_they_look_like() {
    let clean = clouds(200, 4, 1.5);
    let mut labels = clean.labels().to_vec();
    let flipped = [3, 50, 77, 121, 160];
    for picture in flipped {
        labels[picture] = (labels[picture] + 1) % 4;
    }
    let features = clean.clone().with_labels(&labels).unwrap();
    let validation = CrossValidation::new(5, 1);
    let suspects = Suspects::find(&features, &LinearHead::new(), &validation).unwrap();
    assert_eq!(suspects.all().len(), 200);
    let mut first: Vec<_> = suspects.all()[..5]
        .iter()
        .map(|suspect| suspect.path.clone())
        .collect();
    first.sort();
    let mut wanted: Vec<_> = flipped
        .iter()
        .map(|i| features.paths()[*i].clone())
        .collect();
    wanted.sort();
    assert_eq!(first, wanted);
    for suspect in &suspects.all()[..5] {
        let picture = features
            .paths()
            .iter()
            .position(|path| *path == suspect.path)
            .unwrap();
        assert_eq!(
            suspect.looks_like,
            clean.class_names()[clean.labels()[picture]]
        );
        assert!(suspect.is_likely && suspect.confidence < suspect.probability);
    }
    assert!(suspects.likely().count() < 15);

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("suspects.csv");
    suspects.write_csv(&path).unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("path,class,looks_like,confidence,probability,is_likely")
    );
    assert_eq!(lines.count(), 200);
}

#[test]
fn a_picture_far_from_its_class_is_an_outlier() {
    let features = clouds(60, 2, 1.0);
    let mut rows: Vec<f32> = (0..60).flat_map(|i| features.row(i).to_vec()).collect();
    for x in &mut rows[8 * 31..8 * 32] {
        *x = -3.0 - *x;
    }
    let changed = Features::from_rows(rows, 8, features.labels(), features.class_names()).unwrap();
    let found = outliers(&changed);
    assert_eq!(found[0].path, changed.paths()[31]);
    assert!(found[0].distance > found[0].typical);
    assert!(found.len() < 4, "{found:?}");
    // Too few to say what is usual.
    assert!(outliers(&features.select(&[0, 1, 2, 3, 4, 5])).is_empty());
}
