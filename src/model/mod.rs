//! Batches → logits.

mod backbone;
mod conv_base;
mod parameter;
mod vgg;
mod weights;

pub use backbone::{Backbone, BlockInfo, LayerInfo, Mode};
pub use conv_base::ConvBase;
pub use vgg::{Block, Vgg};
pub use weights::Weights;
