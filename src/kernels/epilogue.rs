//! What happens to a convolution's sums on their way out.

use super::activation::{Activation, with_constant};
use super::simd::{LANES, MAX_NR_VECTORS, Simd};

#[derive(Clone, Copy, Default)]
pub(super) struct Epilogue<'a> {
    /// Added per output channel, from [`pad_bias`]; none for gradients.
    pub(super) bias: Option<&'a [f32]>,
    /// Added number by number: maps of the written maps' shape.
    pub(super) residual: Option<&'a [f32]>,
    pub(super) activation: Activation,
    /// Keep only the maximum of each 2×2 pixels.
    pub(super) pool: bool,
    /// For gradients: what they pass on their way back.
    pub(super) gate: Option<Gate<'a>>,
}

/// A ReLU or ReLU6, as the gradient of its output passes it.
#[derive(Clone, Copy)]
pub(super) struct Gate<'a> {
    /// The output, of the written maps' shape.
    pub(super) maps: &'a [f32],
    /// Outputs at or above this let nothing pass; NaN if there is no such.
    pub(super) end: f32,
}

impl<'a> Gate<'a> {
    /// The gate that an activation is, whose output is `maps`; none of those that are no gate.
    pub(super) fn of(activation: Activation, maps: &'a [f32]) -> Option<Self> {
        let end = match activation {
            Activation::Relu => f32::NAN,
            Activation::Relu6 => 6.0,
            _ => return None,
        };
        Some(Self { maps, end })
    }
}

/// A bias padded with zeros to whole panels.
pub(super) fn pad_bias(bias: &[f32]) -> Vec<f32> {
    let mut padded = bias.to_vec();
    padded.resize(bias.len().next_multiple_of(MAX_NR_VECTORS * LANES), 0.0);
    padded
}

impl Epilogue<'_> {
    /// Panics unless the operands are there for so many channels and so many floats written.
    pub(super) fn check(&self, channels: usize, written: usize) {
        let padded = channels.next_multiple_of(LANES);
        assert!(self.bias.is_none_or(|bias| bias.len() >= padded));
        assert!(self.gate.is_none_or(|gate| gate.maps.len() == written));
        assert!(
            self.residual
                .is_none_or(|residual| residual.len() == written)
        );
        assert!(
            !(self.pool && self.residual.is_some()),
            "a sum is not pooled"
        );
    }

    /// The bias of a channel block.
    ///
    /// # Safety
    /// The block is one of the channels that [`check`](Self::check) was called for.
    #[inline(always)]
    pub(super) unsafe fn bias<S: Simd>(&self, simd: S, block: usize) -> S::V {
        match self.bias {
            // SAFETY: the bias has sixteen numbers for each block of the channels it was checked for.
            Some(bias) => unsafe { simd.load(bias.as_ptr().add(block * LANES)) },
            None => simd.splat(0.0),
        }
    }

    /// What [`finish`](Self::finish) keeps its values between: all that some activations are.
    #[inline(always)]
    fn bounds(&self) -> (f32, f32) {
        match self.activation {
            Activation::Relu => (0.0, f32::INFINITY),
            Activation::Relu6 => (0.0, 6.0),
            _ => (f32::NEG_INFINITY, f32::INFINITY),
        }
    }

    /// Whether [`settle`](Self::settle) has something left to do.
    pub(super) fn is_unsettled(&self) -> bool {
        let inline = [Activation::Identity, Activation::Relu, Activation::Relu6];
        !inline.contains(&self.activation)
    }

    /// Applies an activation that [`finish`](Self::finish) leaves out to numbers that it made: one of many
    /// instructions, which would be spelt out wherever sums are written. Blocks of sixteen.
    #[inline(always)]
    pub(super) fn settle<S: Simd>(&self, simd: S, values: &mut [f32]) {
        if !self.is_unsettled() {
            return;
        }
        let (values, _) = values.as_chunks_mut::<LANES>();
        with_constant!(self.activation, KIND => for lanes in values {
            // SAFETY: sixteen floats.
            unsafe {
                let x = simd.load(lanes.as_ptr());
                simd.store(lanes.as_mut_ptr(), KIND.of_vector(simd, x));
            }
        });
    }

    /// Asks for what [`finish`](Self::finish) reads at `offset`.
    #[inline(always)]
    pub(super) fn prefetch<S: Simd>(&self, simd: S, offset: usize) {
        if let Some(residual) = self.residual {
            simd.prefetch(residual.as_ptr().wrapping_add(offset));
        }
        if let Some(gate) = self.gate {
            simd.prefetch(gate.maps.as_ptr().wrapping_add(offset));
        }
    }

    /// What becomes of sums that are written at `offset`, but for what [`settle`](Self::settle) does.
    ///
    /// # Safety
    /// Sixteen floats from `offset` on are among those that [`check`](Self::check) was called for.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Simd>(
        &self,
        simd: S,
        sums: S::V,
        bias: S::V,
        offset: usize,
    ) -> S::V {
        let mut values = simd.add(sums, bias);
        if let Some(residual) = self.residual {
            // SAFETY: the residual is as long as what is written.
            let other = unsafe { simd.load(residual.as_ptr().add(offset)) };
            values = simd.add(values, other);
        }
        let (low, high) = self.bounds();
        values = simd.clamp(values, simd.splat(low), simd.splat(high));
        match self.gate {
            Some(gate) => {
                // SAFETY: the gate is as long as what is written.
                let output = unsafe { simd.load(gate.maps.as_ptr().add(offset)) };
                simd.gate(output, simd.splat(gate.end), values)
            }
            None => values,
        }
    }
}
