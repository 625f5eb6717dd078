//! One error type for the whole crate: each variant names the file, tensor or option at fault.

use std::path::PathBuf;

/// `std::result::Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, grouped by who can mend it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // Options: the caller's code.
    /// An option outside its allowed range.
    #[error("option `{option}` is {found}; allowed: {allowed}")]
    Option {
        /// The option's name, as the caller typed it.
        option: &'static str,
        /// The value found.
        found: String,
        /// The allowed range, in words.
        allowed: String,
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
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A picture that cannot be used, under the policy `Fail` or when one picture was asked for.
    #[error("picture {path}: {reason}", path = path.display())]
    Picture {
        /// The picture's file, or `<bytes>` for one in memory.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// A folder of class folders that cannot be trained on as it is.
    #[error("dataset {path}: {reason}", path = path.display())]
    Dataset {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },

    // Weight and model files.
    /// A weight file without a tensor that the base needs.
    #[error("weights {file}: tensor `{tensor}` is missing", file = file.display())]
    MissingTensor {
        /// The weight file.
        file: PathBuf,
        /// The tensor, by every name that was looked for.
        tensor: String,
    },
    /// A weight file with a tensor of another shape than the base needs.
    #[error("weights {file}: tensor `{tensor}` has shape {found:?}, expected {expected:?}", file = file.display())]
    TensorShape {
        /// The weight file.
        file: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// The shape the base needs.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A weight file that is damaged, truncated or not a safetensors file.
    #[error("weights {file}: {reason}", file = file.display())]
    WeightFile {
        /// The weight file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file that is not a saved classifier, or one this version cannot read.
    #[error("model {file}: {reason}", file = file.display())]
    ModelFile {
        /// The model file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The model hub refused, stalled or sent something unusable.
    #[error("hub: {repository}, file {file}: {reason}")]
    Hub {
        /// The repository asked, with its revision.
        repository: String,
        /// The file asked for.
        file: String,
        /// What happened.
        reason: String,
    },

    // Training.
    /// The loss became NaN or infinite.
    #[error("the loss became {loss} in epoch {epoch}, step {step}: try a lower learning rate")]
    Diverged {
        /// Epoch, counted from 1.
        epoch: usize,
        /// Step within the epoch, counted from 1.
        step: usize,
        /// The loss: NaN or infinite.
        loss: f32,
    },
    /// A run that cannot go on from a checkpoint.
    #[error("checkpoints {folder}: {reason}", folder = folder.display())]
    Checkpoint {
        /// The folder of checkpoints.
        folder: PathBuf,
        /// What does not fit, with the option or the tensor.
        reason: String,
    },

    /// An error of candle's.
    #[error(transparent)]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// An [`Error::Io`] closure for `map_err`.
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// An [`Error::Option`] for a value outside its range.
    pub(crate) fn option(
        option: &'static str,
        found: impl std::fmt::Display,
        allowed: impl Into<String>,
    ) -> Self {
        Self::Option {
            option,
            found: found.to_string(),
            allowed: allowed.into(),
        }
    }
}
