//! A step on the CPU in f32: one pass over memory, on all threads.

use std::cell::RefCell;
use std::fmt;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, Tensor};

use crate::finite;

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

/// A step over a variable that leaves it as it is: what it becomes is written beside, so that nothing has moved when a
/// number turns out to be NaN or infinite.
pub(super) struct FusedStep<'a> {
    pub(super) name: &'static str,
    pub(super) step: &'a Fused,
}

impl FusedStep<'_> {
    /// Moves the state and writes the new weights to `next`; whether all that was written is finite.
    pub(super) fn run(
        &self,
        variable: &Tensor,
        gradient: &Tensor,
        next: &mut [f32],
        slots: &mut [Vec<f32>; SLOTS],
    ) -> Result<bool> {
        let name = self.name;
        let (variable, variable_layout) = variable.storage_and_layout();
        let (gradient, gradient_layout) = gradient.storage_and_layout();
        let (Storage::Cpu(variable), Storage::Cpu(gradient)) = (&*variable, &*gradient) else {
            candle_core::bail!("{name}: the fused step is for the CPU");
        };
        let (CpuStorage::F32(variable), CpuStorage::F32(gradient)) = (variable, gradient) else {
            candle_core::bail!("{name}: the fused step is for f32");
        };
        let (Some((first, end)), Some((gradient_first, gradient_end))) = (
            variable_layout.contiguous_offsets(),
            gradient_layout.contiguous_offsets(),
        ) else {
            candle_core::bail!("{name}: the fused step is for contiguous tensors");
        };
        let whole = Stretch {
            weight: &variable[first..end],
            next: Chunk {
                weight: next,
                gradient: &gradient[gradient_first..gradient_end],
                slots: slots.each_mut().map(Vec::as_mut_slice),
            },
        };
        Ok(whole.step(self.step))
    }
}

/// Exchanges a variable's numbers for others, without copying where the variable is all that its storage holds.
pub(super) struct Exchange<'a>(pub(super) RefCell<&'a mut Vec<f32>>);

impl InplaceOp1 for Exchange<'_> {
    fn name(&self) -> &'static str {
        "exchange"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let CpuStorage::F32(numbers) = storage else {
            candle_core::bail!("exchange: the fused step is for f32");
        };
        let Some((first, end)) = layout.contiguous_offsets() else {
            candle_core::bail!("exchange: the fused step is for contiguous tensors");
        };
        let mut next = self.0.borrow_mut();
        if end - first == numbers.len() && next.len() == numbers.len() {
            std::mem::swap(numbers, *next);
        } else {
            numbers[first..end].copy_from_slice(&next);
        }
        Ok(())
    }
}

/// A stretch of a variable as it is, and the chunk where it becomes what it will be.
struct Stretch<'a> {
    weight: &'a [f32],
    next: Chunk<'a>,
}

impl Stretch<'_> {
    /// Walks over what may be many chunks.
    fn step(self, step: &Fused) -> bool {
        if self.weight.len() > GRAIN {
            let middle = self.weight.len() / 2;
            let (left, right) = self.split(middle);
            let (left, right) = rayon::join(|| left.step(step), || right.step(step));
            return left && right;
        }
        let mut finite = true;
        let mut rest = self;
        while rest.weight.len() > Chunk::LENGTH {
            let (stretch, after) = rest.split(Chunk::LENGTH);
            finite &= stretch.step_chunk(step);
            rest = after;
        }
        finite & rest.step_chunk(step)
    }

    /// The chunk stays in the first-level cache, so that looking at it again costs little.
    fn step_chunk(self, step: &Fused) -> bool {
        let Chunk {
            weight,
            gradient,
            slots,
        } = self.next;
        let [first, second, third] = slots;
        weight.copy_from_slice(self.weight);
        step(Chunk {
            weight: &mut *weight,
            gradient,
            slots: [&mut *first, &mut *second, &mut *third],
        });
        [&*weight, first, second, third]
            .into_iter()
            .all(finite::all)
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (weight, weight_after) = self.weight.split_at(at);
        let (next, next_after) = self.next.split(at);
        (
            Self { weight, next },
            Self {
                weight: weight_after,
                next: next_after,
            },
        )
    }
}

impl Chunk<'_> {
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
