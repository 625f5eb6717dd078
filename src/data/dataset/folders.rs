//! Class folders → their pictures, in Keras's order.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::item::Source;
use super::scan::{Found, Scan, dataset_error, is_picture, keras_order, require_two_classes};
use crate::error::{Cause, Error, Result};

/// Looks into a folder of class folders: all of them, or those of the wanted names.
pub(super) fn scan(root: &Path, wanted: Option<Vec<String>>) -> Result<Scan> {
    let metadata = fs::metadata(root).map_err(Error::io(root))?;
    if !metadata.is_dir() {
        return Err(dataset_error(root, "not a folder"));
    }
    // `metadata` succeeds on a folder that may not be listed.
    fs::read_dir(root).map_err(Error::io(root))?;

    let mut tree = Tree::default();
    tree.walk(root, wanted.as_deref())?;
    let class_names = match wanted {
        Some(wanted) => require_folders(root, wanted, &tree.folders)?,
        None => require_two_classes(root, tree.folders, tree.outside_classes)?,
    };
    let mut pictures = Vec::new();
    for (label, class) in class_names.iter().enumerate() {
        let mut paths = tree.pictures.remove(class).unwrap_or_default();
        paths.sort_by(|a, b| keras_order(a, b));
        pictures.extend(paths.into_iter().map(|path| Found {
            path,
            label,
            source: Source::File,
        }));
    }
    Ok(Scan {
        root: root.to_owned(),
        class_names,
        pictures,
        problems: tree.problems,
    })
}

/// What a walk through a folder of class folders comes by.
#[derive(Default)]
struct Tree {
    /// The class folders, sorted by name.
    folders: Vec<String>,
    /// By class folder.
    pictures: BTreeMap<String, Vec<PathBuf>>,
    /// How many pictures lie beside the class folders.
    outside_classes: usize,
    problems: BTreeMap<PathBuf, Cause>,
}

impl Tree {
    fn walk(&mut self, root: &Path, wanted: Option<&[String]>) -> Result<()> {
        let walk = WalkDir::new(root).follow_links(true).sort_by_file_name();
        let entries = walk
            .into_iter()
            .filter_entry(|entry| is_visible(entry) && is_wanted(entry, wanted));
        for entry in entries {
            match entry {
                Ok(entry) => self.add(root, entry)?,
                Err(error) => {
                    let path = error.path().unwrap_or(root).to_owned();
                    if is_relevant_failure(&path, &error) {
                        self.problems.insert(path, reason(error));
                    }
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, root: &Path, entry: DirEntry) -> Result<()> {
        if entry.file_type().is_dir() && entry.depth() == 1 {
            self.folders.push(class_name(root, &entry)?);
        } else if entry.file_type().is_file() && is_picture(entry.path()) {
            match self.folders.last() {
                Some(class) if entry.depth() > 1 => {
                    let pictures = self.pictures.entry(class.clone()).or_default();
                    pictures.push(entry.into_path());
                }
                _ => self.outside_classes += 1,
            }
        }
        Ok(())
    }
}

fn is_visible(entry: &DirEntry) -> bool {
    let name = entry.file_name().as_encoded_bytes();
    entry.depth() == 0 || !name.starts_with(b".")
}

/// Whether an entry may lie in one of the wanted class folders.
fn is_wanted(entry: &DirEntry, wanted: Option<&[String]>) -> bool {
    let is_entry = |name: &String| entry.file_name() == OsStr::new(name);
    match wanted {
        Some(wanted) if entry.depth() == 1 => wanted.iter().any(is_entry),
        _ => true,
    }
}

/// Whether an entry that could not be read may have held pictures: a broken link to a text file does not
/// matter.
fn is_relevant_failure(path: &Path, error: &walkdir::Error) -> bool {
    let is_missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    is_picture(path) || !error.io_error().is_some_and(is_missing)
}

fn reason(error: walkdir::Error) -> Cause {
    if let Some(ancestor) = error.loop_ancestor() {
        return format!("a link back to {}", ancestor.display()).into();
    }
    match error.into_io_error() {
        Some(error) => error.into(),
        None => "it cannot be read".into(),
    }
}

fn class_name(root: &Path, folder: &DirEntry) -> Result<String> {
    let name = folder.file_name();
    name.to_str()
        .map(ToOwned::to_owned)
        .ok_or_else(|| dataset_error(root, format!("class folder {name:?} is not named in UTF-8")))
}

/// The wanted classes, if each has a folder.
fn require_folders(root: &Path, wanted: Vec<String>, found: &[String]) -> Result<Vec<String>> {
    match wanted.iter().find(|name| !found.contains(name)) {
        Some(missing) => Err(dataset_error(
            root,
            format!("there is no folder for class `{missing}`"),
        )),
        None => Ok(wanted),
    }
}
