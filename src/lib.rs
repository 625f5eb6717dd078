//! Transfer learning for pictures, on candle.
#![warn(missing_docs, unreachable_pub)]
#![deny(unsafe_code)]

pub mod data;
mod error;
pub mod kernels;
pub mod model;
mod random;
pub mod train;

pub use data::{Batch, DirectoryDataset, Loader, Policy, Preprocess, Problem, Resize};
pub use error::{Error, Result};
pub use model::{Block, ConvBase, Vgg, Weights};
