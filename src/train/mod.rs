//! Batches + model → trained model.
