//! Splits and shuffles of a dataset.

use std::collections::HashSet;

use headstart::data::Loader;
use headstart::{DirectoryDataset, Error};

use crate::files::tree;

fn numbered(class: &str, count: usize) -> impl Iterator<Item = String> {
    (0..count).map(move |number| format!("{class}/{number}.jpg"))
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
            Err(Error::InvalidOption {
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
        format!(
            "{}: 8 of 8 files skipped: a/0.jpg (the file is empty), a/1.jpg (the file is empty), \
             a/2.jpg (the file is empty), …",
            dataset.root().display()
        )
    );
}
