//! What happens to a convolution's sums on their way out.

use super::simd::{LANES, Simd};

#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// Added per output channel, from [`pad_bias`]; none for gradients.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) relu: bool,
    /// Keep the maximum of each 2×2 pixels alone.
    pub(super) pool: bool,
    /// For gradients: the output, of the written maps' shape, of the ReLU that is passed on the way back.
    pub(super) gate: Option<&'a [f32]>,
}

/// A bias padded with zeros to whole panels.
pub(super) fn pad_bias(bias: &[f32]) -> Vec<f32> {
    let mut padded = bias.to_vec();
    padded.resize(bias.len().next_multiple_of(2 * LANES), 0.0);
    padded
}

impl Epilogue<'_> {
    /// Panics unless the operands are there for so many channels and so many floats written.
    pub(super) fn check(&self, channels: usize, written: usize) {
        let padded = channels.next_multiple_of(LANES);
        assert!(self.bias.is_none_or(|bias| bias.len() >= padded));
        assert!(self.gate.is_none_or(|gate| gate.len() == written));
    }

    /// The bias of a channel block.
    ///
    /// # Safety
    /// Inside `vectorize`; the epilogue was checked for the block's channels.
    #[inline(always)]
    pub(super) unsafe fn bias<S: Simd>(&self, block: usize) -> S::V {
        // SAFETY: the caller's.
        unsafe {
            match self.bias {
                Some(bias) => S::load(bias.as_ptr().add(block * LANES)),
                None => S::splat(0.0),
            }
        }
    }

    /// What becomes of a sum that is written at `offset`.
    ///
    /// # Safety
    /// Inside `vectorize`; the epilogue was checked for maps that have this offset.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd>(&self, sum: S::V, bias: S::V, offset: usize) -> S::V {
        // SAFETY: the caller's.
        unsafe {
            let mut value = S::add(sum, bias);
            if self.relu {
                value = S::relu(value);
            }
            match self.gate {
                Some(gate) => S::gate(S::load(gate.as_ptr().add(offset)), value),
                None => value,
            }
        }
    }
}
