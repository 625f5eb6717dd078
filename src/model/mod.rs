//! Batches → logits.

pub mod arch;
mod backbone;
mod base;
mod check;
mod classifier;
mod familiarity;
mod grad_cam;
mod head;
pub(crate) mod names;
mod parameter;
mod picture;
mod predict;
mod prediction;
mod saved;
mod summary;
mod weights;

pub use arch::{Arch, BaseInfo, Block, Top1, Vgg, bases};
pub use backbone::{
    Backbone, BlockInfo, BlockParameter, GradientListener, LayerInfo, Mode, SavedBackbone,
};
pub use base::ConvBase;
pub use check::check_backbone;
pub use classifier::Classifier;
pub(crate) use familiarity::Familiarity;
pub use grad_cam::GradCam;
pub use head::{Dropout, Head, HeadLayers, Pooling};
pub use picture::Picture;
pub use prediction::Prediction;
pub use summary::Summary;
#[cfg(feature = "hub")]
#[cfg_attr(docsrs, doc(cfg(feature = "hub")))]
pub use weights::Hub;
pub use weights::Weights;
pub(crate) use weights::{WeightFile, torch_names};
