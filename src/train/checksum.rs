//! What tells a model's weights from others.

use std::collections::BTreeSet;

use candle_core::Tensor;
use safetensors::View as _;

/// The checksum of those weights whose names are not given.
pub(super) fn checksum_without(weights: &[(String, Tensor)], names: &BTreeSet<String>) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    for (name, tensor) in weights {
        if !names.contains(name) {
            sum.update(name.as_bytes());
            sum.update(&tensor.data());
        }
    }
    sum.finalize()
}
