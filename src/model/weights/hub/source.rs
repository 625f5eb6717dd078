//! Which repository of the hub a base's weights are in, and what of it is in the cache.

use std::path::PathBuf;

use hf_hub::{CacheRepo, Repo, RepoType};

use super::{FILE, KEPT_FILE};
use crate::error::{Cause, Error, Result};
use crate::model::arch::{Arch, Pretrained};

/// A repository at a revision.
pub(super) struct Source {
    pub(super) repository: String,
    pub(super) revision: &'static str,
    pub(super) weights: Pretrained,
}

impl Source {
    pub(super) fn of(arch: &Arch) -> Result<Self> {
        let weights = arch.weights().ok_or_else(|| {
            let allowed =
                "a base of `bases()` with Weights::ImageNet: the hub has no weights of others";
            Error::option("base", format!("`{arch}`"), allowed)
        })?;
        Ok(Self {
            repository: weights.repository(),
            revision: weights.revision,
            weights: *weights,
        })
    }

    /// Whether the revision is a commit, which never changes, and not a branch.
    pub(super) fn is_pinned(&self) -> bool {
        self.revision.len() == 40
    }

    pub(super) fn repo(&self) -> Repo {
        Repo::with_revision(
            self.repository.clone(),
            RepoType::Model,
            self.revision.to_owned(),
        )
    }

    /// Our file, or the hub's own if another program fetched it whole.
    pub(super) fn cached(&self, cache: &CacheRepo) -> Option<PathBuf> {
        [KEPT_FILE, FILE].into_iter().find_map(|name| {
            let pinned = cache.pointer_path(self.revision).join(name);
            let named = pinned.is_file().then_some(pinned);
            named.or_else(|| cache.get(name))
        })
    }

    pub(super) fn error(&self, source: impl Into<Cause>) -> Error {
        Error::Hub {
            repository: format!("{}@{}", self.repository, self.revision),
            file: FILE.to_owned(),
            source: source.into(),
        }
    }
}
