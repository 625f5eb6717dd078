//! Where batches come from: pictures, or what the leading frozen blocks made of them.

use std::ops::ControlFlow;

use super::features::{FeatureCache, Features, Storage};
use crate::data::{Augmenter, Batch, Dataset, Loader};
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};

/// The memory in bytes that validation features may take without being asked for.
const VALIDATION_BUDGET: usize = 256 << 20;

/// The batches of a dataset, epoch by epoch.
pub(super) struct BatchSource {
    loader: Loader,
    features: Option<Features>,
}

impl BatchSource {
    /// The pictures as they are, in the dataset's order, as the model takes them.
    pub(super) fn plain<B: Backbone>(
        model: &Classifier<B>,
        dataset: &Dataset,
        batch_size: usize,
    ) -> Self {
        let (height, width) = model.size();
        let loader = Loader::new(dataset, height, width)
            .batch_size(batch_size)
            .resize(model.resize_filter())
            .preprocess(model.preprocess())
            .device(&model.base().device());
        Self {
            loader,
            features: None,
        }
    }

    /// A part of each batch: that of a rank among so many.
    pub(super) fn share(self, rank: usize, ranks: usize) -> Self {
        let loader = self.loader.share(rank, ranks);
        Self { loader, ..self }
    }

    /// In a fresh order each epoch, augmented if there is an augmenter.
    pub(super) fn varied(self, seed: u64, augmenter: Option<&Augmenter>) -> Self {
        let loader = self.loader.shuffle(seed);
        let loader = match augmenter {
            Some(augmenter) => loader.augment(augmenter.clone(), seed),
            None => loader,
        };
        Self { loader, ..self }
    }

    /// Features in place of pictures, for so many epochs of training.
    pub(super) fn cached<B: Backbone>(
        self,
        model: &Classifier<B>,
        cache: &FeatureCache,
        epochs: usize,
    ) -> Result<Self> {
        if model.base().frozen_prefix() == 0 {
            return Err(Error::mismatch(
                "`feature_cache`",
                "a base whose first block is trainable",
                "one with at least its first block frozen",
            ));
        }
        let features = Features::training(model, &self.loader, cache, epochs)?;
        Ok(Self {
            features: Some(features),
            ..self
        })
    }

    /// Features in place of pictures, for validation: where the leading blocks are frozen, as far as there is room,
    /// or on the disk if the cache for training is there.
    pub(super) fn cached_for_validation<B: Backbone>(
        self,
        model: &Classifier<B>,
        cache: Option<&FeatureCache>,
    ) -> Result<Self> {
        if model.base().frozen_prefix() == 0 || self.loader.dataset().is_empty() {
            return Ok(self);
        }
        let storage = cache.map_or(&Storage::Memory, FeatureCache::storage);
        let features = Features::validation(model, &self.loader, storage)?;
        if *storage == Storage::Memory && features.bytes() > VALIDATION_BUDGET {
            return Ok(self);
        }
        Ok(Self {
            features: Some(features),
            ..self
        })
    }

    /// An upper bound on the batches of an epoch: those whose pictures cannot be used are missing.
    pub(super) fn batches(&self) -> usize {
        self.loader.batches()
    }

    /// Computes the features an epoch needs, if they are not there: what [`epoch`](Self::epoch) would do itself, at a
    /// time of the caller's choice.
    ///
    /// It breaks off when `stop` says so.
    pub(super) fn prepare<B: Backbone>(
        &self,
        model: &Classifier<B>,
        epoch: usize,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<ControlFlow<()>> {
        match &self.features {
            Some(features) => features.prepare(model, epoch as u64, stop),
            None => Ok(ControlFlow::Continue(())),
        }
    }

    /// Looks at every picture that an epoch will read, where all have room in memory and need not be read again, so
    /// that it is known which can be used.
    pub(super) fn look(&self, stop: &dyn Fn() -> bool) -> Result<ControlFlow<()>> {
        match &self.features {
            Some(_) => Ok(ControlFlow::Continue(())),
            None => self.loader.look(stop),
        }
    }

    /// The batches of an epoch.
    pub(super) fn epoch<'a, B: Backbone>(
        &'a self,
        model: &Classifier<B>,
        epoch: usize,
    ) -> impl Iterator<Item = Result<Batch>> + 'a {
        let shares = self.shares(model, epoch);
        shares.filter_map(Result::transpose)
    }

    /// The [shares](Self::share) of an epoch's batches; `None` where there is nothing to do.
    pub(super) fn shares<'a, B: Backbone>(
        &'a self,
        model: &Classifier<B>,
        epoch: usize,
    ) -> Box<dyn Iterator<Item = Result<Option<Batch>>> + 'a> {
        let Some(features) = &self.features else {
            return Box::new(self.loader.shares(epoch as u64));
        };
        match features.prepare(model, epoch as u64, &|| false) {
            Ok(_) => Box::new(features.shares(&self.loader, epoch as u64)),
            Err(error) => Box::new(std::iter::once(Err(error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::model::{Block, ConvBase, Head, Vgg, Weights};

    /// A model whose frozen first block makes 4 MiB of a picture: one channel of 1024 × 1024 numbers.
    fn model() -> Classifier {
        let vgg = Vgg::Vgg11.width(1.0 / 64.0).unwrap();
        let base = ConvBase::new(vgg, Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
        let base = base.frozen().unfreeze_from(Block::Conv2).unwrap();
        Classifier::new(base, Head::sigmoid(), &["a", "b"])
            .unwrap()
            .input_size(2048, 2048)
            .unwrap()
    }

    #[test]
    fn validation_features_are_kept_in_256_mib_and_no_more() {
        let model = model();
        let folder = tempfile::tempdir().unwrap();
        let fill = |pictures: usize| {
            for class in ["a", "b"] {
                std::fs::create_dir_all(folder.path().join(class)).unwrap();
                for number in 0..pictures / 2 {
                    // None is read.
                    std::fs::write(folder.path().join(format!("{class}/{number}.png")), b"")
                        .unwrap();
                }
            }
            Dataset::open(folder.path()).unwrap()
        };
        for (pictures, kept) in [(64, true), (66, false)] {
            let source = BatchSource::plain(&model, &fill(pictures), 8);
            let source = source.cached_for_validation(&model, None).unwrap();
            assert_eq!(source.features.is_some(), kept, "{pictures} pictures");
        }
        // On the disk there is room.
        let cache = FeatureCache::on_disk(folder.path().join("cache"));
        let source = BatchSource::plain(&model, &fill(66), 8);
        let source = source.cached_for_validation(&model, Some(&cache)).unwrap();
        assert!(source.features.is_some());
    }

    /// A hundred views of 256 MiB: more than the machine has, and none of the pictures can be read.
    #[test]
    #[cfg(target_os = "linux")]
    fn features_that_will_not_fit_are_refused_before_a_picture_is_read() {
        let model = model();
        let folder = tempfile::tempdir().unwrap();
        let write = |number: usize| {
            let class = folder.path().join(["a", "b"][number % 2]);
            std::fs::create_dir_all(&class).unwrap();
            std::fs::write(class.join(format!("{number}.png")), b"").unwrap();
        };
        (0..64).for_each(write);
        let dataset = Dataset::open(folder.path()).unwrap();
        let cache = FeatureCache::in_memory().views(1_000);
        let prepared = |epochs: usize| {
            let source = BatchSource::plain(&model, &dataset, 8);
            let source = source.varied(1, Some(&Augmenter::notebook()));
            let source = source.cached(&model, &cache, epochs).unwrap();
            source.prepare(&model, 1, &|| true).map(|_| ())
        };
        let error = prepared(1_000_000).unwrap_err().to_string();
        for said in ["`feature_cache`", "268435 MB", "on_disk", "views"] {
            assert!(error.contains(said), "{error}");
        }
        assert!(dataset.problems().is_empty(), "no picture was read");
        // Two epochs ask for two views.
        prepared(2).unwrap();
    }
}
