//! Passes over whole blocked maps, number by number: activations and sums that no convolution takes along, and their
//! gradients; and over rows of weights.

use rayon::prelude::*;

use super::activation::{Activation, with_constant};
use super::epilogue::Gate;
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
                for (y, x) in y.chunks_exact_mut(LANES).zip(x.chunks_exact(LANES)) {
                    // SAFETY: chunks are sixteen floats long.
                    unsafe {
                        let value = KIND.of_vector(simd, simd.load(x.as_ptr()));
                        simd.store(y.as_mut_ptr(), value);
                    }
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
            || match Gate::of(activation, x) {
                Some(gate) => pass(simd, gate, gradient),
                None => with_constant!(activation, KIND => {
                    let x = x.chunks_exact(LANES);
                    for (gradient, x) in gradient.chunks_exact_mut(LANES).zip(x) {
                        // SAFETY: chunks are sixteen floats long.
                        unsafe {
                            let slope = KIND.slope_of_vector(simd, simd.load(x.as_ptr()));
                            let product = simd.mul(simd.load(gradient.as_ptr()), slope);
                            simd.store(gradient.as_mut_ptr(), product);
                        }
                    }
                }),
            },
        ));
    });
}

/// The gradient that passes a gate, in place.
#[inline(always)]
fn pass<S: Simd>(simd: S, gate: Gate<'_>, gradient: &mut [f32]) {
    let maps = gate.maps.chunks_exact(LANES);
    for (y, gradient) in maps.zip(gradient.chunks_exact_mut(LANES)) {
        // SAFETY: chunks are sixteen floats long.
        unsafe {
            let (y, passing) = (simd.load(y.as_ptr()), simd.load(gradient.as_ptr()));
            simd.store(
                gradient.as_mut_ptr(),
                simd.gate(y, simd.splat(gate.end), passing),
            );
        }
    }
}

/// y = x · scale, for rows that are as many as there are scales.
pub(super) fn scale_rows(isa: Isa, x: &[f32], scale: &[f32], y: &mut [f32]) {
    let row = x.len() / scale.len().max(1);
    assert_eq!((row * scale.len(), y.len()), (x.len(), x.len()));
    let rows = y.par_chunks_mut(row.max(1)).zip(x.par_chunks(row.max(1)));
    let rows = rows.zip(scale).with_min_len((CHUNK / row.max(1)).max(1));
    rows.for_each(|((y, x), scale)| {
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || for (y, x) in y.iter_mut().zip(x) {
                *y = x * scale;
            },
        ));
    });
}

/// The gradients of [`scale_rows`]: `gradient`, of what it made, becomes that of `x`; returned is that of the scales.
pub(super) fn scale_rows_gradients(
    isa: Isa,
    x: &[f32],
    scale: &[f32],
    gradient: &mut [f32],
) -> Vec<f32> {
    let row = x.len() / scale.len().max(1);
    assert_eq!((row * scale.len(), gradient.len()), (x.len(), x.len()));
    let rows = gradient
        .par_chunks_mut(row.max(1))
        .zip(x.par_chunks(row.max(1)));
    let rows = rows.zip(scale).with_min_len((CHUNK / row.max(1)).max(1));
    let gradients = rows.map(|((gradient, x), scale)| {
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || {
                let of_scale = dot(simd, gradient, x);
                gradient.iter_mut().for_each(|gradient| *gradient *= scale);
                of_scale
            },
        ))
    });
    gradients.collect()
}

/// Σ a · b, 64 sums side by side.
#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    const SUMS: usize = 4;
    assert_eq!(a.len(), b.len());
    let mut sums = [simd.splat(0.0); SUMS];
    let vectors = a.len() / LANES;
    let (a_vectors, b_vectors) = (a.as_ptr(), b.as_ptr());
    for first in (0..vectors).step_by(SUMS) {
        for index in 0..SUMS.min(vectors - first) {
            // SAFETY: one of the whole vectors of both.
            unsafe {
                let offset = (first + index) * LANES;
                let (a, b) = (
                    simd.load(a_vectors.add(offset)),
                    simd.load(b_vectors.add(offset)),
                );
                sums[index] = simd.mul_add(a, b, sums[index]);
            }
        }
    }
    let all = simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3]));
    let mut lanes = [0.0; LANES];
    // SAFETY: they are sixteen.
    unsafe { simd.store(lanes.as_mut_ptr(), all) };
    let rest = vectors * LANES;
    let products = a[rest..].iter().zip(&b[rest..]).map(|(a, b)| a * b);
    lanes.into_iter().chain(products).sum()
}
