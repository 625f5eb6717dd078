//! The base that comes with the crate.

/// Where it stands, for errors.
pub(super) const NAME: &str = "compact.safetensors";

/// A safetensors file: f16 weights named as Keras's layers, with what they were trained on in its metadata.
pub(super) const BASE: &[u8] = include_bytes!("compact.safetensors");
