//! Pictures on disk → batches.

mod decode;
mod directory;
mod loader;
mod preprocess;

pub use decode::{Resize, decode_bytes, decode_file, resize, to_rgb};
pub use directory::{DirectoryDataset, Item, Policy, Problem};
pub use loader::{Batch, Loader};
pub use preprocess::Preprocess;
