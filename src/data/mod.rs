//! Pictures on disk → batches.

mod preprocess;

pub use preprocess::Preprocess;
