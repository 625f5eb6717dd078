//! Tar archives → the pictures of one dataset, in the layout of class folders or of WebDataset.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use super::archive::{Contents, Picture};
use super::item::Source;
use super::scan::{Found, Scan, dataset_error, keras_order, require_two_classes};
use crate::error::{Error, Result};

/// An archive and what it holds.
type Shard = (Arc<Path>, Contents);

/// Looks into archives that together are one dataset.
pub(super) fn scan(archives: &[impl AsRef<Path>], wanted: Option<Vec<String>>) -> Result<Scan> {
    let mut shards: Vec<Shard> = Vec::with_capacity(archives.len());
    for archive in archives {
        let archive: Arc<Path> = Arc::from(archive.as_ref());
        let contents = Contents::read(&archive)?;
        shards.push((archive, contents));
    }
    let root = match shards.as_slice() {
        [] => return Err(Error::option("archives", "[]", "one archive or more")),
        [(only, _)] => only.to_path_buf(),
        [(first, _), ..] => first.parent().unwrap_or(first).to_owned(),
    };
    let mut problems = BTreeMap::new();
    for (archive, contents) in &mut shards {
        for (name, reason) in contents.problems.drain(..) {
            problems.insert(archive.join(name), reason.into());
        }
    }
    let is_webdataset = shards.iter().any(|(_, contents)| contents.is_webdataset);
    let (class_names, pictures) = if is_webdataset {
        samples(&root, shards, wanted)?
    } else {
        class_folders(&root, shards, wanted)?
    };
    if pictures.is_empty() {
        return Err(dataset_error(
            &root,
            "no pictures of any class: an archive should hold `class/picture.jpg`, or `key.jpg` and `key.cls`",
        ));
    }
    Ok(Scan {
        root,
        class_names,
        pictures,
        problems,
    })
}

/// WebDataset: `key.jpg` and, with its class number, `key.cls`, in the archives' order.
fn samples(
    root: &Path,
    shards: Vec<Shard>,
    wanted: Option<Vec<String>>,
) -> Result<(Vec<String>, Vec<Found>)> {
    let mut named = wanted;
    let mut pictures = Vec::new();
    for (archive, contents) in shards {
        named = named.or(contents.class_names);
        for picture in contents.pictures {
            let Some(label) = picture.class_number else {
                return Err(dataset_error(
                    &archive,
                    "no `.cls` beside its pictures, unlike in other archives of the dataset",
                ));
            };
            pictures.push(found(&archive, picture, label));
        }
    }
    let Some(highest) = pictures.iter().map(|picture| picture.label).max() else {
        return Ok((Vec::new(), pictures));
    };
    let class_names = match named {
        Some(named) if highest < named.len() => named,
        Some(named) => {
            return Err(Error::mismatch(
                format!("class names for {}", root.display()),
                format!("{}, the first for class number 0", named.len()),
                format!("one for class number {highest} too"),
            ));
        }
        None => numbers(root, highest, &pictures)?,
    };
    Ok((class_names, pictures))
}

/// Class numbers as class names, where there are no others.
fn numbers(root: &Path, highest: usize, pictures: &[Found]) -> Result<Vec<String>> {
    let labels: HashSet<usize> = pictures.iter().map(|picture| picture.label).collect();
    if let Some(empty) = (0..=highest).find(|label| !labels.contains(label)) {
        return Err(dataset_error(
            root,
            format!("no picture is of class {empty}: name the classes if this is so"),
        ));
    }
    let names = (0..=highest).map(|label| label.to_string());
    require_two_classes(root, names.collect(), 0)
}

/// Class folders, sorted as the unpacked folders would be.
fn class_folders(
    root: &Path,
    shards: Vec<Shard>,
    wanted: Option<Vec<String>>,
) -> Result<(Vec<String>, Vec<Found>)> {
    let prefix = common_prefix(&shards, wanted.as_deref());
    let class_of = |name: &str| Some(name.get(prefix..)?.split_once('/')?.0.to_owned());
    let class_names = match wanted {
        Some(wanted) => wanted,
        None => {
            let mut folders = BTreeSet::new();
            let mut outside_classes = 0;
            for name in names(&shards) {
                match class_of(name) {
                    Some(class) => {
                        folders.insert(class);
                    }
                    None => outside_classes += 1,
                }
            }
            require_two_classes(root, folders.into_iter().collect(), outside_classes)?
        }
    };
    let labels: HashMap<&str, usize> = class_names.iter().map(String::as_str).zip(0..).collect();
    let mut pictures = Vec::new();
    for (archive, contents) in shards {
        for picture in contents.pictures {
            let class = class_of(&picture.name);
            if let Some(label) = class.and_then(|class| labels.get(class.as_str())) {
                pictures.push(found(&archive, picture, *label));
            }
        }
    }
    pictures.sort_by(|a, b| (a.label.cmp(&b.label)).then(keras_order(&a.path, &b.path)));
    keep_last_of_each(&mut pictures);
    Ok((class_names, pictures))
}

/// Of members with one name, the last replaces the others, as in unpacking. They stand side by side, in the
/// archive's order.
fn keep_last_of_each(pictures: &mut Vec<Found>) {
    pictures.dedup_by(|next, kept| {
        let is_same = next.path == kept.path;
        if is_same {
            std::mem::swap(next, kept);
        }
        is_same
    });
}

/// The length of what stands before the class folders, such as `train/`: the folders that all pictures share,
/// as long as there are folders below and they are none of the wanted classes.
fn common_prefix(shards: &[Shard], wanted: Option<&[String]>) -> usize {
    let mut prefix = 0;
    loop {
        let first = names(shards).next();
        let Some((shared, _)) = first.and_then(|name| name[prefix..].split_once('/')) else {
            return prefix;
        };
        let is_class = wanted.is_some_and(|wanted| wanted.iter().any(|class| class == shared));
        let is_above = |name: &str| {
            let parts = name[prefix..].split_once('/');
            parts.is_some_and(|(folder, below)| folder == shared && below.contains('/'))
        };
        if is_class || !names(shards).all(is_above) {
            return prefix;
        }
        prefix += shared.len() + 1;
    }
}

/// The names of all pictures.
fn names(shards: &[Shard]) -> impl Iterator<Item = &str> {
    let pictures = shards.iter().flat_map(|(_, contents)| &contents.pictures);
    pictures.map(|picture| picture.name.as_str())
}

fn found(archive: &Path, picture: Picture, label: usize) -> Found {
    Found {
        path: archive.join(picture.name),
        label,
        source: Source::Member(picture.member),
    }
}
