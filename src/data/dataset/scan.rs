//! What is found where a dataset is opened, and the rules that folders, archives and memory share.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::item::Source;
use crate::error::{Cause, Error, Result};

const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// What was found in a folder, in archives or in memory.
pub(super) struct Scan {
    pub(super) root: PathBuf,
    pub(super) class_names: Vec<String>,
    pub(super) pictures: Vec<Found>,
    /// What looks like a picture and cannot be used: reasons by path.
    pub(super) problems: BTreeMap<PathBuf, Cause>,
}

/// A picture that was found; its position among the others will be its id.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) label: usize,
    pub(super) source: Source,
}

/// Whether a file is taken for a picture, by its name.
pub(super) fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    extension.is_some_and(|found| {
        EXTENSIONS
            .iter()
            .any(|known| found.eq_ignore_ascii_case(known))
    })
}

/// The order in which Keras walks: folder by folder, each one's files by name.
pub(super) fn keras_order(a: &Path, b: &Path) -> Ordering {
    fn key(path: &Path) -> (Option<&OsStr>, Option<&OsStr>) {
        (path.parent().map(Path::as_os_str), path.file_name())
    }
    key(a).cmp(&key(b))
}

/// The class names that were asked for: two or more, all different.
pub(super) fn check_classes<S: AsRef<str>>(classes: &[S]) -> Result<Vec<String>> {
    let names = classes.iter().map(|name| name.as_ref().to_owned());
    let classes: Vec<String> = names.collect();
    let distinct: HashSet<_> = classes.iter().collect();
    if classes.len() < 2 || distinct.len() < classes.len() {
        return Err(Error::option(
            "classes",
            format!("{classes:?}"),
            "two or more different names",
        ));
    }
    Ok(classes)
}

/// The class folders that were found, if there are enough.
pub(super) fn require_two_classes(
    root: &Path,
    folders: Vec<String>,
    outside_classes: usize,
) -> Result<Vec<String>> {
    let reason = match folders.as_slice() {
        [] if outside_classes > 0 => format!(
            "{outside_classes} pictures but no class folders: put the pictures in one folder per class"
        ),
        [] => "no class folders: put the pictures in one folder per class".into(),
        [only] => format!("only one class folder, `{only}`: two or more are needed"),
        _ => return Ok(folders),
    };
    Err(dataset_error(root, reason))
}

pub(super) fn dataset_error(path: &Path, reason: impl Into<Cause>) -> Error {
    Error::Dataset {
        path: path.to_owned(),
        source: reason.into(),
    }
}
