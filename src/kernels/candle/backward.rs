//! A faster [`Tensor::backward`], which hands gradients of variables around candle.
//!
//! candle adds each gradient to fresh zeros, which for the weights of convolutions takes longer than to compute it. So
//! while [`backward`] runs, operations [`divert`] gradients of variables to it, and candle does not see them. They are
//! written to recycled tensors where one has their shape, since fresh pages take as long again.
//!
//! Whoever is [`listening`] hears of each gradient of a weight as it is made, while those of earlier layers are still
//! to come.

use std::cell::RefCell;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Result, Tensor};

/// This thread's state of a [`backward`] call.
#[derive(Default)]
struct BackwardContext {
    /// Gradients of variables.
    diverted: Vec<(Tensor, Tensor)>,
    /// Tensors to write gradients to.
    recycled: Vec<Tensor>,
}

/// Takes a variable and its gradient.
pub(crate) type Listener = Arc<dyn Fn(&Tensor, &Tensor) + Send + Sync>;

thread_local! {
    static CONTEXT: RefCell<Option<BackwardContext>> = const { RefCell::new(None) };
    static LISTENER: RefCell<Option<Listener>> = const { RefCell::new(None) };
}

/// Does `work`, with a listener for the gradients that this thread's [`backward`] makes.
pub(crate) fn listening<R>(listener: Listener, work: impl FnOnce() -> R) -> R {
    let outer = LISTENER.replace(Some(listener));
    let result = work();
    LISTENER.set(outer);
    result
}

/// This thread's listener.
pub(super) fn listener() -> Option<Listener> {
    LISTENER.with_borrow(Clone::clone)
}

/// The gradients of `loss`. Those in `recycled`, of an earlier step and nobody else's any more, are taken to write new
/// ones to; what is left over stays.
pub(crate) fn backward(loss: &Tensor, recycled: &mut Vec<Tensor>) -> Result<GradStore> {
    // A thread of rayon's that waits for others may take up another piece of work, and with it another call of this.
    let outer = CONTEXT.replace(Some(BackwardContext {
        diverted: Vec::new(),
        recycled: std::mem::take(recycled),
    }));
    let store = loss.backward();
    let context = CONTEXT.replace(outer).unwrap_or_default();
    *recycled = context.recycled;
    let mut store = store?;
    for (variable, gradient) in context.diverted {
        let gradient = match store.remove(&variable) {
            Some(other) => (other + gradient)?,
            None => gradient,
        };
        store.insert(&variable, gradient);
    }
    Ok(store)
}

/// Takes the gradient of a variable around candle if [`backward`] runs; else gives it back.
pub(super) fn divert(tensor: &Tensor, gradient: Tensor) -> Option<Tensor> {
    CONTEXT.with_borrow_mut(|context| match context {
        Some(context) if tensor.is_variable() => {
            context.diverted.push((tensor.clone(), gradient));
            None
        }
        _ => Some(gradient),
    })
}

/// A tensor of the shape of `tensor`, to be written over: a recycled one of this thread's [`backward`], or a new one.
pub(super) fn gradient_like(tensor: &Tensor) -> Result<Tensor> {
    let recycled = CONTEXT.with_borrow_mut(|context| {
        let recycled = &mut context.as_mut()?.recycled;
        let fits = |recycled: &Tensor| {
            recycled.shape() == tensor.shape()
                && recycled.dtype() == DType::F32
                && recycled.device().is_cpu()
                && recycled.is_contiguous()
        };
        let place = recycled.iter().position(fits);
        place.map(|place| recycled.swap_remove(place))
    });
    match recycled {
        Some(recycled) => Ok(recycled),
        None => Tensor::zeros(tensor.shape(), DType::F32, &Device::Cpu),
    }
}

/// Has `write` fill a tensor that is nobody else's.
pub(super) fn fill(tensor: &Tensor, write: impl FnMut(&mut [f32])) -> Result<()> {
    tensor.inplace_op1(&FillInPlace(RefCell::new(write)))
}

/// Overwrites a contiguous tensor of f32. candle gives operations no mutable access to themselves, hence the cell.
struct FillInPlace<F>(RefCell<F>);

impl<F: FnMut(&mut [f32])> InplaceOp1 for FillInPlace<F> {
    fn name(&self) -> &'static str {
        "convolution-gradient"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(numbers), Some((start, end))) => {
                (self.0.borrow_mut())(&mut numbers[start..end])
            }
            _ => candle_core::bail!("a gradient is contiguous and of f32"),
        }
        Ok(())
    }
}
