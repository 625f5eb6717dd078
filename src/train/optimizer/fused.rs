//! A step on the CPU in f32: one pass over memory, on all threads, in place.

use std::cell::RefCell;
use std::fmt;

use candle_core::{CpuStorage, InplaceOp2, Layout, Result};

/// State tensors ("slots") a rule may keep for each variable.
pub const SLOTS: usize = 3;

/// Elements a thread takes at least: fewer are not worth waking one.
const GRAIN: usize = 1 << 15;

/// A step as plain loops over one [`Chunk`], with its factors already in f32. It is called for every chunk of a
/// variable, on several threads.
pub type Fused = Box<dyn Fn(Chunk<'_>) + Send + Sync>;

/// The same stretch of a variable, its gradient and its state: at most [`Chunk::LENGTH`] numbers of each.
pub struct Chunk<'a> {
    /// The variable, to be moved.
    pub weight: &'a mut [f32],
    /// Its gradient.
    pub gradient: &'a [f32],
    /// Its state, to be moved; empty in a place where the rule keeps none.
    pub slots: [&'a mut [f32]; SLOTS],
}

impl Chunk<'_> {
    /// Elements per pass, so that they stay in the first-level cache.
    pub const LENGTH: usize = 1024;
}

impl fmt::Debug for Chunk<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a chunk of {} numbers", self.weight.len())
    }
}

/// Updates a variable (first operand) and its state from a gradient (second operand), both contiguous.
pub(super) struct FusedStep<'a> {
    name: &'static str,
    step: Fused,
    /// candle lends an operation its own fields read-only.
    slots: RefCell<&'a mut [Vec<f32>; SLOTS]>,
}

impl<'a> FusedStep<'a> {
    pub(super) fn new(name: &'static str, step: Fused, slots: &'a mut [Vec<f32>; SLOTS]) -> Self {
        Self {
            name,
            step,
            slots: RefCell::new(slots),
        }
    }
}

impl InplaceOp2 for FusedStep<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        variable: &mut CpuStorage,
        variable_layout: &Layout,
        gradient: &CpuStorage,
        gradient_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(variable), CpuStorage::F32(gradient)) = (variable, gradient) else {
            candle_core::bail!("{}: the fused step is for f32", self.name);
        };
        let (Some((first, end)), Some((gradient_first, gradient_end))) = (
            variable_layout.contiguous_offsets(),
            gradient_layout.contiguous_offsets(),
        ) else {
            candle_core::bail!("{}: the fused step is for contiguous tensors", self.name);
        };
        let mut slots = self.slots.borrow_mut();
        let whole = Chunk {
            weight: &mut variable[first..end],
            gradient: &gradient[gradient_first..gradient_end],
            slots: slots.each_mut().map(Vec::as_mut_slice),
        };
        whole.step(&self.step);
        Ok(())
    }
}

impl Chunk<'_> {
    /// Walks over what may be many chunks.
    fn step(self, step: &Fused) {
        if self.weight.len() > GRAIN {
            let middle = self.weight.len() / 2;
            let (left, right) = self.split(middle);
            rayon::join(|| left.step(step), || right.step(step));
            return;
        }
        let mut rest = self;
        while rest.weight.len() > Self::LENGTH {
            let (chunk, after) = rest.split(Self::LENGTH);
            step(chunk);
            rest = after;
        }
        step(rest);
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (weight, weight_after) = self.weight.split_at_mut(at);
        let (gradient, gradient_after) = self.gradient.split_at(at);
        let [first, second, third] = self.slots.map(|slot| {
            let at = at.min(slot.len());
            slot.split_at_mut(at)
        });
        (
            Self {
                weight,
                gradient,
                slots: [first.0, second.0, third.0],
            },
            Self {
                weight: weight_after,
                gradient: gradient_after,
                slots: [first.1, second.1, third.1],
            },
        )
    }
}
