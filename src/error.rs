//! One error type for the whole crate: each variant names the file, tensor or option at fault.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::history::History;
use crate::words::count;

/// What lies behind an [`Error`]: another error, or a sentence where there is none.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, grouped by who can mend it.
///
/// `{:?}` is the same sentence as `{}`: it is what a `main` that returns a [`Result`] prints.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Options: the caller's code.
    /// An option outside its allowed range.
    #[error("option `{option}` is {found}; allowed: {allowed}")]
    InvalidOption {
        /// The option's name, as the caller typed it.
        option: &'static str,
        /// The value found.
        found: String,
        /// The allowed range, in words.
        allowed: String,
    },
    /// Two things that belong together do not fit, such as a dataset's classes and a model's.
    #[error("{what}: found {found}; expected {expected}")]
    Mismatch {
        /// What was handed in.
        what: String,
        /// What it is.
        found: String,
        /// What it has to be to fit.
        expected: String,
    },
    /// A tensor of the wrong shape was handed in.
    #[error("{what}: expected shape {expected}, found {found:?}")]
    Shape {
        /// What the tensor is.
        what: String,
        /// The shape expected, in words such as `(N, 3, H, W)`.
        expected: String,
        /// The shape found.
        found: Vec<usize>,
    },

    // Pictures on disk: the user's data.
    /// A file or folder could not be read or written.
    #[error("{path}: {source}", path = shown(path))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// What should be written to a file, or was read from it, does not have the form it needs, such as JSON.
    #[error("{path}: {what}: {source}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was to be written or read.
        what: &'static str,
        /// What the format's library said.
        source: Cause,
    },
    /// A picture that cannot be used, under the policy `Fail` or when one picture was asked for.
    #[error("picture {path}: {source}", path = path.display())]
    Picture {
        /// The picture's file, or `<bytes>` for one in memory.
        path: PathBuf,
        /// Why it cannot be used.
        source: Cause,
    },
    /// A folder of class folders that cannot be trained on as it is.
    #[error("dataset {path}: {source}", path = path.display())]
    Dataset {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        source: Cause,
    },

    // Weight and model files.
    /// A weight file without a tensor that the base needs.
    #[error("weights {path}: tensor `{tensor}` is missing{hint}", path = path.display())]
    MissingTensor {
        /// The weight file.
        path: PathBuf,
        /// The tensor, by every name that was looked for.
        tensor: String,
        /// What the file may be instead, after a colon; empty where nothing is known.
        hint: String,
    },
    /// A weight file with a tensor of another shape than the base needs.
    #[error("weights {path}: tensor `{tensor}` has shape {found:?}, expected {expected:?}", path = path.display())]
    TensorShape {
        /// The weight file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The shape the base needs.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A weight file that is damaged, truncated or not a safetensors file.
    #[error("weights {path}: {source}", path = path.display())]
    WeightFile {
        /// The weight file.
        path: PathBuf,
        /// What is wrong with it.
        source: Cause,
    },
    /// A file that is not a saved classifier, or one this version cannot read.
    #[error("model {path}: {source}", path = path.display())]
    ModelFile {
        /// The model file.
        path: PathBuf,
        /// What is wrong with it.
        source: Cause,
    },
    /// The model hub refused, stalled or sent something unusable.
    #[error("hub: {repository}, file {file}: {source}")]
    Hub {
        /// The repository asked, with its revision.
        repository: String,
        /// The file asked for.
        file: String,
        /// What happened.
        source: Cause,
    },

    // Training.
    /// A loss or a weight became NaN or infinite in training.
    #[error("{tensor} became {value} in epoch {epoch}, step {step}: try a lower learning rate")]
    Diverged {
        /// Epoch, counted from 1.
        epoch: usize,
        /// Step within the epoch, counted from 1.
        step: usize,
        /// The first tensor that did: `the loss`, `the logits`, `the validation loss`, or a weight by its name in
        /// files.
        tensor: String,
        /// NaN or infinite.
        value: f32,
    },
    /// A number that is NaN or infinite where none may be: in a file to be written or read, in a picture's features,
    /// in a classifier's answer.
    #[error("{what}: {value} is no finite number")]
    NotFinite {
        /// Where it was found.
        what: String,
        /// NaN or infinite.
        value: f32,
    },
    /// A run that ended with an error after it had finished some epochs: what they reached comes along, and the model
    /// is as the run left it. With [`EarlyStopping`](crate::EarlyStopping) it has the best epoch's weights.
    #[error("{cause} (after {}, whose history comes with this error)", count(history.epochs.len(), "finished epoch"))]
    Interrupted {
        /// The finished epochs.
        history: Box<History>,
        /// What ended the run.
        #[source]
        cause: Box<Error>,
    },
    /// A run of several ranks that ended because one of them did, or cannot be reached: see
    /// [`Communicator`](crate::train::communicator::Communicator).
    #[error("{}{reason}", rank.map_or("the other ranks: ".to_owned(), |rank| format!("rank {rank}: ")))]
    Rank {
        /// Which rank; none where it is not known.
        rank: Option<usize>,
        /// What became of it.
        reason: String,
    },
    /// A run that cannot go on from a checkpoint.
    #[error("checkpoints {path}: {source}", path = path.display())]
    Checkpoint {
        /// The folder of checkpoints.
        path: PathBuf,
        /// What does not fit, with the option or the tensor.
        source: Cause,
    },

    /// A folder of results that cannot be written to as it is.
    #[error("run {path}: {source}", path = path.display())]
    Run {
        /// The folder.
        path: PathBuf,
        /// What is there, and the ways on.
        source: Cause,
    },

    /// An error of candle's.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

/// A sentence on what was done when an error came, with that error as its source.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {source}")]
pub(crate) struct While {
    doing: String,
    source: Cause,
}

impl While {
    pub(crate) fn new(doing: impl Into<String>, source: impl Into<Cause>) -> Self {
        Self {
            doing: doing.into(),
            source: source.into(),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A path as it is shown where nothing else stands before it.
fn shown(path: &Path) -> std::path::Display<'_> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("an empty path"),
        false => path,
    };
    path.display()
}

impl Error {
    /// What ended a run: of [`Error::Interrupted`] its cause, of any other error that one itself.
    pub fn cause(&self) -> &Self {
        match self {
            Self::Interrupted { cause, .. } => cause.cause(),
            other => other,
        }
    }

    /// The finished epochs of a run that ended with this error; none where no epoch was finished.
    pub fn history(&self) -> Option<&History> {
        match self {
            Self::Interrupted { history, .. } => Some(history),
            _ => None,
        }
    }

    /// An [`Error::Io`] closure for `map_err`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// An [`Error::Format`] closure for `map_err`: `what` could not be written to or read from `path`.
    pub(crate) fn format<E: Into<Cause>>(
        what: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Format {
            path: path.to_owned(),
            what,
            source: source.into(),
        }
    }

    /// An [`Error::Mismatch`].
    pub(crate) fn mismatch(
        what: impl Into<String>,
        found: impl std::fmt::Display,
        expected: impl std::fmt::Display,
    ) -> Self {
        Self::Mismatch {
            what: what.into(),
            found: found.to_string(),
            expected: expected.to_string(),
        }
    }

    /// An [`Error::InvalidOption`] for a value outside its range.
    pub(crate) fn option(
        option: &'static str,
        found: impl std::fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self::InvalidOption {
            option,
            found: found.to_string(),
            allowed: allowed.into(),
        }
    }
}
