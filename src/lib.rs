//! Transfer learning for pictures, on candle.
#![warn(missing_docs, unreachable_pub)]
#![deny(unsafe_code)]

mod atomic_file;
pub mod data;
mod error;
pub mod kernels;
pub mod model;
mod random;
pub mod train;

pub use data::{
    AugmentParams, Augmenter, Batch, DirectoryDataset, FillMode, Loader, Policy, Preprocess,
    Problem, Resize,
};
pub use error::{Error, Result};
pub use model::{
    Block, Classifier, ConvBase, Head, Mode, Pooling, Prediction, Summary, Vgg, Weights,
};
pub use train::{EpochRecord, Epsilon, Evaluation, History, Loss, RmsProp, Trainer};
