//! How a dataset is opened: its classes, and what is left out.

use std::path::Path;

use super::scan::{LeftOut, check_classes, dataset_error};
use super::{Dataset, folders, tar};
use crate::error::Result;

/// How class folders or archives are opened, made by [`Dataset::options`].
///
/// ```
/// use headstart::Dataset;
///
/// # let root = tempfile::tempdir().unwrap();
/// # for name in ["a/1.jpg", "b/1.jpg", "b/thumbnails/1.jpg"] {
/// #     let path = root.path().join(name);
/// #     std::fs::create_dir_all(path.parent().unwrap()).unwrap();
/// #     std::fs::write(path, "").unwrap();
/// # }
/// // a/1.jpg, b/1.jpg, b/thumbnails/1.jpg
/// let options = Dataset::options();
/// let left_out = [options.left_out(), &["thumbnails".into()]].concat();
/// let dataset = options.leave_out(&left_out).open(root.path())?;
/// assert_eq!(dataset.counts(), [1, 1]);
/// assert_eq!(dataset.left_out(), [root.path().join("b/thumbnails")]);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DatasetOptions {
    classes: Option<Vec<String>>,
    left_out: LeftOut,
}

impl DatasetOptions {
    /// The names of files and folders that are left out by default: hidden ones, and what systems and network drives
    /// put beside pictures.
    pub const LEFT_OUT: [&str; 10] = [
        ".*",
        "@eaDir",
        "#recycle",
        "__MACOSX",
        "Thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
    ];

    pub(super) fn new() -> Self {
        let names = Self::LEFT_OUT.map(ToOwned::to_owned);
        Self {
            classes: None,
            left_out: LeftOut(names.to_vec()),
        }
    }

    /// Takes these classes, in this order. Default: all there are, sorted.
    pub fn classes<S: AsRef<str>>(mut self, classes: &[S]) -> Self {
        self.classes = Some(
            classes
                .iter()
                .map(|name| name.as_ref().to_owned())
                .collect(),
        );
        self
    }

    /// Leaves out files and folders of these names, wherever they are, and no others. A name ending in `*` stands for
    /// all that begin so; ASCII letters count in either case. Default: [`LEFT_OUT`](Self::LEFT_OUT).
    pub fn leave_out<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        let names = names.iter().map(|name| name.as_ref().to_owned());
        self.left_out = LeftOut(names.collect());
        self
    }

    /// The names that are left out.
    pub fn left_out(&self) -> &[String] {
        &self.left_out.0
    }

    /// Opens a folder of class folders, as [`Dataset::open`] and [`Dataset::open_with_classes`] do.
    ///
    /// # Errors
    /// As for those.
    pub fn open(self, root: impl AsRef<Path>) -> Result<Dataset> {
        let root = root.as_ref();
        let is_any = self.classes.is_none();
        let classes = self.classes.as_deref().map(check_classes).transpose()?;
        let dataset = Dataset::from_scan(folders::scan(root, classes, &self.left_out)?);
        for (name, count) in dataset.class_names().iter().zip(dataset.counts()) {
            if is_any && count == 0 {
                return Err(dataset_error(root, dataset.empty_class(name)));
            }
        }
        dataset.warn();
        Ok(dataset)
    }

    /// Opens tar archives, as [`Dataset::open_tar`] and [`Dataset::open_tar_with_classes`] do.
    ///
    /// # Errors
    /// As for those.
    pub fn open_tar<P: AsRef<Path>>(self, archives: &[P]) -> Result<Dataset> {
        let classes = self.classes.as_deref().map(check_classes).transpose()?;
        let dataset = Dataset::from_scan(tar::scan(archives, classes, &self.left_out)?);
        dataset.warn();
        Ok(dataset)
    }
}
