//! Batches → logits.

mod backbone;
mod classifier;
mod conv_base;
mod head;
mod parameter;
mod saved;
mod summary;
mod vgg;
mod weights;

pub use backbone::{Backbone, BlockInfo, LayerInfo, Mode};
pub use classifier::{Classifier, Picture, Prediction};
pub use conv_base::ConvBase;
pub use head::{Dropout, Head, HeadLayers, Pooling};
pub use summary::Summary;
pub use vgg::{Block, Vgg};
#[cfg(feature = "hub")]
pub use weights::Hub;
pub use weights::Weights;
