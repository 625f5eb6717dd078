//! A candle tensor's numbers as a slice.

use std::ops::Deref;

use candle_core::{Layout, Storage, Tensor};

/// A CPU tensor's numbers, held for reading.
pub(crate) struct Values<'a, Guard>(Guard, &'a Layout);

/// Holds a tensor's numbers for reading.
pub(crate) fn values(tensor: &Tensor) -> Values<'_, impl Deref<Target = Storage>> {
    let (storage, layout) = tensor.storage_and_layout();
    Values(storage, layout)
}

impl<Guard: Deref<Target = Storage>> Values<'_, Guard> {
    /// The numbers, if the tensor is contiguous, of f32, and on the CPU.
    pub(crate) fn slice(&self) -> candle_core::Result<&[f32]> {
        match (&*self.0, self.1.contiguous_offsets()) {
            (Storage::Cpu(storage), Some((start, end))) => Ok(&storage.as_slice()?[start..end]),
            _ => candle_core::bail!("a contiguous tensor on the CPU is needed"),
        }
    }
}
