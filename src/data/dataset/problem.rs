//! Pictures that cannot be used: what becomes of them, and what is known of them.

use std::collections::BTreeMap;
use std::error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Cause, Error};

/// What becomes of a picture that cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// It is left out and noted among the [problems](super::Dataset::problems). The default.
    #[default]
    Skip,
    /// It is an error.
    Fail,
}

/// A picture that was left out, or a folder that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file or folder, as [`Item::path`](super::Item::path) names it.
    pub path: PathBuf,
    /// Why it cannot be used.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

/// Why a picture cannot be used: told each time that someone asks for it.
type Reason = Arc<dyn error::Error + Send + Sync>;

/// The problems found so far: reasons by path. Clones share one list.
#[derive(Clone, Debug)]
pub(super) struct Problems(Arc<Mutex<BTreeMap<PathBuf, Reason>>>);

impl Problems {
    pub(super) fn new(reasons: BTreeMap<PathBuf, Cause>) -> Self {
        let reasons = reasons.into_iter();
        let shared = reasons.map(|(path, reason)| (path, Reason::from(reason)));
        Self(Arc::new(Mutex::new(shared.collect())))
    }

    /// Notes why a picture cannot be used, if that is not known yet.
    pub(super) fn note(&self, path: &Path, error: Error) {
        let reason: Cause = match error {
            // These would name the picture once more.
            Error::Picture { source, .. } => source,
            Error::Io { source, .. } => source.into(),
            other => other.into(),
        };
        let mut reasons = self.lock();
        reasons.entry(path.to_owned()).or_insert(reason.into());
    }

    /// An error for a picture that is known to be unusable.
    pub(super) fn error(&self, path: &Path) -> Option<Error> {
        let reason = self.lock().get(path).cloned()?;
        Some(Error::Picture {
            path: path.to_owned(),
            source: Box::new(reason),
        })
    }

    /// An error for the first of them, by path.
    pub(super) fn first_error(&self) -> Option<Error> {
        let first = self.lock().keys().next().cloned();
        first.and_then(|path| self.error(&path))
    }

    /// All problems, by path.
    pub(super) fn list(&self) -> Vec<Problem> {
        let reasons = self.lock();
        let problems = reasons.iter().map(|(path, reason)| Problem {
            path: path.clone(),
            reason: reason.to_string(),
        });
        problems.collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Reason>> {
        // An insertion cannot be left half done, so a panic elsewhere does no harm.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
