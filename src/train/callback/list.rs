//! The callbacks of a trainer.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::hooks::{Callback, CallbackState, lock};
use crate::error::{Error, Result};

/// Callbacks in the order they are called. Clones share them.
#[derive(Clone, Default)]
pub(in crate::train) struct Callbacks(Vec<Arc<Mutex<dyn Callback>>>);

impl Callbacks {
    pub(in crate::train) fn push(&mut self, callback: impl Callback + 'static) {
        self.0.push(Arc::new(Mutex::new(callback)));
    }

    /// Calls each one; the first error ends it.
    pub(in crate::train) fn each(
        &self,
        mut call: impl FnMut(&mut dyn Callback) -> Result<()>,
    ) -> Result<()> {
        self.0
            .iter()
            .try_for_each(|callback| call(&mut *lock(callback)))
    }

    pub(in crate::train) fn check(&self) -> Result<()> {
        self.each(|callback| callback.check())?;
        let mut files = HashSet::new();
        self.each(|callback| match callback.file() {
            Some(path) if !files.insert(place(&path)) => Err(Error::option(
                "callback",
                format!("two that keep {}", path.display()),
                "a file for each",
            )),
            _ => Ok(()),
        })
    }

    /// Those that change the run, with their settings.
    pub(in crate::train) fn settings(&self) -> Vec<Value> {
        self.0
            .iter()
            .filter_map(|callback| lock(callback).settings())
            .collect()
    }

    /// The state of those that change the run.
    pub(in crate::train) fn states(&self) -> Result<Vec<CallbackState>> {
        let callbacks = self.0.iter().map(|callback| lock(callback));
        let kept = callbacks.filter(|callback| callback.settings().is_some());
        kept.map(|callback| callback.state()).collect()
    }

    /// Gives each its state back, in the order of [`states`](Self::states).
    pub(in crate::train) fn restore(&self, states: Vec<CallbackState>) -> Result<()> {
        let (found, expected) = (states.len(), self.settings().len());
        if found != expected {
            return Err(Error::mismatch("callback states", found, expected));
        }
        let mut states = states.into_iter();
        self.each(|callback| match callback.settings() {
            Some(_) => states
                .next()
                .map_or(Ok(()), |state| callback.restore(state)),
            None => Ok(()),
        })
    }
}

/// Where a file is, however it is named, there or not.
fn place(path: &Path) -> PathBuf {
    if let Ok(place) = path.canonicalize() {
        return place;
    }
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    match (folder.canonicalize(), path.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

impl fmt::Debug for Callbacks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} callbacks", self.0.len())
    }
}
