//! Class folders, labels, and what goes wrong with them.

use std::path::PathBuf;

use headstart::data::Policy;
use headstart::{DirectoryDataset, Error};

use crate::decode::fixture;
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
fn pictures_are_known_by_their_extension_or_their_content() {
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
        "a/@eaDir/1.jpg",
        "a/THUMBS.DB",
        ".git/1.jpg",
        "__MACOSX/a/1.jpg",
        "outside.jpg",
        "README.md",
    ]);
    let at = |name: &str| root.path().join(name);
    let jpeg = std::fs::read(fixture("rgb.jpg")).unwrap();
    for name in ["a/9.jfif", "a/10", "a/11.jpg?w=300", "b/2.jpg.1"] {
        std::fs::write(at(name), &jpeg).unwrap();
    }
    std::fs::write(at("b/3.heic"), b"\0\0\0\x18ftypheic\0\0\0\0mif1heic").unwrap();
    std::fs::write(at("b/4.avif"), b"\0\0\0\x18ftypavif\0\0\0\0avifmif1").unwrap();
    std::fs::write(at("b/5.svg"), "<svg xmlns='http://www.w3.org/2000/svg'/>").unwrap();
    std::fs::write(at("b/6.txt"), "notes").unwrap();

    let dataset = DirectoryDataset::open(root.path()).unwrap();
    assert_eq!(dataset.class_names(), ["a", "b"]);
    assert_eq!(dataset.counts(), [11, 2]);
    assert_eq!((dataset.len(), dataset.is_empty()), (13, false));
    let problems = dataset.problems().into_iter();
    let problems: Vec<_> = problems
        .map(|problem| (problem.path, problem.reason))
        .collect();
    let expected = [
        ("a/jpg", "the file is empty"),
        ("a/notes.txt", "the file is empty"),
        ("a/x.jpg.txt", "the file is empty"),
        ("b/3.heic", "a HEIC picture, which is not read"),
        ("b/4.avif", "an AVIF picture, which is not read"),
        ("b/5.svg", "an SVG drawing, which is not read"),
        ("b/6.txt", "text, which is not read"),
        ("outside.jpg", "a picture outside the class folders"),
    ];
    assert_eq!(
        problems,
        expected.map(|(name, reason)| (at(name), reason.to_owned()))
    );
    let left_out: Vec<_> = dataset.left_out().to_vec();
    let expected = [
        ".git",
        "__MACOSX",
        "a/.folder",
        "a/.hidden.jpg",
        "a/@eaDir",
        "a/THUMBS.DB",
    ];
    assert_eq!(left_out, expected.map(at));

    // The list is the user's.
    let all = DirectoryDataset::options()
        .leave_out(&["__*", "10"])
        .open(root.path())
        .unwrap();
    assert_eq!(all.class_names(), [".git", "a", "b"]);
    assert_eq!(all.counts(), [1, 13, 2]);
}

#[test]
fn parts_taken_for_classes_are_warned_of() {
    let root = tree([
        "named/train/a/1.jpg",
        "named/train/b/1.jpg",
        "named/test/a/1.jpg",
        "alike/1/a/1.jpg",
        "alike/1/b/1.jpg",
        "alike/2/a/1.jpg",
        "alike/2/b/1.jpg",
        "fine/a/x/1.jpg",
        "fine/b/x/1.jpg",
        "more/a/1.jpg",
        "more/b/1.jpg",
        "more/c/1.jpg",
    ]);
    let open = |name: &str| DirectoryDataset::open(root.path().join(name)).unwrap();
    for (name, parts) in [("named", "`test`, `train`"), ("alike", "`1`, `2`")] {
        let dataset = open(name);
        let [warning] = dataset.warnings() else {
            panic!("{:?}", dataset.warnings());
        };
        assert!(
            warning.contains(parts) && warning.contains("parts of a dataset"),
            "{warning}"
        );
    }
    assert!(open("fine").warnings().is_empty());
    let some = DirectoryDataset::open_with_classes(root.path().join("more"), &["a", "b"]).unwrap();
    assert!(some.warnings()[0].contains("`c`"), "{:?}", some.warnings());
}

#[test]
fn a_missing_class_names_the_folder_that_looks_like_it() {
    // In the decomposed form, as a Mac writes it.
    let root = tree(["cafe\u{301}/1.jpg", "Dog/1.jpg", "bird/1.jpg"]);
    let open = |class| {
        message(DirectoryDataset::open_with_classes(
            root.path(),
            &[class, "bird"],
        ))
    };
    let accent = open("caf\u{e9}");
    assert!(
        accent.contains("`cafe\\u{301}`") && accent.contains("`caf\\u{e9}`"),
        "{accent}"
    );
    assert!(open("dog").contains("`Dog` differs in the case"));
    assert!(open("cow").ends_with("there is no folder for class `cow`"));
}

#[cfg(unix)]
#[test]
fn what_is_neither_file_nor_folder_is_a_problem_and_not_waited_for() {
    let root = tree(["a/1.jpg", "b/1.jpg"]);
    let pipe = root.path().join("a/pipe.jpg");
    assert!(
        std::process::Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    assert_eq!(dataset.counts(), [1, 1]);
    assert_eq!(dataset.problems()[0].path, pipe);
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
    assert_eq!(
        problems,
        [at("a/deep/up"), at("a/gone.jpg"), at("a/gone.txt")]
    );
    let summary = dataset.problem_summary().unwrap();
    let start = format!(
        "{}: 3 of 8 files skipped: a/deep/up (a link back to {}), a/gone.jpg (",
        root.path().display(),
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
