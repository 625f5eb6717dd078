//! Class folders → (path, label).

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashSet},
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use image::RgbImage;
use rand::seq::SliceRandom;
use walkdir::{DirEntry, WalkDir};

use super::{decode, shards};
use crate::{
    Error, Result,
    random::{Purpose, stream},
};

const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];

/// What becomes of a picture that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It is left out and noted among the [problems](DirectoryDataset::problems). The default.
    #[default]
    Skip,
    /// It is an error.
    Fail,
}

/// A picture that was left out, or a folder that could not be looked into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or folder.
    pub path: PathBuf,
    /// Why it cannot be used.
    pub reason: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// One picture of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The picture's file; in an archive, the archive's path and the member's name, as in
    /// `train.tar/santa/1.jpg`.
    pub path: PathBuf,
    /// Its class, as an index into [`DirectoryDataset::class_names`].
    pub label: usize,
    /// Its place in the freshly opened dataset: splitting and shuffling keep it, so that (seed, epoch, id)
    /// fixes its augmentation.
    pub id: u64,
    /// Where it lies, if in an archive.
    member: Option<Member>,
}

impl Item {
    /// Decodes the picture from its file or its archive, as [`decode_file`](super::decode_file) does.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Picture`] when it cannot be decoded.
    pub fn decode(&self) -> Result<RgbImage> {
        match &self.member {
            None => decode::decode_file(&self.path),
            Some(member) => decode::decode_named(&self.path, member.len, || member.read()),
        }
    }

    /// The picture's bytes as they are stored.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        match &self.member {
            None => std::fs::read(&self.path),
            Some(member) => member.read(),
        }
    }
}

/// Bytes of a tar archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub archive: Arc<Path>,
    pub offset: u64,
    pub len: u64,
}

impl Member {
    /// Opens the archive anew: that costs little beside decoding, and a dataset may have more archives than a
    /// process may have open files.
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut archive = File::open(&self.archive)?;
        archive.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::with_capacity(self.len as usize);
        archive.take(self.len).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// What was found in a folder or in archives.
pub(super) struct Scan {
    pub root: PathBuf,
    pub class_names: Vec<String>,
    pub items: Vec<ScannedItem>,
    pub problems: BTreeMap<PathBuf, String>,
}

/// Path, label and place of a picture.
pub(super) type ScannedItem = (PathBuf, usize, Option<Member>);

/// Pictures in one folder per class, the layout of Keras's `flow_from_directory`:
///
/// ```text
/// train/not_santa/1.jpg, train/not_santa/2.png, …
/// train/santa/1.jpg, train/santa/more/2.jpg, …
/// ```
///
/// Classes are the folders' names sorted by code point ("C" before "a"); within a class, the folder's own
/// pictures come first, then those of nested folders, by name. A picture is a file ending in .jpg, .jpeg,
/// .png, .webp, .bmp, .gif, .tif or .tiff, in either case; names that start with a dot are left out, and so
/// are pictures outside the class folders. Links are followed.
///
/// Or pictures in tar archives, which need not be unpacked: see [`open_tar`](Self::open_tar).
///
/// Pictures are decoded by whoever reads them; those that cannot be are handled by the [`Policy`], and clones
/// and splits share what was found out.
///
/// ```
/// use headstart::DirectoryDataset;
///
/// let root = tempfile::tempdir().unwrap();
/// for name in ["santa/1.jpg", "santa/2.JPG", "not_santa/1.png", "not_santa/notes.txt"] {
///     let path = root.path().join(name);
///     std::fs::create_dir_all(path.parent().unwrap()).unwrap();
///     std::fs::write(path, "").unwrap();
/// }
/// let dataset = DirectoryDataset::open(root.path())?;
/// assert_eq!(dataset.class_names(), ["not_santa", "santa"]);
/// assert_eq!(dataset.counts(), [1, 2]);
///
/// let (train, validation) = dataset.split(0.4, 1)?;
/// assert_eq!((train.counts(), validation.counts()), (vec![1, 1], vec![0, 1]));
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DirectoryDataset {
    root: PathBuf,
    class_names: Vec<String>,
    /// Shared with clones: there may be millions.
    items: Arc<Vec<Item>>,
    policy: Policy,
    /// The pictures found when it was opened, usable or not.
    found: usize,
    problems: Arc<Mutex<BTreeMap<PathBuf, String>>>,
}

impl DirectoryDataset {
    /// Opens a folder of class folders.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read; [`Error::Dataset`] when it is not a folder, when it has
    /// fewer than two class folders, or when one of them is without pictures.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let dataset = Self::from_scan(Self::scan(root, None)?);
        for (name, count) in dataset.class_names.iter().zip(dataset.counts()) {
            if count == 0 {
                return Err(dataset_error(
                    root,
                    format!("class folder `{name}` has no pictures"),
                ));
            }
        }
        Ok(dataset)
    }

    /// Opens a folder of class folders with the classes, and their labels, of another dataset or in an order of
    /// one's own (Keras's `classes=`). Folders of other names are left out. A class folder may be empty, since
    /// a small test set may lack a class, but it must be there.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Dataset`] for a class without a folder, [`Error::Option`] for fewer
    /// than two classes or the same one twice.
    pub fn open_with_classes<S: AsRef<str>>(root: impl AsRef<Path>, classes: &[S]) -> Result<Self> {
        Self::scan(root.as_ref(), Some(check_classes(classes)?)).map(Self::from_scan)
    }

    /// Opens uncompressed tar archives, together one dataset, in one of two layouts.
    ///
    /// Class folders, under folders that all pictures share or none; the dataset is that of the unpacked
    /// folder:
    ///
    /// ```text
    /// train/not_santa/1.jpg, train/santa/1.jpg, …
    /// ```
    ///
    /// Or WebDataset's samples, as soon as there is a `.cls`: a picture and a member with its class number, of
    /// one name up to the first dot, in the archives' order:
    ///
    /// ```text
    /// 000.jpg, 000.cls ("0"), 001.jpg, 001.cls ("1"), …
    /// ```
    ///
    /// Their class names are the lines of a member `classes.txt`, that of class 0 first; without it, the
    /// numbers. Other members are left out. Links in archives are not followed but noted among the
    /// [problems](Self::problems), and so are pictures without a class number.
    ///
    /// Headers are read now, pictures later, straight from the archives, which must stay as they are. A
    /// picture takes about 200 bytes of memory until it is asked for.
    ///
    /// # Errors
    /// [`Error::Io`] when an archive cannot be read; [`Error::Dataset`] when it is compressed, no tar archive,
    /// damaged or cut short, when a member's name points outside or is not UTF-8, when there are fewer than two
    /// classes, or a class number without a picture or without a name; [`Error::Option`] for no archive.
    ///
    /// ```
    /// use headstart::DirectoryDataset;
    ///
    /// let folder = tempfile::tempdir().unwrap();
    /// let archive = folder.path().join("train.tar");
    /// let mut tar = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    /// for (name, content) in [("0.jpg", "…"), ("0.cls", "1"), ("1.jpg", "…"), ("1.cls", "0")] {
    ///     let mut header = tar::Header::new_gnu();
    ///     header.set_size(content.len() as u64);
    ///     tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    /// }
    /// tar.finish().unwrap();
    ///
    /// let dataset = DirectoryDataset::open_tar(&[archive])?;
    /// assert_eq!(dataset.class_names(), ["0", "1"]);
    /// assert_eq!(dataset.items()[0].label, 1);
    /// # Ok::<(), headstart::Error>(())
    /// ```
    pub fn open_tar<P: AsRef<Path>>(archives: &[P]) -> Result<Self> {
        shards::scan(archives, None).map(Self::from_scan)
    }

    /// Opens tar archives, as [`open_tar`](Self::open_tar), with the classes, and their labels, of another
    /// dataset. Class folders of other names are left out; WebDataset's class number 0 is the first name. A
    /// class may be without pictures.
    ///
    /// # Errors
    /// As [`open_tar`](Self::open_tar); [`Error::Option`] for fewer than two classes or the same one twice.
    pub fn open_tar_with_classes<P: AsRef<Path>, S: AsRef<str>>(
        archives: &[P],
        classes: &[S],
    ) -> Result<Self> {
        shards::scan(archives, Some(check_classes(classes)?)).map(Self::from_scan)
    }

    fn from_scan(scan: Scan) -> Self {
        let items: Vec<Item> = (0..)
            .zip(scan.items)
            .map(|(id, (path, label, member))| Item {
                path,
                label,
                id,
                member,
            })
            .collect();
        Self {
            root: scan.root,
            class_names: scan.class_names,
            found: items.len() + scan.problems.len(),
            items: Arc::new(items),
            policy: Policy::default(),
            problems: Arc::new(Mutex::new(scan.problems)),
        }
    }

    fn scan(root: &Path, wanted: Option<Vec<String>>) -> Result<Scan> {
        let metadata = std::fs::metadata(root).map_err(Error::io(root))?;
        if !metadata.is_dir() {
            return Err(dataset_error(root, "not a folder"));
        }
        // `metadata` succeeds on a folder that may not be listed.
        std::fs::read_dir(root).map_err(Error::io(root))?;

        let is_visible = |entry: &DirEntry| {
            let name = entry.file_name().as_encoded_bytes();
            entry.depth() == 0 || !name.starts_with(b".")
        };
        let is_wanted = |entry: &DirEntry| match &wanted {
            Some(wanted) if entry.depth() == 1 => wanted
                .iter()
                .any(|name| entry.file_name() == OsStr::new(name)),
            _ => true,
        };
        let mut folders = Vec::new();
        let mut pictures: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
        let mut outside_classes = 0;
        let mut problems = BTreeMap::new();
        let walk = WalkDir::new(root).follow_links(true).sort_by_file_name();
        for entry in walk
            .into_iter()
            .filter_entry(|entry| is_visible(entry) && is_wanted(entry))
        {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    let path = error.path().unwrap_or(root).to_owned();
                    if is_relevant_failure(&path, &error) {
                        problems.insert(path, reason(&error));
                    }
                    continue;
                }
            };
            if entry.file_type().is_dir() && entry.depth() == 1 {
                folders.push(class_name(root, &entry)?);
            } else if entry.file_type().is_file() && is_picture(entry.path()) {
                match folders.last() {
                    Some(class) if entry.depth() > 1 => pictures
                        .entry(class.clone())
                        .or_default()
                        .push(entry.into_path()),
                    _ => outside_classes += 1,
                }
            }
        }

        let class_names = match wanted {
            Some(wanted) => match wanted.iter().find(|name| !folders.contains(name)) {
                Some(missing) => {
                    return Err(dataset_error(
                        root,
                        format!("there is no folder for class `{missing}`"),
                    ));
                }
                None => wanted,
            },
            None => two_or_more(root, folders, outside_classes)?,
        };
        let mut items = Vec::new();
        for (label, class) in class_names.iter().enumerate() {
            let mut paths = pictures.remove(class).unwrap_or_default();
            paths.sort_by(|a, b| by_folder(a, b));
            items.extend(paths.into_iter().map(|path| (path, label, None)));
        }
        Ok(Scan {
            root: root.to_owned(),
            class_names,
            items,
            problems,
        })
    }

    /// Sets what becomes of pictures that cannot be used. Default: [`Policy::Skip`].
    ///
    /// # Errors
    /// Under [`Policy::Fail`], [`Error::Picture`] for the first problem already known, such as a folder that
    /// links to itself.
    pub fn policy(mut self, policy: Policy) -> Result<Self> {
        if policy == Policy::Fail
            && let Some(Problem { path, reason }) = self.problems().into_iter().next()
        {
            return Err(Error::Picture { path, reason });
        }
        self.policy = policy;
        Ok(self)
    }

    /// The class names: a label is an index into them.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The pictures, in the order a loader without shuffling gives them.
    pub fn items(&self) -> &[Item] {
        &self.items
    }

    /// The number of pictures, those with problems included.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The number of pictures of each class.
    pub fn counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.class_names.len()];
        for item in self.items.iter() {
            counts[item.label] += 1;
        }
        counts
    }

    /// The folder, as it was given.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Splits off `fraction` of each class, at random: returns (the rest, the fraction), both in the present
    /// order. Of a class with two pictures or more, each side gets at least one; a single picture stays in the
    /// rest.
    ///
    /// # Errors
    /// [`Error::Option`] unless 0 < `fraction` < 1.
    pub fn split(&self, fraction: f64, seed: u64) -> Result<(Self, Self)> {
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(Error::option("fraction", fraction, "over 0 and under 1"));
        }
        let mut chosen: HashSet<u64> = HashSet::new();
        for label in 0..self.class_names.len() {
            let of_class = self.items.iter().filter(|item| item.label == label);
            let mut ids: Vec<u64> = of_class.map(|item| item.id).collect();
            // Which pictures are chosen depends on the seed, not on the present order.
            ids.sort_unstable();
            ids.shuffle(&mut stream(seed, Purpose::Split, 0, label as u64));
            let share = (fraction * ids.len() as f64).round() as usize;
            let share = match ids.len() {
                0 | 1 => 0,
                n => share.clamp(1, n - 1),
            };
            chosen.extend(&ids[..share]);
        }
        let (part, rest) = self
            .items
            .iter()
            .cloned()
            .partition(|item| chosen.contains(&item.id));
        Ok((self.with_items(rest), self.with_items(part)))
    }

    /// Puts the pictures in a random order, once and for all; a loader that shuffles does so anew each epoch.
    pub fn shuffle(mut self, seed: u64) -> Self {
        Arc::make_mut(&mut self.items).shuffle(&mut stream(seed, Purpose::Shuffle, 0, 0));
        self
    }

    /// The pictures that could not be used so far, by path. Clones and splits share them.
    pub fn problems(&self) -> Vec<Problem> {
        self.lock_problems()
            .iter()
            .map(|(path, reason)| Problem {
                path: path.clone(),
                reason: reason.clone(),
            })
            .collect()
    }

    /// The problems in one line, such as `2 of 541 pictures skipped: santa/7.jpg (the file is empty), …`;
    /// `None` when there are none.
    pub fn problem_summary(&self) -> Option<String> {
        const NAMED: usize = 3;
        let problems = self.problems();
        if problems.is_empty() {
            return None;
        }
        let mut named: Vec<String> = problems
            .iter()
            .take(NAMED)
            .map(|Problem { path, reason }| {
                let path = path.strip_prefix(&self.root).unwrap_or(path);
                format!("{} ({reason})", path.display())
            })
            .collect();
        if problems.len() > NAMED {
            named.push("…".into());
        }
        Some(format!(
            "{} of {} pictures skipped: {}",
            problems.len(),
            self.found,
            named.join(", ")
        ))
    }

    /// What is known against a picture.
    pub(crate) fn problem_with(&self, path: &Path) -> Option<String> {
        self.lock_problems().get(path).cloned()
    }

    /// Handles a picture that cannot be used as the policy says: notes it, or gives the error back.
    pub(crate) fn handle(&self, path: &Path, error: Error) -> Result<()> {
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

    /// Other items of the same folder: the policy and the known problems stay.
    pub(crate) fn with_items(&self, items: Vec<Item>) -> Self {
        Self {
            items: Arc::new(items),
            ..self.clone()
        }
    }

    fn lock_problems(&self) -> MutexGuard<'_, BTreeMap<PathBuf, String>> {
        // An insertion cannot be left half done, so a panic elsewhere does no harm.
        self.problems.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The names given for classes, if they can be.
pub(super) fn check_classes<S: AsRef<str>>(classes: &[S]) -> Result<Vec<String>> {
    let classes: Vec<String> = classes
        .iter()
        .map(|name| name.as_ref().to_owned())
        .collect();
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

/// The order in which Keras walks: folder by folder, each one's files by name.
pub(super) fn by_folder(a: &Path, b: &Path) -> Ordering {
    fn key(path: &Path) -> (Option<&OsStr>, Option<&OsStr>) {
        (path.parent().map(Path::as_os_str), path.file_name())
    }
    key(a).cmp(&key(b))
}

pub(super) fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|found| {
        EXTENSIONS
            .iter()
            .any(|known| found.eq_ignore_ascii_case(known))
    })
}

/// Whether an entry that could not be read may have held pictures: a broken link to a text file does not
/// matter.
fn is_relevant_failure(path: &Path, error: &walkdir::Error) -> bool {
    let not_found =
        |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound && !is_picture(path);
    !error.io_error().is_some_and(not_found)
}

fn reason(error: &walkdir::Error) -> String {
    match (error.loop_ancestor(), error.io_error()) {
        (Some(ancestor), _) => format!("a link back to {}", ancestor.display()),
        (None, Some(error)) => error.to_string(),
        (None, None) => error.to_string(),
    }
}

fn class_name(root: &Path, entry: &DirEntry) -> Result<String> {
    entry
        .file_name()
        .to_str()
        .map(ToOwned::to_owned)
        .ok_or_else(|| {
            dataset_error(
                root,
                format!("class folder {:?} is not named in UTF-8", entry.file_name()),
            )
        })
}

pub(super) fn two_or_more(
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

pub(super) fn dataset_error(root: &Path, reason: impl Into<String>) -> Error {
    Error::Dataset {
        path: root.to_owned(),
        reason: reason.into(),
    }
}
