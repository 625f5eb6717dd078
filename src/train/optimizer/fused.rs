//! A step on the CPU in f32: one pass over memory, on all threads, in place.

use std::cell::RefCell;
use std::marker::PhantomData;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result};

use super::{LANES, Rule};

/// Numbers a thread takes at least: less is not worth waking one.
const GRAIN: usize = 1 << 15;
/// Numbers between two turns of a rule's loops: they stay in the first-level cache.
pub(in crate::train) const CHUNK: usize = 1024;

/// Updates a variable (first operand) and its state from a gradient (second operand), both contiguous.
pub(super) struct FusedStep<'a, R: Rule> {
    factors: R::Factors,
    /// candle lends an operation its own fields read-only.
    state: RefCell<&'a mut [Vec<f32>; LANES]>,
    rule: PhantomData<R>,
}

impl<'a, R: Rule> FusedStep<'a, R> {
    pub(super) fn new(factors: R::Factors, state: &'a mut [Vec<f32>; LANES]) -> Self {
        Self {
            factors,
            state: RefCell::new(state),
            rule: PhantomData,
        }
    }
}

impl<R: Rule> InplaceOp2 for FusedStep<'_, R> {
    fn name(&self) -> &'static str {
        R::NAME
    }

    fn cpu_fwd(
        &self,
        variable: &mut CpuStorage,
        variable_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(variable), CpuStorage::F32(gradient)) = (variable, gradient) else {
            candle_core::bail!("{}: the fused step is for f32", R::NAME);
        };
        let (Some((first, end)), Some((gradient_first, gradient_end))) = (
            variable_layout.contiguous_offsets(),
            gradient_layout.contiguous_offsets(),
        ) else {
            candle_core::bail!("{}: the fused step is for contiguous tensors", R::NAME);
        };
        let mut state = self.state.borrow_mut();
        Lanes {
            weight: &mut variable[first..end],
            gradient: &gradient[gradient_first..gradient_end],
            state: state.each_mut().map(Vec::as_mut_slice),
        }
        .step::<R>(&self.factors);
        Ok(())
    }
}

/// The same stretch of a variable, its gradient and its state.
pub(in crate::train) struct Lanes<'a> {
    pub(in crate::train) weight: &'a mut [f32],
    pub(in crate::train) gradient: &'a [f32],
    /// Empty where the rule keeps nothing.
    pub(in crate::train) state: [&'a mut [f32]; LANES],
}

impl Lanes<'_> {
    fn step<R: Rule>(self, factors: &R::Factors) {
        if self.weight.len() > GRAIN {
            let middle = self.weight.len() / 2;
            let (left, right) = self.split(middle);
            rayon::join(|| left.step::<R>(factors), || right.step::<R>(factors));
            return;
        }
        let mut rest = self;
        while rest.weight.len() > CHUNK {
            let (chunk, after) = rest.split(CHUNK);
            R::step_chunk(factors, chunk);
            rest = after;
        }
        R::step_chunk(factors, rest);
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (weight, weight_after) = self.weight.split_at_mut(at);
        let (gradient, gradient_after) = self.gradient.split_at(at);
        let [first, second, third] = self.state.map(|lane| {
            let at = at.min(lane.len());
            lane.split_at_mut(at)
        });
        (
            Self {
                weight,
                gradient,
                state: [first.0, second.0, third.0],
            },
            Self {
                weight: weight_after,
                gradient: gradient_after,
                state: [first.1, second.1, third.1],
            },
        )
    }
}
