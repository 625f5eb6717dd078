//! A trained classifier → what other frameworks read: ONNX, and PyTorch's names.

#[cfg(feature = "onnx")]
mod onnx;
mod torch;

#[cfg(feature = "onnx")]
#[cfg_attr(docsrs, doc(cfg(feature = "onnx")))]
pub use onnx::{Layout, Onnx, Pixels};
pub use torch::TorchNames;
