//! Class folders, labels, and what goes wrong with them.

use std::path::PathBuf;

use headstart::data::Policy;
use headstart::{DirectoryDataset, Error};

use crate::files::{message, tree};

fn names(dataset: &DirectoryDataset) -> Vec<&str> {
    dataset
        .items()
        .iter()
        .map(|item| {
            let path = item.path.strip_prefix(dataset.root()).unwrap();
            path.to_str().unwrap()
        })
        .collect()
}

#[test]
fn classes_are_sorted_by_code_point() {
    // As Python's sorted(): capitals first, "10" before "2", accents last.
    let root = tree(["a/1.png", "C/1.png", "10/1.png", "2/1.png", "é/1.png"]);
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    assert_eq!(dataset.class_names(), ["10", "2", "C", "a", "é"]);
    let labels: Vec<_> = dataset.items().iter().map(|item| item.label).collect();
    assert_eq!(labels, [0, 1, 2, 3, 4]);
    assert_eq!(dataset.counts(), [1; 5]);
}

#[test]
fn pictures_are_known_by_their_extension() {
    let root = tree([
        "a/1.jpg",
        "a/2.JPEG",
        "a/3.Png",
        "a/4.webp",
        "a/5.BMP",
        "a/6.gif",
        "a/7.tif",
        "a/8.TIFF",
        "a/notes.txt",
        "a/jpg",
        "a/.hidden.jpg",
        "a/.folder/1.jpg",
        "a/x.jpg.txt",
        "b/1.jpg",
        ".git/1.jpg",
        "outside.jpg",
    ]);
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    assert_eq!(dataset.class_names(), ["a", "b"]);
    assert_eq!(dataset.counts(), [8, 1]);
    assert_eq!((dataset.len(), dataset.is_empty()), (9, false));
    assert!(dataset.problems().is_empty());
}

#[test]
fn the_order_is_keras_s() {
    // The order of keras.src.legacy.preprocessing.image.DirectoryIterator(…).filenames, Keras 3.
    let root = tree([
        "a/z.jpg",
        "a/10.jpg",
        "a/2.jpg",
        "a/m/1.jpg",
        "a/m/sub/1.jpg",
        "a/b/9.jpg",
        "b/1.jpg",
    ]);
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    let expected = [
        "a/10.jpg",
        "a/2.jpg",
        "a/z.jpg",
        "a/b/9.jpg",
        "a/m/1.jpg",
        "a/m/sub/1.jpg",
        "b/1.jpg",
    ];
    assert_eq!(names(&dataset), expected);
    let ids: Vec<u64> = dataset.items().iter().map(|item| item.id).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 5, 6]);
}

#[test]
fn a_hidden_folder_above_does_not_matter() {
    let root = tree([".data/a/1.jpg", ".data/b/1.jpg"]);
    let dataset = DirectoryDataset::open(root.path().join(".data")).unwrap();
    assert_eq!(dataset.len(), 2);
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_loops_survived() {
    use std::os::unix::fs::symlink;
    let root = tree(["a/1.jpg", "a/deep/2.jpg"]);
    let elsewhere = tree(["pictures/1.jpg", "pictures/2.jpg"]);
    let at = |name: &str| root.path().join(name);
    symlink(elsewhere.path().join("pictures"), at("b")).unwrap();
    symlink(elsewhere.path().join("pictures/1.jpg"), at("a/linked.jpg")).unwrap();
    symlink(at("a"), at("a/deep/up")).unwrap();
    symlink(elsewhere.path().join("gone.jpg"), at("a/gone.jpg")).unwrap();
    symlink(elsewhere.path().join("gone.txt"), at("a/gone.txt")).unwrap();

    let dataset = DirectoryDataset::open(root.path()).unwrap();
    let expected = [
        "a/1.jpg",
        "a/linked.jpg",
        "a/deep/2.jpg",
        "b/1.jpg",
        "b/2.jpg",
    ];
    assert_eq!(names(&dataset), expected);

    let problems: Vec<PathBuf> = dataset.problems().into_iter().map(|p| p.path).collect();
    assert_eq!(problems, [at("a/deep/up"), at("a/gone.jpg")]);
    let summary = dataset.problem_summary().unwrap();
    let start = format!(
        "2 of 7 pictures skipped: a/deep/up (a link back to {}), a/gone.jpg (",
        at("a").display()
    );
    assert!(summary.starts_with(&start), "{summary}");

    // What the default skips, `Fail` refuses.
    match dataset.policy(Policy::Fail) {
        Err(Error::Picture { path, .. }) => assert_eq!(path, at("a/deep/up")),
        other => panic!("{other:?}"),
    }
}

#[cfg(unix)]
#[test]
fn a_class_that_links_to_the_dataset_is_no_class() {
    let root = tree(["a/1.jpg", "b/1.jpg"]);
    std::os::unix::fs::symlink(root.path(), root.path().join("c")).unwrap();
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    assert_eq!(dataset.class_names(), ["a", "b"]);
    assert_eq!(dataset.problems().len(), 1);
}

#[test]
fn what_is_missing_is_said() {
    let root = tree([
        "flat/1.jpg",
        "flat/2.jpg",
        "none/",
        "one/a/1.jpg",
        "empty/a/1.jpg",
        "empty/b/",
    ]);
    let open = |name: &str| message(DirectoryDataset::open(root.path().join(name)));
    assert!(matches!(
        DirectoryDataset::open(root.path().join("absent")),
        Err(Error::Io { path, .. }) if path == root.path().join("absent")
    ));
    assert!(open("flat").ends_with(
        "flat: 2 pictures but no class folders: put the pictures in one folder per class"
    ));
    assert!(
        open("none").ends_with("none: no class folders: put the pictures in one folder per class")
    );
    assert!(open("one").ends_with("one: only one class folder, `a`: two or more are needed"));
    assert!(open("empty").ends_with("empty: class folder `b` has no pictures"));
    assert!(open("flat/1.jpg").ends_with("1.jpg: not a folder"));
}

#[test]
fn classes_can_be_given() {
    let root = tree([
        "cat/1.jpg",
        "dog/1.jpg",
        "dog/2.jpg",
        "other/1.jpg",
        "bird/",
    ]);
    let open = |classes: &[&str]| DirectoryDataset::open_with_classes(root.path(), classes);

    let dataset = open(&["dog", "cat", "bird"]).unwrap();
    assert_eq!(dataset.class_names(), ["dog", "cat", "bird"]);
    assert_eq!(dataset.counts(), [2, 1, 0]);
    assert_eq!(names(&dataset), ["dog/1.jpg", "dog/2.jpg", "cat/1.jpg"]);

    assert!(message(open(&["dog", "cow"])).ends_with("there is no folder for class `cow`"));
    assert!(matches!(
        open(&["dog"]),
        Err(Error::InvalidOption {
            option: "classes",
            ..
        })
    ));
    assert!(matches!(
        open(&["dog", "dog"]),
        Err(Error::InvalidOption {
            option: "classes",
            ..
        })
    ));

    // The classes of one dataset label another.
    let again = DirectoryDataset::open_with_classes(root.path(), dataset.class_names()).unwrap();
    assert_eq!(again.items(), dataset.items());
}
