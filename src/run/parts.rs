//! Where the pictures to train on, to validate on and to test on are, in whatever layout they come.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::data::Dataset;
use crate::error::{Error, Result};

/// What is held out of each class where there is no folder for it, and by which seed it is drawn: whatever the run's
/// seed, runs on one folder are tested on the same pictures.
const HELD_OUT: f64 = 0.2;
const SPLIT_SEED: u64 = 1;

/// What people call the folders of the three parts.
const TRAIN: [&str; 2] = ["train", "training"];
const VALIDATION: [&str; 4] = ["validation", "valid", "val", "dev"];
const TEST: [&str; 3] = ["test", "testing", "holdout"];

const LAYOUTS: &str = "one of these layouts is needed:\n  \
    PICTURES/CLASS/picture.jpg, …        a folder for each class; parts are held out to validate and test on\n  \
    PICTURES/train/CLASS/picture.jpg, …  and, if there are any, PICTURES/validation/CLASS, PICTURES/test/CLASS";

/// The pictures of a run, in up to three parts with the same classes.
///
/// ```
/// use headstart::run::Parts;
///
/// # let root = tempfile::tempdir().unwrap();
/// # for class in ["cat", "dog"] {
/// #     std::fs::create_dir(root.path().join(class)).unwrap();
/// #     for name in 0..25 {
/// #         std::fs::write(root.path().join(class).join(format!("{name}.jpg")), "").unwrap();
/// #     }
/// # }
/// // cat/0.jpg … cat/24.jpg, dog/0.jpg … dog/24.jpg
/// let parts = Parts::open(root.path(), None, None)?;
/// assert_eq!(parts.train.counts(), [16, 16]);
/// assert_eq!(parts.validation.counts(), [4, 4]);
/// assert_eq!(parts.test.unwrap().counts(), [5, 5]);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Parts {
    /// Those that are trained on.
    pub train: Dataset,
    /// Those that each epoch is validated on.
    pub validation: Dataset,
    /// Those that nothing is decided by; none where there is a folder to train on and none to test on.
    pub test: Option<Dataset>,
    /// Where they were found, in words.
    found: String,
}

impl Parts {
    /// Finds the parts: `pictures` holds folders for the parts (`train`, and `validation` or `val`, and `test`), or one
    /// folder for each class; each of them may be a tar archive of class folders.
    ///
    /// Where there is no folder to validate on, a fifth of each class is held out of those to train on. Where class
    /// folders lie in `pictures` itself, a fifth is held out to test on before that. Which pictures they are depends on
    /// the folder alone.
    ///
    /// # Errors
    /// [`Error::Dataset`] for another layout, naming those there are, and where no class has two pictures of which one
    /// could be held out; those of [`Dataset::open`].
    pub fn open(pictures: &Path, validation: Option<&Path>, test: Option<&Path>) -> Result<Self> {
        let below = |names: &[&str]| names.iter().find_map(|name| part_below(pictures, name));
        let (validation, test) = (validation.map(Path::to_owned), test.map(Path::to_owned));
        match below(&TRAIN) {
            Some(train) => {
                let (validation, test) = (validation.or(below(&VALIDATION)), test.or(below(&TEST)));
                Self::of(open(&train)?, validation, test, false)
            }
            None => {
                let all = open(pictures).map_err(|error| with_layouts(pictures, error))?;
                Self::of(all, validation, test, true)
            }
        }
    }

    /// All pictures without holding any out: those to train on, and by name what other parts there are folders for.
    ///
    /// # Errors
    /// [`Error::Dataset`] for another layout, naming those there are; those of [`Dataset::open`].
    pub fn all(pictures: &Path) -> Result<(Dataset, Vec<(&'static str, Dataset)>)> {
        let below = |names: &[&str]| names.iter().find_map(|name| part_below(pictures, name));
        let Some(train) = below(&TRAIN) else {
            let all = open(pictures).map_err(|error| with_layouts(pictures, error))?;
            return Ok((all, Vec::new()));
        };
        let train = open(&train)?;
        let mut others = Vec::new();
        for (name, folder) in [("validation", below(&VALIDATION)), ("test", below(&TEST))] {
            if let Some(folder) = folder {
                others.push((name, open_with_classes(&folder, train.class_names())?));
            }
        }
        Ok((train, others))
    }

    /// The parts, as far as they have folders; the rest is held out of `train`, pictures to test on if `hold_out_test`.
    fn of(
        mut train: Dataset,
        validation: Option<PathBuf>,
        test: Option<PathBuf>,
        hold_out_test: bool,
    ) -> Result<Self> {
        let classes = train.class_names().to_vec();
        let root = train.root().display().to_string();
        let mut found = vec![format!("pictures of {root}")];
        let test = match test {
            Some(path) => {
                found.push(format!("tested on {}", path.display()));
                Some(open_with_classes(&path, &classes)?)
            }
            None if hold_out_test => {
                let held_out;
                (train, held_out) = hold_out(&train)?;
                found.push("a fifth of each class is held out to test on".into());
                Some(held_out)
            }
            None => {
                found.push("there is no folder to test on".into());
                None
            }
        };
        let validation = match validation {
            Some(path) => {
                found.push(format!("validated on {}", path.display()));
                open_with_classes(&path, &classes)?
            }
            None => {
                let held_out;
                (train, held_out) = hold_out(&train)?;
                let rest = if hold_out_test && test.is_some() {
                    " of the rest"
                } else {
                    ""
                };
                found.push(format!("a fifth{rest} is held out to validate on"));
                held_out
            }
        };
        let found = found.join("; ");
        Ok(Self {
            train,
            validation,
            test,
            found,
        })
    }

    /// What the final figures are of, and its name: pictures to test on, or else those to validate on, by which choices
    /// may have been made.
    pub fn judged(&self) -> (&'static str, &Dataset) {
        match &self.test {
            Some(test) => ("test", test),
            None => ("validation", &self.validation),
        }
    }
}

impl fmt::Display for Parts {
    /// How many pictures of which classes there are, and where they were found.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let test = self.test.as_ref().map_or(0, Dataset::len);
        let names = self.train.class_names();
        const NAMED: usize = 10;
        let more = names.len().saturating_sub(NAMED);
        let shown = names[..names.len() - more].join(", ");
        write!(
            f,
            "{} training, {} validation and {test} test pictures of {shown}",
            self.train.len(),
            self.validation.len(),
        )?;
        if more > 0 {
            write!(f, " and {more} classes more")?;
        }
        write!(f, "\n({})", self.found)
    }
}

/// The folder, or the archive, of one part.
fn part_below(pictures: &Path, name: &str) -> Option<PathBuf> {
    let folder = pictures.join(name);
    let archive = pictures.join(format!("{name}.tar"));
    [folder, archive]
        .into_iter()
        .find(|path| path.exists() && !is_class(path))
}

/// Whether a folder called like a part is a class: it holds pictures, and no folders.
fn is_class(path: &Path) -> bool {
    let mut entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    path.is_dir() && !entries.any(|entry| entry.path().is_dir())
}

fn open(path: &Path) -> Result<Dataset> {
    match path.is_file() {
        true => Dataset::open_tar(&[path]),
        false => Dataset::open(path),
    }
}

pub(super) fn open_with_classes(path: &Path, classes: &[String]) -> Result<Dataset> {
    match path.is_file() {
        true => Dataset::open_tar_with_classes(&[path], classes),
        false => Dataset::open_with_classes(path, classes),
    }
}

fn hold_out(train: &Dataset) -> Result<(Dataset, Dataset)> {
    let (rest, held_out) = train.split(HELD_OUT, SPLIT_SEED)?;
    if held_out.is_empty() {
        return Err(Error::Dataset {
            path: train.root().to_owned(),
            source: "no class has two pictures, of which one could be held out".into(),
        });
    }
    Ok((rest, held_out))
}

/// Adds to an error which layouts there are.
fn with_layouts(pictures: &Path, error: Error) -> Error {
    match error {
        Error::Dataset { path, source } if path == pictures => Error::Dataset {
            path,
            source: format!("{source}; {LAYOUTS}").into(),
        },
        error => error,
    }
}
