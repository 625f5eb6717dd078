//! A step on the CPU in f32: one pass over memory, on all threads.

use std::cell::{Cell, RefCell};
use std::fmt;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Storage, Tensor};

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

/// A step over a variable that leaves it as it is: what it becomes is written elsewhere, so that nothing has moved when
/// a number turns out to be NaN or infinite.
pub(super) struct FusedStep<'a> {
    name: &'static str,
    step: &'a Fused,
    /// candle lends an operation its own fields read-only.
    slots: RefCell<&'a mut [Vec<f32>; SLOTS]>,
    finite: Cell<bool>,
}

impl<'a> FusedStep<'a> {
    pub(super) fn new(
        name: &'static str,
        step: &'a Fused,
        slots: &'a mut [Vec<f32>; SLOTS],
    ) -> Self {
        Self {
            name,
            step,
            slots: RefCell::new(slots),
            finite: Cell::new(true),
        }
    }

    /// Moves the state and writes the new weights over the gradient, both contiguous; whether all that was written is
    /// finite. That costs no more memory traffic than writing over the old weights.
    pub(super) fn run(self, variable: &Tensor, gradient: &Tensor) -> Result<bool> {
        gradient.inplace_op2(variable, &self)?;
        Ok(self.finite.get())
    }
}

impl InplaceOp2 for FusedStep<'_> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(
        &self,
        gradient: &mut CpuStorage,
        gradient_layout: &Layout,
        variable: &CpuStorage,
        variable_layout: &Layout,
    ) -> Result<()> {
        let name = self.name;
        let (CpuStorage::F32(gradient), CpuStorage::F32(variable)) = (gradient, variable) else {
            candle_core::bail!("{name}: the fused step is for f32");
        };
        let (Some((first, end)), Some((gradient_first, gradient_end))) = (
            variable_layout.contiguous_offsets(),
            gradient_layout.contiguous_offsets(),
        ) else {
            candle_core::bail!("{name}: the fused step is for contiguous tensors");
        };
        let mut slots = self.slots.borrow_mut();
        let whole = Stretch {
            weight: &variable[first..end],
            gradient: &mut gradient[gradient_first..gradient_end],
            slots: slots.each_mut().map(Vec::as_mut_slice),
        };
        self.finite.set(whole.step(self.step));
        Ok(())
    }
}

/// Where a tensor's numbers are kept, if they are all that is kept there: f32 on the CPU.
pub(super) fn place(tensor: &Tensor) -> Option<*const f32> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(CpuStorage::F32(numbers)) = &*storage else {
        return None;
    };
    let whole = layout.contiguous_offsets() == Some((0, numbers.len()));
    whole.then_some(numbers.as_ptr())
}

/// Gives two tensors each other's numbers, without copying.
pub(super) fn exchange(a: &Tensor, b: &Tensor) -> Result<()> {
    let mut held = Vec::new();
    for tensor in [a, b, a] {
        tensor.inplace_op1(&Exchange(RefCell::new(&mut held)))?;
    }
    Ok(())
}

/// Takes the numbers out of a tensor, if they are f32 on the CPU and all that is kept there. Until it
/// [gets](put_back) as many back nobody may look at it.
pub(in crate::train) fn take_out(tensor: &Tensor) -> Result<Option<Vec<f32>>> {
    let mut numbers = Vec::new();
    if place(tensor).is_none() {
        return Ok(None);
    }
    tensor.inplace_op1(&Exchange(RefCell::new(&mut numbers)))?;
    Ok(Some(numbers))
}

/// Gives a tensor numbers in place of those that were [taken out](take_out).
pub(in crate::train) fn put_back(tensor: &Tensor, mut numbers: Vec<f32>) -> Result<()> {
    tensor.inplace_op1(&Exchange(RefCell::new(&mut numbers)))
}

struct Exchange<'a>(RefCell<&'a mut Vec<f32>>);

impl InplaceOp1 for Exchange<'_> {
    fn name(&self) -> &'static str {
        "exchange"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        let CpuStorage::F32(numbers) = storage else {
            candle_core::bail!("exchange: the fused step is for f32");
        };
        std::mem::swap(numbers, *self.0.borrow_mut());
        Ok(())
    }
}

/// A stretch of a variable as it is, and of its gradient, over which what it becomes is written.
struct Stretch<'a> {
    weight: &'a [f32],
    gradient: &'a mut [f32],
    slots: [&'a mut [f32]; SLOTS],
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
        let mut next = [0f32; Chunk::LENGTH];
        let next = &mut next[..self.weight.len()];
        next.copy_from_slice(self.weight);
        let [first, second, third] = self.slots;
        step(Chunk {
            weight: &mut *next,
            gradient: self.gradient,
            slots: [&mut *first, &mut *second, &mut *third],
        });
        let written = [&*next, first, second, third];
        let finite = written.into_iter().all(finite::all);
        self.gradient.copy_from_slice(next);
        finite
    }

    fn split(self, at: usize) -> (Self, Self) {
        let (weight, weight_after) = self.weight.split_at(at);
        let (gradient, gradient_after) = self.gradient.split_at_mut(at);
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
