//! Class folders → labelled picture files.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rand::seq::SliceRandom;
use walkdir::{DirEntry, WalkDir};

use crate::random::{self, Purpose};
use crate::{Error, Result};

/// File name endings of the formats that are decoded, in lower case.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// How many problems [`DirectoryDataset::problem_summary`] names.
const NAMED_PROBLEMS: usize = 3;

/// One labelled picture file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The file.
    pub path: PathBuf,
    /// The position of its class in [`DirectoryDataset::class_names`].
    pub label: usize,
    /// Its number when the folder was opened. It stays through splits and shuffles, so that a picture is
    /// augmented the same wherever it lands.
    pub id: u64,
}

/// A file that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or folder.
    pub path: PathBuf,
    /// Why it cannot be used.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// What to do about a picture that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Leave it out and remember it as a [`Problem`].
    #[default]
    Skip,
    /// Stop with an error that names it.
    Fail,
}

/// A folder with one folder of pictures per class.
///
/// Classes are the sub-folders' names in code-point order; pictures are found at any depth, through links (a
/// link back to a folder above is passed by), by their extension in either case: jpg, jpeg, png, webp, bmp, gif,
/// tif, tiff. Hidden files and folders (`.name`) are left out. Nothing is decoded until a loader does.
///
/// ```
/// use headstart::DirectoryDataset;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let pictures = folder.path();
/// # for (class, count) in [("cat", 4), ("dog", 6)] {
/// #     std::fs::create_dir(pictures.join(class)).unwrap();
/// #     for index in 0..count {
/// #         image::RgbImage::new(8, 8).save(pictures.join(format!("{class}/{index}.png"))).unwrap();
/// #     }
/// # }
/// let dataset = DirectoryDataset::open(pictures)?;
/// assert_eq!(dataset.class_names(), ["cat", "dog"]);
/// assert_eq!(dataset.counts(), [4, 6]);
/// let (train, validation) = dataset.split(0.5, 1)?;
/// assert_eq!((train.counts(), validation.counts()), (vec![2, 3], vec![2, 3]));
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DirectoryDataset {
    root: PathBuf,
    class_names: Vec<String>,
    items: Vec<Item>,
    policy: Policy,
    /// Shared by every split and clone, so that a bad picture is met once.
    problems: Arc<Mutex<BTreeMap<PathBuf, String>>>,
}

impl DirectoryDataset {
    /// Opens a folder of class folders.
    ///
    /// # Errors
    /// [`Error::Io`] for a folder that cannot be read; [`Error::Dataset`] when it has no class folders, only
    /// one, or one without pictures.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let class_names = class_folders(root)?;
        match class_names.as_slice() {
            [] => Err(dataset_error(
                root,
                "no class folders; put the pictures of each class in a folder of their own here",
            )),
            [only] => Err(dataset_error(
                root,
                format!("only one class folder, `{only}`; a classifier needs two or more"),
            )),
            _ => Self::open_with_classes(root, &class_names),
        }
    }

    /// Opens a folder with these classes in this order, so that its labels agree with another dataset's; other
    /// folders in it are left out.
    ///
    /// # Errors
    /// As [`open`](Self::open); a class without a folder is named.
    pub fn open_with_classes(root: impl AsRef<Path>, class_names: &[impl AsRef<str>]) -> Result<Self> {
        let root = root.as_ref();
        let class_names: Vec<String> = class_names.iter().map(|name| name.as_ref().into()).collect();
        std::fs::read_dir(root).map_err(Error::io(root))?;
        let mut problems = BTreeMap::new();
        let mut items = Vec::new();
        for (label, class) in class_names.iter().enumerate() {
            let folder = root.join(class);
            if !folder.is_dir() {
                return Err(dataset_error(root, format!("no folder for class `{class}`")));
            }
            let pictures = picture_files(&folder, &mut problems);
            if pictures.is_empty() {
                return Err(dataset_error(root, format!("class folder `{class}` holds no pictures")));
            }
            for path in pictures {
                let id = items.len() as u64;
                items.push(Item { path, label, id });
            }
        }
        Ok(Self {
            root: root.to_owned(),
            class_names,
            items,
            policy: Policy::default(),
            problems: Arc::new(Mutex::new(problems)),
        })
    }

    /// Sets what to do about a picture that cannot be used; the default is [`Policy::Skip`].
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Class names in the order of their labels.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The pictures, those that will prove unusable included.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many pictures each class has.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        for item in &self.items {
            counts[item.label] += 1;
        }
        counts
    }

    /// Splits off a share of each class's pictures, chosen by the seed: (the rest, the share). A class of two
    /// or more pictures has one at least on either side; a class of one keeps it in the rest.
    ///
    /// # Errors
    /// [`Error::Option`] for a fraction outside (0, 1).
    pub fn split(&self, fraction: f64, seed: u64) -> Result<(Self, Self)> {
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(Error::option("fraction", fraction, "above 0 and below 1"));
        }
        let mut taken = vec![false; self.items.len()];
        for label in 0..self.class_names.len() {
            let of_class = |index: &usize| self.items[*index].label == label;
            let mut positions: Vec<usize> = (0..self.items.len()).filter(of_class).collect();
            positions.shuffle(&mut random::stream(seed, Purpose::Split, 0, label as u64));
            let most = positions.len().saturating_sub(1);
            let share = (fraction * positions.len() as f64).round() as usize;
            for index in &positions[..share.max(1).min(most)] {
                taken[*index] = true;
            }
        }
        let part = |wanted: bool| Self {
            items: self
                .items
                .iter()
                .zip(&taken)
                .filter(|(_, taken)| **taken == wanted)
                .map(|(item, _)| item.clone())
                .collect(),
            ..self.clone()
        };
        Ok((part(false), part(true)))
    }

    /// The same pictures in an order of the seed's choosing.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.items.shuffle(&mut random::stream(seed, Purpose::Shuffle, 0, 0));
        self
    }

    /// What could not be used so far, by path: found on opening and by every loader since, of this dataset, its
    /// splits and its clones.
    pub fn problems(&self) -> Vec<Problem> {
        self.lock_problems()
            .iter()
            .map(|(path, reason)| Problem {
                path: path.clone(),
                reason: reason.clone(),
            })
            .collect()
    }

    /// The problems in one line; none if there are none.
    pub fn problem_summary(&self) -> Option<String> {
        let problems = self.problems();
        if problems.is_empty() {
            return None;
        }
        let named: Vec<_> = problems.iter().take(NAMED_PROBLEMS).map(Problem::to_string).collect();
        let more = match problems.len().saturating_sub(NAMED_PROBLEMS) {
            0 => String::new(),
            more => format!("; and {more} more"),
        };
        Some(format!(
            "{} left out of {}: {}{more}",
            problems.len(),
            self.root.display(),
            named.join("; ")
        ))
    }

    /// Deals with a picture that cannot be used, as the policy says.
    pub(super) fn report(&self, path: &Path, error: Error) -> Result<()> {
        if self.policy == Policy::Fail {
            return Err(error);
        }
        let reason = match error {
            Error::Picture { reason, .. } => reason,
            Error::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        self.lock_problems().insert(path.to_owned(), reason);
        Ok(())
    }

    /// Under [`Policy::Fail`], the first problem known so far; a picture known to be bad is no longer asked
    /// for under [`Policy::Skip`].
    pub(super) fn known_problem(&self, path: &Path) -> Option<String> {
        self.lock_problems().get(path).cloned()
    }

    pub(super) fn first_failure(&self) -> Option<Error> {
        if self.policy == Policy::Skip {
            return None;
        }
        let Problem { path, reason } = self.problems().into_iter().next()?;
        Some(Error::Picture { path, reason })
    }

    fn lock_problems(&self) -> std::sync::MutexGuard<'_, BTreeMap<PathBuf, String>> {
        // A map is whole whatever happened to the thread that held it.
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names of the folders in `root` that are not hidden, in code-point order.
fn class_folders(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).map_err(Error::io(root))? {
        let entry = entry.map_err(Error::io(root))?;
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with('.');
        if hidden || !entry.path().is_dir() {
            continue;
        }
        let name = name.into_string().map_err(|name| {
            dataset_error(root, format!("class folder {name:?} has a name that is not UTF-8"))
        })?;
        names.push(name);
    }
    names.sort();
    Ok(names)
}

/// The pictures below a folder: a folder's own before its sub-folders', each in code-point order.
fn picture_files(folder: &Path, problems: &mut BTreeMap<PathBuf, String>) -> Vec<PathBuf> {
    let hidden = |entry: &DirEntry| {
        entry.depth() > 0 && entry.file_name().to_string_lossy().starts_with('.')
    };
    let mut files = Vec::new();
    for entry in WalkDir::new(folder)
        .follow_links(true)
        .into_iter()
        .filter_entry(|entry| !hidden(entry))
    {
        match entry {
            Ok(entry) if entry.file_type().is_file() && is_picture(entry.path()) => {
                files.push(entry.into_path());
            }
            Ok(_) => {}
            // A link to a folder above: its pictures are found where they are.
            Err(error) if error.loop_ancestor().is_some() => {}
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_owned();
                let reason = error.io_error().map_or_else(|| error.to_string(), ToString::to_string);
                problems.insert(path, reason);
            }
        }
    }
    files.sort_by(|a, b| (a.parent(), a.file_name()).cmp(&(b.parent(), b.file_name())));
    files
}

fn is_picture(path: &Path) -> bool {
    path.extension()
        .and_then(|extension| extension.to_str())
        .is_some_and(|extension| EXTENSIONS.contains(&extension.to_lowercase().as_str()))
}

fn dataset_error(root: &Path, reason: impl Into<String>) -> Error {
    Error::Dataset {
        path: root.to_owned(),
        reason: reason.into(),
    }
}
