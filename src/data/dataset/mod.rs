//! Pictures with their labels: from class folders, tar archives or memory.

mod archive;
mod folders;
mod item;
mod label;
mod memory;
mod options;
mod pictures;
mod problem;
mod samples;
mod scan;
mod split;
mod tar;
mod usable;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::DynamicImage;

pub use self::item::Item;
pub use self::options::DatasetOptions;
pub use self::pictures::pictures;
pub use self::problem::{Policy, Problem};

pub(crate) use self::scan::lookalike;

use self::problem::Problems;
use self::scan::{Scan, check_classes};
use super::decode::Decoder;
use crate::error::{Error, Result};
use crate::progress;

/// Pictures with their labels, as a [`Loader`](super::Loader) takes them. Cheap to clone.
///
/// [`open`](Self::open) reads one folder per class, the layout of Keras's `flow_from_directory`:
///
/// ```text
/// train/not_santa/1.jpg, train/not_santa/2.png, …
/// train/santa/1.jpg, train/santa/more/2.jpg, …
/// ```
///
/// Classes are the folders' names sorted by code point ("C" before "a"); within a class, the folder's own
/// pictures come first, then those of nested folders, by name. Links are followed.
///
/// Each file in a class folder is a picture or a [`Problem`]. Files ending in .jpg, .jpeg, .png, .webp, .bmp, .gif,
/// .tif or .tiff, in either case, are taken for pictures until they are read; of others, the first bytes decide, and
/// what is recognised and not read (HEIC, AVIF, a video, text) is named. Hidden files and what systems put beside
/// pictures are left out, by a list that [`options`](Self::options) shows and changes; pictures beside the class
/// folders are problems.
///
/// [`open_tar`](Self::open_tar) reads tar archives, which need not be unpacked; [`from_images`](Self::from_images)
/// takes images in memory.
///
/// Files are decoded by whoever reads them. What cannot be decoded is handled by the [`Policy`]; clones and
/// splits share what was found out.
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
pub struct Dataset {
    root: PathBuf,
    class_names: Vec<String>,
    /// Shared with clones: there may be millions.
    items: Arc<Vec<Item>>,
    policy: Policy,
    /// How many pictures there were when it was opened, usable or not.
    found: usize,
    problems: Problems,
    left_out: Arc<Vec<PathBuf>>,
    warnings: Arc<Vec<String>>,
    decoder: Decoder,
    /// What was found when it was opened that looks like a picture and is none of the items.
    unlisted: Arc<BTreeSet<PathBuf>>,
    /// The share of pictures that must be usable.
    least_usable: f64,
}

/// The name for a [`Dataset`] that is opened from class folders: `DirectoryDataset::open("pictures")`.
pub type DirectoryDataset = Dataset;

impl Dataset {
    /// How a dataset is opened, to be changed: classes, and names that are left out.
    pub fn options() -> DatasetOptions {
        DatasetOptions::new()
    }

    /// Opens a folder of class folders.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read; [`Error::Dataset`] when it is not a folder, when it has
    /// fewer than two class folders, or when one of them is without pictures.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        Self::options().open(root)
    }

    /// Opens a folder of class folders with the classes, and their labels, of another dataset or in an order of one's
    /// own (Keras's `classes=`). Folders of other names are left out, with a warning. A class folder may be empty,
    /// since a small test set may lack a class, but it must exist.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Dataset`] for a class without a folder, [`Error::InvalidOption`] for fewer
    /// than two classes or the same one twice.
    pub fn open_with_classes<S: AsRef<str>>(root: impl AsRef<Path>, classes: &[S]) -> Result<Self> {
        Self::options().classes(classes).open(root)
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
    /// Or WebDataset's samples, as soon as there is a `.cls`, or JSON with a label beside each picture: members of one
    /// name but for the ending, side by side, in the archives' order:
    ///
    /// ```text
    /// 000.jpg, 000.cls ("0"), 001.jpg, 001.cls ("1"), …
    /// ```
    ///
    /// A label is a number (`3`, `3.0`), a class name, or JSON with one of them under `label`. Class names are the
    /// lines of a member `classes.txt`, that of class 0 first; without it, the numbers, or the names sorted. Labels
    /// belong to samples, so names may come again, as in shards that were joined. Other members of a sample are left
    /// out. Links in archives are not followed but noted among the [problems](Self::problems); so are pictures without
    /// a label, members whose names are absolute, point outside or are not UTF-8, and what follows an archive's end
    /// mark.
    ///
    /// Headers are read now, pictures later, straight from the archives, which must not change meanwhile. A
    /// picture takes about 200 bytes of memory until it is asked for.
    ///
    /// # Errors
    /// [`Error::Io`] when an archive cannot be read; [`Error::Dataset`] when it is compressed, no tar archive, damaged
    /// or cut short, when there are fewer than two classes, or a class number without a picture; [`Error::Mismatch`]
    /// for a class number without a name; [`Error::InvalidOption`] for no archive.
    ///
    /// ```
    /// use headstart::Dataset;
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
    /// let dataset = Dataset::open_tar(&[archive])?;
    /// assert_eq!(dataset.class_names(), ["0", "1"]);
    /// assert_eq!(dataset.items()[0].label, 1);
    /// # Ok::<(), headstart::Error>(())
    /// ```
    pub fn open_tar<P: AsRef<Path>>(archives: &[P]) -> Result<Self> {
        Self::options().open_tar(archives)
    }

    /// Opens tar archives, as [`open_tar`](Self::open_tar), with the classes, and their labels, of another
    /// dataset. Class folders of other names are left out; WebDataset's class number 0 is the first name. A
    /// class may be without pictures.
    ///
    /// # Errors
    /// As [`open_tar`](Self::open_tar); [`Error::InvalidOption`] for fewer than two classes or the same one twice.
    pub fn open_tar_with_classes<P: AsRef<Path>, S: AsRef<str>>(
        archives: &[P],
        classes: &[S],
    ) -> Result<Self> {
        Self::options().classes(classes).open_tar(archives)
    }

    /// Takes images in memory with their labels, indices into `class_names`, in the order given. A class may be
    /// without images. They are kept as 8-bit RGB ([`to_rgb`](super::to_rgb)): 3·H·W bytes each.
    ///
    /// # Errors
    /// [`Error::Mismatch`] for a label without a class name, [`Error::Dataset`] for no images,
    /// [`Error::InvalidOption`] for fewer than two classes or the same one twice.
    ///
    /// ```
    /// use headstart::Dataset;
    /// use headstart::data::Loader;
    /// use image::{DynamicImage, Rgb, RgbImage};
    ///
    /// let plain = |colour| DynamicImage::from(RgbImage::from_pixel(40, 30, Rgb(colour)));
    /// let images = [(plain([200, 20, 20]), 1), (plain([20, 20, 200]), 0)];
    /// let dataset = Dataset::from_images(images, &["blue", "red"])?;
    /// assert_eq!(dataset.counts(), [1, 1]);
    ///
    /// let batch = Loader::new(&dataset, 64, 64).epoch(0).next().unwrap()?;
    /// assert_eq!(batch.labels, [1, 0]);
    /// # Ok::<(), headstart::Error>(())
    /// ```
    pub fn from_images<S: AsRef<str>>(
        images: impl IntoIterator<Item = (DynamicImage, usize)>,
        class_names: &[S],
    ) -> Result<Self> {
        memory::scan(images, check_classes(class_names)?).map(Self::from_scan)
    }

    fn from_scan(scan: Scan) -> Self {
        let pictures = (0..).zip(scan.pictures);
        let items: Vec<Item> = pictures
            .map(|(id, picture)| Item {
                path: picture.path,
                label: picture.label,
                id,
                source: picture.source,
            })
            .collect();
        Self {
            root: scan.root,
            class_names: scan.class_names,
            found: items.len() + scan.problems.len(),
            unlisted: Arc::new(scan.problems.keys().cloned().collect()),
            least_usable: usable::LEAST,
            items: Arc::new(items),
            policy: Policy::default(),
            problems: Problems::new(scan.problems),
            left_out: Arc::new(scan.left_out),
            warnings: Arc::new(scan.warnings),
            decoder: Decoder::new(),
        }
    }

    /// Tells the warnings.
    fn warn(&self) {
        for warning in self.warnings.iter() {
            progress::warn(warning);
        }
    }

    /// Why a class has no pictures.
    fn empty_class(&self, name: &str) -> String {
        let below = self.root.join(name);
        let problems = self.problems();
        let mut inside = problems
            .iter()
            .filter(|problem| problem.path.starts_with(&below));
        match inside.next() {
            Some(first) => format!("class folder `{name}` has no pictures that are read: {first}"),
            None => format!("class folder `{name}` has no pictures"),
        }
    }

    /// Sets the memory in bytes that reading one picture may take, from its file to the size wanted: a picture that
    /// needs more is a problem. The threads of all loaders together take at most twice as much. Default: 512 MiB; see
    /// [`Decoder::budget`].
    pub fn picture_budget(mut self, bytes: u64) -> Self {
        self.decoder = self.decoder.budget(bytes);
        self
    }

    /// What decodes the pictures, for a loader.
    pub(in crate::data) fn decoder(&self) -> Decoder {
        self.decoder
    }

    /// Sets what becomes of pictures that cannot be used. Default: [`Policy::Skip`].
    ///
    /// # Errors
    /// Under [`Policy::Fail`], [`Error::Picture`] for the first problem already known, such as a folder that
    /// links to itself.
    pub fn policy(mut self, policy: Policy) -> Result<Self> {
        if policy == Policy::Fail
            && let Some(error) = self.problems.first_error()
        {
            return Err(error);
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

    /// The folder, as it was given; the archive, or the folder of the first of several; `<memory>` for images in
    /// memory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The files and folders that were left out because of their names: see [`DatasetOptions::leave_out`].
    pub fn left_out(&self) -> &[PathBuf] {
        &self.left_out
    }

    /// What was odd when the dataset was opened, in sentences that were also written to the standard error: classes
    /// named like the parts of a dataset, folders of other classes.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The pictures and other files that could not be used so far, by path: those known since the dataset was opened,
    /// and those that could not be read since. Clones and splits share them.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.list()
    }

    /// The problems in one line, such as `data/train: 2 of 541 files skipped: santa/7.jpg (the file is empty), …`;
    /// `None` when there are none. Both parts of a split tell of the whole.
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
            "{}: {} of {} files skipped: {}",
            self.root.display(),
            problems.len(),
            self.found,
            named.join(", ")
        ))
    }

    /// The error that a picture gives, if it is known to be unusable.
    pub(crate) fn known_problem(&self, path: &Path) -> Option<Error> {
        self.problems.error(path)
    }

    /// Handles a picture that cannot be used as the policy says: notes it, or returns the error.
    pub(crate) fn handle(&self, path: &Path, error: Error) -> Result<()> {
        if self.policy == Policy::Fail {
            return Err(error);
        }
        self.problems.note(path, error);
        Ok(())
    }

    /// Some of the items, or others of the same origin: the policy and the known problems stay.
    pub(crate) fn with_items(&self, items: Vec<Item>) -> Self {
        Self {
            items: Arc::new(items),
            ..self.clone()
        }
    }
}
