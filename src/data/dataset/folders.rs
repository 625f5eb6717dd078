//! Class folders → their pictures, in Keras's order.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use walkdir::{DirEntry, WalkDir};

use super::item::Source;
use super::scan::{
    Found, LeftOut, Problems, Scan, dataset_error, keras_order, lookalike, require_picture,
    require_two_classes, unwanted_folders, warn_of_splits,
};
use crate::data::decode::HEAD;
use crate::error::{Cause, Error, Result};

/// Looks into a folder of class folders: all of them, or those of the wanted names.
pub(super) fn scan(root: &Path, wanted: Option<Vec<String>>, left_out: &LeftOut) -> Result<Scan> {
    let metadata = fs::metadata(root).map_err(Error::io(root))?;
    if !metadata.is_dir() {
        return Err(dataset_error(root, "not a folder"));
    }
    // `metadata` succeeds on a folder that may not be listed.
    fs::read_dir(root).map_err(Error::io(root))?;

    let mut tree = Tree::default();
    tree.walk(root, wanted.as_deref(), left_out)?;
    let outside_classes = tree.outside.len();
    for path in std::mem::take(&mut tree.outside) {
        tree.problems
            .insert(path, "a picture outside the class folders".into());
    }
    let class_names = match wanted {
        Some(wanted) => require_folders(root, wanted, &tree.folders)?,
        None => require_two_classes(root, tree.folders, outside_classes)?,
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
    let mut warnings = tree.warnings;
    warnings.extend(warn_of_splits(root, &class_names, &pictures));
    Ok(Scan {
        root: root.to_owned(),
        class_names,
        pictures,
        problems: tree.problems,
        left_out: tree.left_out,
        warnings,
    })
}

/// What a walk through a folder of class folders comes by.
#[derive(Default)]
struct Tree {
    /// The class folders, sorted by name.
    folders: Vec<String>,
    /// By class folder.
    pictures: BTreeMap<String, Vec<PathBuf>>,
    /// Pictures beside the class folders.
    outside: Vec<PathBuf>,
    problems: Problems,
    left_out: Vec<PathBuf>,
    warnings: Vec<String>,
}

impl Tree {
    fn walk(&mut self, root: &Path, wanted: Option<&[String]>, left_out: &LeftOut) -> Result<()> {
        let wanted: Option<HashSet<&str>> =
            wanted.map(|names| names.iter().map(String::as_str).collect());
        let mut skipped = Vec::new();
        let mut unwanted = Vec::new();
        let walk = WalkDir::new(root).follow_links(true).sort_by_file_name();
        let entries = walk.into_iter().filter_entry(|entry| {
            let name = entry.file_name();
            if entry.depth() > 0 && left_out.contains(name.as_encoded_bytes()) {
                skipped.push(entry.path().to_owned());
                return false;
            }
            let is_wanted = |wanted: &HashSet<&str>| {
                entry.depth() != 1
                    || !entry.file_type().is_dir()
                    || name.to_str().is_some_and(|name| wanted.contains(name))
            };
            let is_wanted = wanted.as_ref().is_none_or(is_wanted);
            if !is_wanted {
                unwanted.push(name.to_string_lossy().into_owned());
            }
            is_wanted
        });
        for entry in entries {
            match entry {
                Ok(entry) => self.add(root, entry)?,
                Err(error) => {
                    let path = error.path().unwrap_or(root).to_owned();
                    self.problems.insert(path, reason(error));
                }
            }
        }
        self.left_out = skipped;
        if !unwanted.is_empty() {
            self.warnings.push(unwanted_folders(root, unwanted));
        }
        Ok(())
    }

    fn add(&mut self, root: &Path, entry: DirEntry) -> Result<()> {
        let kind = entry.file_type();
        if kind.is_dir() {
            if entry.depth() == 1 {
                self.folders.push(class_name(root, &entry)?);
            }
            return Ok(());
        }
        let path = entry.path();
        let judged = if kind.is_file() {
            require_picture(path, || {
                let mut head = Vec::new();
                File::open(path)?.take(HEAD as u64).read_to_end(&mut head)?;
                Ok(head)
            })
        } else {
            Err("neither a file nor a folder".into())
        };
        let class = self.folders.last().filter(|_| entry.depth() > 1);
        match (judged, class) {
            (Ok(()), Some(class)) => {
                let pictures = self.pictures.entry(class.clone()).or_default();
                pictures.push(entry.into_path());
            }
            (Ok(()), None) => self.outside.push(entry.into_path()),
            (Err(reason), Some(_)) => {
                self.problems.insert(entry.into_path(), reason);
            }
            // Notes and lists beside the class folders are no one's pictures.
            (Err(_), None) => {}
        }
        Ok(())
    }
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
    let there: HashSet<&str> = found.iter().map(String::as_str).collect();
    match wanted.iter().find(|name| !there.contains(name.as_str())) {
        Some(missing) => Err(dataset_error(
            root,
            format!(
                "there is no folder for class `{missing}`{}",
                lookalike(missing, &all_folders(root))
            ),
        )),
        None => Ok(wanted),
    }
}

/// The names of all folders, wanted or not.
fn all_folders(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.path().is_dir());
    let mut names: Vec<String> = folders
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}
