//! Passes over whole maps, number by number: activations and sums that no convolution takes along, and their gradients.

use rayon::prelude::*;

use super::activation::{Activation, with_constant};
use super::isa::{Isa, Token, with_simd};
use super::simd::{LANES, Simd};

/// Numbers that a thread takes at a time.
const CHUNK: usize = 1 << 13;

/// y = activation(x)
pub(super) fn activate(isa: Isa, activation: Activation, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    let chunks = y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    chunks.for_each(|(y, x)| {
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || with_constant!(activation, KIND => {
                for (y, x) in y.iter_mut().zip(x) {
                    *y = KIND.value(*x);
                }
            }),
        ));
    });
}

/// y = activation(x + other)
pub(super) fn sum(isa: Isa, x: &[f32], other: &[f32], activation: Activation, y: &mut [f32]) {
    assert_eq!((x.len(), other.len()), (y.len(), y.len()));
    let chunks = x.par_chunks(CHUNK).zip(other.par_chunks(CHUNK));
    let chunks = y.par_chunks_mut(CHUNK).zip(chunks);
    chunks.for_each(|(y, (x, other))| {
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || with_constant!(activation, KIND => {
                for (y, (x, other)) in y.iter_mut().zip(x.iter().zip(other)) {
                    *y = KIND.value(x + other);
                }
            }),
        ));
    });
}

/// to += from
pub(super) fn add(isa: Isa, from: &[f32], to: &mut [f32]) {
    assert_eq!(from.len(), to.len());
    let chunks = to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK));
    chunks.for_each(|(to, from)| {
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || for (to, from) in to.iter_mut().zip(from) {
                *to += from;
            },
        ));
    });
}

/// The gradient of an activation's input from that of its output, in place. `x` is the input; of ReLU, ReLU6 and the
/// identity the output does as well.
pub(super) fn activation_gradient(
    isa: Isa,
    activation: Activation,
    x: &[f32],
    gradient: &mut [f32],
) {
    assert_eq!(x.len(), gradient.len());
    let chunks = gradient.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK));
    chunks.for_each(|(gradient, x)| {
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || if activation == Activation::Relu {
                gate(simd, x, gradient);
            } else {
                with_constant!(activation, KIND => {
                    for (gradient, x) in gradient.iter_mut().zip(x) {
                        *gradient *= KIND.slope(*x);
                    }
                });
            },
        ));
    });
}

/// The gradient of a ReLU, in place, from its output `y`.
#[inline(always)]
fn gate<S: Simd>(simd: S, y: &[f32], gradient: &mut [f32]) {
    for (y, gradient) in y.chunks_exact(LANES).zip(gradient.chunks_exact_mut(LANES)) {
        // SAFETY: chunks are sixteen floats long.
        unsafe {
            let gated = simd.gate(simd.load(y.as_ptr()), simd.load(gradient.as_ptr()));
            simd.store(gradient.as_mut_ptr(), gated);
        }
    }
}
