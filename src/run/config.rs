//! `config.toml`: all that a run depends on, in a file that repeats it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::settings::Settings;
use crate::error::{Error, Result};
use crate::{atomic_file, files};

/// The longest file that is read, in bytes; ours have some hundred.
const LONGEST: u64 = 1 << 20;

/// Where the pictures of a run are, and its settings, as `config.toml` holds them (feature `cli`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The pictures, in one of the layouts of [`Parts`](super::Parts).
    pub pictures: Option<PathBuf>,
    /// Those to validate on, where they are elsewhere.
    pub validation: Option<PathBuf>,
    /// Those to test on, where they are elsewhere.
    pub test: Option<PathBuf>,
    /// What is trained on what and how.
    pub settings: Settings,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = files::read(path, LONGEST).map_err(Error::io(path))?;
        toml::from_slice(&bytes).map_err(Error::format("settings as TOML", path))
    }

    /// Writes a file, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; [`Error::Format`] for a path that is no text.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let version = env!("CARGO_PKG_VERSION");
        let text = toml::to_string(self).map_err(Error::format("settings as TOML", path))?;
        atomic_file::write(path, |file| {
            write!(
                file,
                "# headstart {version}: `headstart train --config THIS` repeats the run.\n{text}"
            )
        })
    }
}
