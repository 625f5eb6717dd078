//! Where the training loop's batches come from: pictures, or what frozen blocks made of them.

use super::features::{FeatureCache, Features, Storage};
use crate::data::{Batch, Loader};
use crate::model::{Backbone, Classifier};
use crate::{Error, Result};

/// The memory in bytes that validation features may take without being asked for.
const VALIDATION_BUDGET: usize = 256 << 20;

/// A dataset's batches, epoch by epoch.
#[derive(Debug)]
pub(super) enum Source {
    /// Pictures, for the whole model.
    Pictures(Loader),
    /// Features in place of images, for what comes after the leading frozen blocks.
    Features(Features),
}

impl Source {
    /// Training batches: features if there is a cache for them.
    pub(super) fn training<B: Backbone>(
        model: &Classifier<B>,
        loader: Loader,
        cache: Option<&FeatureCache>,
    ) -> Result<Self> {
        let Some(cache) = cache else {
            return Ok(Self::Pictures(loader));
        };
        if model.base().frozen_prefix() == 0 {
            return Err(Error::option(
                "feature_cache",
                "asked for on a base whose first block is trainable",
                "a base whose first block is frozen, or one or more after it too",
            ));
        }
        Ok(Self::Features(Features::training(model, loader, cache)?))
    }

    /// Validation batches: features where the leading blocks are frozen, as far as there is room, or in the folder of
    /// the cache for training.
    pub(super) fn validation<B: Backbone>(
        model: &Classifier<B>,
        loader: Loader,
        cache: Option<&FeatureCache>,
    ) -> Result<Self> {
        if model.base().frozen_prefix() == 0 {
            return Ok(Self::Pictures(loader));
        }
        let storage = cache.map_or(&Storage::Memory, FeatureCache::storage);
        let features = Features::validation(model, loader.clone(), storage)?;
        if *storage == Storage::Memory && features.bytes() > VALIDATION_BUDGET {
            return Ok(Self::Pictures(loader));
        }
        Ok(Self::Features(features))
    }

    /// The block that a batch's `images` are for.
    pub(super) fn first_block(&self) -> usize {
        match self {
            Self::Pictures(_) => 0,
            Self::Features(features) => features.blocks(),
        }
    }

    /// The number of batches in an epoch, or more if there are pictures that cannot be used.
    pub(super) fn batches(&self) -> usize {
        match self {
            Self::Pictures(loader) => loader.batches(),
            Self::Features(features) => features.served().batches(),
        }
    }

    /// Has ready what an epoch's batches are made of; to be called before [`epoch`](Self::epoch).
    pub(super) fn prepare<B: Backbone>(&mut self, model: &Classifier<B>, epoch: u64) -> Result<()> {
        match self {
            Self::Pictures(_) => Ok(()),
            Self::Features(features) => features.prepare(model, epoch),
        }
    }

    /// The batches of one epoch.
    pub(super) fn epoch(&self, epoch: u64) -> Box<dyn Iterator<Item = Result<Batch>> + '_> {
        match self {
            Self::Pictures(loader) => Box::new(loader.epoch(epoch)),
            Self::Features(features) => Box::new(features.epoch(epoch)),
        }
    }
}
