//! Everything that decides what a run computes, for a resumed one to compare.

use serde_json::{Value, json};

use super::options::Options;
use super::phase::Phase;
use crate::data::Dataset;
use crate::model::{Backbone, Classifier};
use crate::train::features::FeatureCache;

/// The settings of a run about to begin.
pub(super) fn settings<B: Backbone>(
    options: &Options,
    phases: &[Phase],
    model: &Classifier<B>,
    train: &Dataset,
    validation: &Dataset,
) -> Value {
    let (height, width) = model.size();
    let blocks = model.base().blocks().into_iter();
    let trainable: Vec<String> = blocks
        .filter(|block| block.trainable)
        .map(|block| block.name)
        .collect();
    json!({
        "model": {
            "base": model.base().architecture(),
            "trainable": trainable,
            "head": model.head().config(),
            "classes": model.class_names(),
            "input_size": [height, width],
            "resize": model.resize_filter(),
            "preprocess": model.preprocess(),
        },
        "train": pictures(train),
        "validation": pictures(validation),
        "optimizer": options.optimizer.settings(),
        "batch_size": options.batch_size,
        "seed": options.seed,
        "augment": options.augmenter,
        "feature_views": options.feature_cache.as_ref().map(FeatureCache::count),
        "phases": phases,
        "block_learning_rates": options.block_learning_rates,
        "clip": options.clip,
        "label_smoothing": options.loss.label_smoothing,
        "class_weights": options.loss.class_weights,
        "callbacks": options.callbacks.settings(),
    })
}

/// What distinguishes one dataset from another without reading its pictures.
fn pictures(dataset: &Dataset) -> Value {
    let mut sum = crc32fast::Hasher::new();
    for item in dataset.items() {
        sum.update(&item.id.to_le_bytes());
        sum.update(&(item.label as u64).to_le_bytes());
    }
    json!({ "pictures": dataset.len(), "labels": sum.finalize() })
}
