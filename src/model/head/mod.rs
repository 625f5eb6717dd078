//! The dense layers on top of a base: from feature maps to logits.

mod config;
mod convert;
mod dropout;
mod fresh;
mod layers;
mod linear;

pub use config::{Head, Pooling};
pub use dropout::Dropout;
pub use layers::HeadLayers;
