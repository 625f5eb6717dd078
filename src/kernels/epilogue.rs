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
    /// For gradients: the output, of the written maps' shape, of the ReLU that the gradient passes on its way back.
    pub(super) gate: Option<&'a [f32]>,
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
        assert!(self.gate.is_none_or(|gate| gate.len() == written));
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

    /// Whether [`settle`](Self::settle) has something left to do.
    pub(super) fn is_unsettled(&self) -> bool {
        let inline = [Activation::Identity, Activation::Relu, Activation::Relu6];
        !inline.contains(&self.activation)
    }

    /// Applies an activation that [`finish`](Self::finish) leaves out to numbers that it made: one of many instructions,
    /// which would be spelt out wherever sums are written. Inside [`Simd::vectorize`], a plain loop is one vector after
    /// the other.
    #[inline(always)]
    pub(super) fn settle(&self, values: &mut [f32]) {
        if !self.is_unsettled() {
            return;
        }
        with_constant!(self.activation, KIND => for value in values {
            *value = KIND.value(*value);
        });
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
        values = activate(simd, self.activation, values);
        match self.gate {
            // SAFETY: the gate is as long as what is written.
            Some(gate) => unsafe { simd.gate(simd.load(gate.as_ptr().add(offset)), values) },
            None => values,
        }
    }
}

/// Those activations of sixteen numbers that are a few instructions; the others are left to [`Epilogue::settle`].
#[inline(always)]
fn activate<S: Simd>(simd: S, activation: Activation, values: S::V) -> S::V {
    match activation {
        Activation::Relu => simd.relu(values),
        Activation::Relu6 => {
            // The smaller of two numbers that keeps NaN, as `max` does.
            let zero = simd.splat(0.0);
            let negative = simd.sub(zero, simd.relu(values));
            simd.sub(zero, simd.max(negative, simd.splat(-6.0)))
        }
        _ => values,
    }
}
