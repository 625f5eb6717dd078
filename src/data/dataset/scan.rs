//! What is found where a dataset is opened, and the rules that folders, archives and memory share.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::item::Source;
use crate::data::decode::Format;
use crate::error::{Cause, Error, Result};
use crate::words::some;

/// The most folders that a warning names.
const NAMED: usize = 10;

/// Endings of files that are taken for pictures without a look into them: opening a million files takes long. What they
/// hold shows when they are read.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// What cannot be used: reasons by path.
pub(super) type Problems = BTreeMap<PathBuf, Cause>;

/// What was found in a folder, in archives or in memory.
pub(super) struct Scan {
    pub(super) root: PathBuf,
    pub(super) class_names: Vec<String>,
    pub(super) pictures: Vec<Found>,
    pub(super) problems: Problems,
    /// What was left out because of its name.
    pub(super) left_out: Vec<PathBuf>,
    /// What a user should know, in sentences.
    pub(super) warnings: Vec<String>,
}

/// A picture that was found; its position among the others will be its id.
pub(super) struct Found {
    pub(super) path: PathBuf,
    pub(super) label: usize,
    pub(super) source: Source,
}

/// Names of files and folders that are left out: whole names, or beginnings before a `*`; ASCII letters in either case.
#[derive(Clone, Debug)]
pub(super) struct LeftOut(pub(super) Vec<String>);

impl LeftOut {
    pub(super) fn contains(&self, name: &[u8]) -> bool {
        self.0.iter().any(|left_out| {
            let left_out = left_out.as_bytes();
            match left_out.strip_suffix(b"*") {
                Some(start) => {
                    name.len() >= start.len() && name[..start.len()].eq_ignore_ascii_case(start)
                }
                None => name.eq_ignore_ascii_case(left_out),
            }
        })
    }
}

/// Whether a file's name is that of a picture.
pub(super) fn is_named_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(OsStr::to_str);
    extension.is_some_and(|found| {
        EXTENSIONS
            .iter()
            .any(|known| found.eq_ignore_ascii_case(known))
    })
}

/// Whether a file is a picture: by its name, or else by its first bytes.
///
/// # Errors
/// What it is instead.
pub(super) fn require_picture(
    path: &Path,
    head: impl FnOnce() -> io::Result<Vec<u8>>,
) -> Result<(), Cause> {
    if is_named_picture(path) {
        return Ok(());
    }
    Format::of(&head()?)?;
    Ok(())
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

/// A warning for class folders that look like the parts of a dataset: by their names, or because all of their pictures
/// are in folders of the same names.
pub(super) fn warn_of_splits(
    root: &Path,
    classes: &[String],
    pictures: &[Found],
) -> Option<String> {
    const SPLITS: [&str; 10] = [
        "train",
        "training",
        "val",
        "valid",
        "validation",
        "test",
        "testing",
        "dev",
        "eval",
        "holdout",
    ];
    let is_split = |name: &String| SPLITS.iter().any(|split| name.eq_ignore_ascii_case(split));
    if !classes.iter().all(is_split) && !have_same_folders(classes, pictures) {
        return None;
    }
    Some(format!(
        "{}: `{}` are taken for classes, and look like the parts of a dataset: open each part on its own",
        root.display(),
        classes.join("`, `")
    ))
}

/// Whether all classes have their pictures in folders, two or more, of the same names.
fn have_same_folders(classes: &[String], pictures: &[Found]) -> bool {
    let mut folders = vec![BTreeSet::new(); classes.len()];
    for Found { path, label, .. } in pictures {
        let parts: Vec<&OsStr> = path.iter().collect();
        let class = OsStr::new(&classes[*label]);
        // The class folder is the last of its name that has a folder in it.
        let below = parts.iter().rposition(|part| *part == class);
        match below.and_then(|at| parts.get(at + 1..)) {
            Some([folder, _, ..]) => folders[*label].insert(*folder),
            _ => return false,
        };
    }
    folders
        .iter()
        .all(|found| found.len() > 1 && *found == folders[0])
}

/// A warning of class folders that were not asked for.
pub(super) fn unwanted_folders(root: &Path, names: impl IntoIterator<Item = String>) -> String {
    let names = names.into_iter().map(|name| format!("`{name}`"));
    format!(
        "{}: the folders {} are of none of the classes asked for, and left out",
        root.display(),
        some(&names.collect::<Vec<_>>(), NAMED)
    )
}

/// Says how a name that was looked for differs from one that is there, if they look alike.
pub(crate) fn lookalike<'a>(wanted: &str, found: impl IntoIterator<Item = &'a String>) -> String {
    for name in found {
        if name.eq_ignore_ascii_case(wanted) || name.to_lowercase() == wanted.to_lowercase() {
            return format!("; `{name}` differs in the case of letters");
        }
        if name.trim() == wanted.trim() {
            return "; one of the same name differs in spaces around it".into();
        }
        if looks_alike(name, wanted) {
            return format!(
                "; `{}` looks alike, but `{}` is written with other code points (another Unicode \
                 normal form, as a Mac writes them): rename it",
                escape(name),
                escape(wanted)
            );
        }
    }
    String::new()
}

/// Whether two names may differ in their Unicode form alone: in the decomposed one, marks follow plain letters.
fn looks_alike(a: &str, b: &str) -> bool {
    let beyond_ascii = |name: &str| name.chars().filter(|c| !c.is_ascii()).count();
    let (a_marks, b_marks) = (beyond_ascii(a), beyond_ascii(b));
    // Accents of Latin and other letters, kana's voicing marks, and Korean syllables' parts.
    let is_part = |c: char| matches!(c, '\u{300}'..='\u{36f}' | '\u{1100}'..='\u{11ff}' | '\u{3099}' | '\u{309a}');
    if a == b || a_marks == 0 || b_marks == 0 || !a.chars().chain(b.chars()).any(is_part) {
        return false;
    }
    let (short, long) = if a.chars().count() < b.chars().count() {
        (a, b)
    } else {
        (b, a)
    };
    // Of the composed form, each plain letter is in the other, in order.
    let mut letters = long.chars().filter(char::is_ascii);
    let is_within = short
        .chars()
        .filter(char::is_ascii)
        .all(|c| letters.any(|other| other == c));
    let plain = |name: &str| name.chars().count() - beyond_ascii(name);
    is_within && plain(long) - plain(short).min(plain(long)) <= beyond_ascii(short)
}

/// `café` as `caf\u{e9}`.
fn escape(name: &str) -> String {
    let mut escaped = String::new();
    for c in name.chars() {
        if c.is_ascii() {
            escaped.push(c);
        } else {
            escaped.extend(c.escape_unicode());
        }
    }
    escaped
}

pub(super) fn dataset_error(path: &Path, reason: impl Into<Cause>) -> Error {
    Error::Dataset {
        path: path.to_owned(),
        source: reason.into(),
    }
}
