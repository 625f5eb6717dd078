//! Where batches come from, and how they enter the model.

use candle_core::Tensor;

use crate::data::{Batch, Loader};
use crate::model::{Backbone, Classifier, Dropout};
use crate::{Augmenter, DirectoryDataset, Result};

/// The batches of a dataset, epoch by epoch.
pub(super) struct Source {
    loader: Loader,
}

impl Source {
    /// The pictures as they are, in the dataset's order, as the model takes them.
    pub(super) fn plain<B: Backbone>(
        model: &Classifier<B>,
        dataset: &DirectoryDataset,
        batch_size: usize,
    ) -> Self {
        let (height, width) = model.size();
        let loader = Loader::new(dataset, height, width)
            .batch_size(batch_size)
            .resize(model.resize_filter())
            .preprocess(model.preprocess())
            .device(&model.base().device());
        Self { loader }
    }

    /// In a fresh order each epoch, augmented if there is an augmenter.
    pub(super) fn varied(self, seed: u64, augmenter: Option<&Augmenter>) -> Self {
        let loader = self.loader.shuffle(seed);
        let loader = match augmenter {
            Some(augmenter) => loader.augment(augmenter.clone(), seed),
            None => loader,
        };
        Self { loader }
    }

    /// How many batches an epoch has.
    pub(super) fn batches(&self) -> usize {
        self.loader.batches()
    }

    pub(super) fn epoch(&self, epoch: usize) -> impl Iterator<Item = Result<Batch>> {
        self.loader.epoch(epoch as u64)
    }

    /// Logits of a batch with a graph, for training.
    #[expect(clippy::unused_self, reason = "the source knows what its batches hold")]
    pub(super) fn forward_train<B: Backbone>(
        &self,
        model: &Classifier<B>,
        batch: &Batch,
        dropout: &Dropout<'_>,
    ) -> Result<Tensor> {
        model.forward_train(&batch.images, dropout)
    }

    /// Logits of a batch, for use.
    #[expect(clippy::unused_self, reason = "the source knows what its batches hold")]
    pub(super) fn forward<B: Backbone>(
        &self,
        model: &Classifier<B>,
        batch: &Batch,
    ) -> Result<Tensor> {
        model.forward(&batch.images)
    }
}
