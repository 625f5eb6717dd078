//! What a classifier says of each picture of a dataset.

use crate::data::{Dataset, Loader};
use crate::error::Result;
use crate::model::{Backbone, Classifier};
use crate::{finite, transfer};

/// How many pictures are classified together.
pub(super) const BATCH: usize = 32;

/// The pictures as the classifier takes them, in the dataset's order, none kept.
pub(super) fn loader<B: Backbone>(model: &Classifier<B>, dataset: &Dataset) -> Loader {
    let (height, width) = model.size();
    Loader::new(dataset, height, width)
        .cache(0)
        .batch_size(BATCH)
        .resize(model.resize_filter())
        .preprocess(model.preprocess())
        .device(&model.base().device())
}

/// The id of each usable picture with its logits, one or K.
pub(super) fn logits<B: Backbone>(
    model: &Classifier<B>,
    dataset: &Dataset,
) -> Result<Vec<(u64, Vec<f32>)>> {
    let mut rows = Vec::with_capacity(dataset.len());
    for batch in loader(model, dataset).epoch(0) {
        let batch = batch?;
        let logits = model.forward(&batch.inputs)?;
        let numbers = transfer::read(&[&logits])?.concat();
        if let Some(value) = finite::first_not(&numbers) {
            return Err(model.not_finite("the logits".to_owned(), value));
        }
        let logits = transfer::rows(&numbers, logits.dim(1)?);
        rows.extend(batch.ids.into_iter().zip(logits));
    }
    Ok(rows)
}
