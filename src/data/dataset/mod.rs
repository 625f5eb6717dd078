//! Pictures with their labels: from class folders, tar archives or memory.

mod archive;
mod folders;
mod item;
mod memory;
mod problem;
mod scan;
mod split;
mod tar;
mod usable;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::DynamicImage;

pub use self::item::Item;
pub use self::problem::{Policy, Problem};

use self::problem::Problems;
use self::scan::{Scan, check_classes, dataset_error};
use crate::error::{Error, Result};

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
/// pictures come first, then those of nested folders, by name. A picture is a file ending in .jpg, .jpeg,
/// .png, .webp, .bmp, .gif, .tif or .tiff, in either case; names that start with a dot are left out, and so
/// are pictures outside the class folders. Links are followed.
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
    /// What was found when it was opened that looks like a picture and is none of the items.
    unlisted: Arc<BTreeSet<PathBuf>>,
    /// The share of pictures that must be usable.
    least_usable: f64,
}

/// The name for a [`Dataset`] that is opened from class folders: `DirectoryDataset::open("pictures")`.
pub type DirectoryDataset = Dataset;

impl Dataset {
    /// Opens a folder of class folders.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be read; [`Error::Dataset`] when it is not a folder, when it has
    /// fewer than two class folders, or when one of them is without pictures.
    pub fn open(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let dataset = Self::from_scan(folders::scan(root, None)?);
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
    /// a small test set may lack a class, but it must exist.
    ///
    /// # Errors
    /// As [`open`](Self::open); [`Error::Dataset`] for a class without a folder, [`Error::InvalidOption`] for fewer
    /// than two classes or the same one twice.
    pub fn open_with_classes<S: AsRef<str>>(root: impl AsRef<Path>, classes: &[S]) -> Result<Self> {
        folders::scan(root.as_ref(), Some(check_classes(classes)?)).map(Self::from_scan)
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
    /// Headers are read now, pictures later, straight from the archives, which must not change meanwhile. A
    /// picture takes about 200 bytes of memory until it is asked for.
    ///
    /// # Errors
    /// [`Error::Io`] when an archive cannot be read; [`Error::Dataset`] when it is compressed, no tar archive,
    /// damaged or cut short, when a member's name points outside or is not UTF-8, when there are fewer than two
    /// classes, or a class number without a picture; [`Error::Mismatch`] for a class number without a name;
    /// [`Error::InvalidOption`] for no archive.
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
        tar::scan(archives, None).map(Self::from_scan)
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
        tar::scan(archives, Some(check_classes(classes)?)).map(Self::from_scan)
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
        }
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

    /// The pictures that could not be used so far, by path. Clones and splits share them.
    pub fn problems(&self) -> Vec<Problem> {
        self.problems.list()
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
