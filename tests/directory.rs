//! Class folders, labels, splits and what goes wrong with them.

use std::{collections::HashSet, fs, path::PathBuf};

use headstart::{DirectoryDataset, Error, Loader, Policy};
use tempfile::TempDir;

/// A temporary folder with these (empty) files; a name ending in `/` makes a folder.
fn tree<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for name in names {
        let path = root.path().join(name.as_ref());
        if name.as_ref().ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }
    root
}

fn numbered(class: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{class}/{number}.jpg"))
}

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

fn message<T: std::fmt::Debug>(result: headstart::Result<T>) -> String {
    result.unwrap_err().to_string()
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
        Err(Error::Option {
            option: "classes",
            ..
        })
    ));
    assert!(matches!(
        open(&["dog", "dog"]),
        Err(Error::Option {
            option: "classes",
            ..
        })
    ));

    // The classes of one dataset label another.
    let again = DirectoryDataset::open_with_classes(root.path(), dataset.class_names()).unwrap();
    assert_eq!(again.items(), dataset.items());
}

#[test]
fn split_is_stratified_and_fixed_by_the_seed() {
    let root = tree(numbered("a", 40).chain(numbered("b", 10)));
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    let (rest, part) = dataset.split(0.2, 7).unwrap();
    assert_eq!((rest.counts(), part.counts()), (vec![32, 8], vec![8, 2]));

    // Together they are the dataset, each in its order, with ids kept.
    let mut all = [rest.items(), part.items()].concat();
    assert!(rest.items().is_sorted_by_key(|item| item.id));
    all.sort_by_key(|item| item.id);
    assert_eq!(all, dataset.items());

    let chosen = |seed, dataset: &DirectoryDataset| -> HashSet<u64> {
        let (_, part) = dataset.split(0.2, seed).unwrap();
        part.items().iter().map(|item| item.id).collect()
    };
    assert_eq!(chosen(7, &dataset), chosen(7, &dataset.clone().shuffle(3)));
    assert_ne!(chosen(7, &dataset), chosen(8, &dataset));
}

#[test]
fn split_leaves_no_side_without_a_class() {
    let root = tree(
        numbered("a", 2)
            .chain(numbered("b", 3))
            .chain(numbered("c", 1)),
    );
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    for (fraction, rest_counts) in [(0.01, [1, 2, 1]), (0.99, [1, 1, 1])] {
        let (rest, part) = dataset.split(fraction, 1).unwrap();
        assert_eq!(rest.counts(), rest_counts);
        assert_eq!(rest.len() + part.len(), dataset.len());
        assert_eq!(part.class_names(), dataset.class_names());
    }
    for fraction in [0.0, 1.0, -0.1, f64::NAN, f64::INFINITY] {
        let split = dataset.split(fraction, 1);
        assert!(matches!(
            split,
            Err(Error::Option {
                option: "fraction",
                ..
            })
        ));
    }
}

#[test]
fn shuffle_keeps_ids_with_pictures() {
    let root = tree(numbered("a", 30).chain(numbered("b", 30)));
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    let shuffled = dataset.clone().shuffle(1);
    assert_ne!(shuffled.items(), dataset.items());
    assert_eq!(shuffled.items(), dataset.clone().shuffle(1).items());
    assert_ne!(shuffled.items(), dataset.clone().shuffle(2).items());
    let mut sorted = shuffled.items().to_vec();
    sorted.sort_by_key(|item| item.id);
    assert_eq!(sorted, dataset.items());
}

#[test]
fn splits_share_what_is_known_of_bad_pictures() {
    // All files are empty: whoever reads them finds the problems.
    let root = tree(numbered("a", 4).chain(numbered("b", 4)));
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    let (train, validation) = dataset.split(0.25, 1).unwrap();
    assert_eq!(dataset.problem_summary(), None);

    assert_eq!(Loader::new(&validation, 8, 8).epoch(0).count(), 0);
    let expected: Vec<_> = validation
        .items()
        .iter()
        .map(|item| item.path.clone())
        .collect();
    let found: Vec<_> = train.problems().into_iter().map(|p| p.path).collect();
    assert_eq!(found, expected);

    assert_eq!(Loader::new(&train, 8, 8).epoch(0).count(), 0);
    assert_eq!(
        dataset.problem_summary().unwrap(),
        "8 of 8 pictures skipped: a/0.jpg (the file is empty), a/1.jpg (the file is empty), \
         a/2.jpg (the file is empty), …"
    );
}
