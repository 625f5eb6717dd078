//! Pictures on disk → batches.

mod ahead;
mod augment;
mod decode;
mod directory;
mod loader;
mod preprocess;
mod shards;

pub use augment::{AugmentParams, Augmenter, FillMode};
pub use decode::{Resize, decode_bytes, decode_file, resize, to_rgb};
pub use directory::{DirectoryDataset, Item, Policy, Problem};
pub(crate) use loader::to_batch;
pub use loader::{Batch, Loader};
pub use preprocess::Preprocess;
