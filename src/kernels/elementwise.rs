//! Passes over whole blocked maps, number by number: activations and sums that no convolution takes along, and their
//! gradients; and over rows of weights.

use super::activation::{Activation, with_constant};
use super::epilogue::Gate;
use super::isa::{Isa, Token, with_simd};
use super::parallel::{Shared, for_each_chunk};
use super::simd::{LANES, Simd};

/// Numbers that a thread takes at a time.
const CHUNK: usize = 1 << 13;

/// y = activation(x)
pub(super) fn activate(isa: Isa, activation: Activation, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len());
    for_each_chunk(y, CHUNK, |start, y| {
        let x = &x[start..][..y.len()];
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
    for_each_chunk(y, CHUNK, |start, y| {
        let (x, other) = (&x[start..][..y.len()], &other[start..][..y.len()]);
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
    for_each_chunk(to, CHUNK, |start, to| {
        let from = &from[start..][..to.len()];
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
    for_each_chunk(gradient, CHUNK, |start, gradient| {
        let x = &x[start..][..gradient.len()];
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

/// The gradients of x · scale, for rows of `x` that are as many as there are scales: `gradient`, of the product,
/// becomes that of `x`; returned is that of the scales.
pub(super) fn scale_rows_gradients(
    isa: Isa,
    x: &[f32],
    scale: &[f32],
    gradient: &mut [f32],
) -> Vec<f32> {
    let row = x.len() / scale.len().max(1);
    assert_eq!((row * scale.len(), gradient.len()), (x.len(), x.len()));
    let mut of_scales = vec![0.0; scale.len()];
    let shared = Shared::new(&mut of_scales);
    for_each_chunk(gradient, whole_rows(row), |start, gradient| {
        let rows = gradient.chunks_mut(row).zip(x[start..].chunks(row));
        for ((gradient, x), index) in rows.zip(start / row..) {
            let of_scale = with_simd!(isa, simd => simd.vectorize(
                #[inline(always)]
                || {
                    let of_scale = dot(simd, gradient, x);
                    gradient.iter_mut().for_each(|gradient| *gradient *= scale[index]);
                    of_scale
                },
            ));
            // SAFETY: there are as many as rows, and each row is one item's.
            unsafe { *shared.at(index) = of_scale };
        }
    });
    of_scales
}

/// The length of as many rows as a thread takes at a time.
fn whole_rows(row: usize) -> usize {
    row * (CHUNK / row.max(1)).max(1)
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
