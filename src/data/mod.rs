//! Pictures → batches: from class folders, tar archives or memory to tensors that a base takes.

mod augment;
mod batch;
mod dataset;
mod decode;
mod loader;
mod prefetch;
mod preprocess;
mod resample;
mod resize;

pub use self::augment::{AugmentParams, Augmenter, FillMode};
pub use self::batch::Batch;
pub(crate) use self::batch::to_batch;
pub(crate) use self::dataset::lookalike;
pub use self::dataset::{
    Dataset, DatasetOptions, DirectoryDataset, Item, Policy, Problem, pictures,
};
pub use self::decode::{Decoder, decode_bytes, decode_file, to_rgb};
pub use self::loader::Loader;
pub use self::preprocess::Preprocess;
pub use self::resize::{Resize, resize};
