//! The 2×2 max-pool with stride 2 on blocked maps, and its gradient. An odd last row or column is left out.

use super::layout::Maps;
use super::parallel::{Shared, for_each};
use super::simd::{LANES, Simd};

/// The maximum of each 2×2 pixels; NaN if one of them is.
pub(super) fn max_pool<S: Simd>(x: &[f32], maps: Maps, y: &mut [f32]) {
    let pooled = maps.pooled();
    assert_eq!((x.len(), y.len()), (maps.len(), pooled.len()));
    if y.is_empty() {
        return;
    }
    let y = Shared::new(y);
    for_each(maps.pictures * maps.blocks(), 1, |plane| {
        // SAFETY: the kernels were chosen for this processor; lengths were checked, and an item writes its own
        // plane.
        unsafe {
            S::vectorize(
                #[inline(always)]
                || {
                    let x = x.as_ptr().add(plane * maps.plane());
                    let y = y.at(plane * pooled.plane());
                    for row in 0..pooled.height {
                        for column in 0..pooled.width {
                            let upper = x.add((2 * row * maps.width + 2 * column) * LANES);
                            let lower = upper.add(maps.width * LANES);
                            let value = S::max(
                                S::max(S::load(upper), S::load(upper.add(LANES))),
                                S::max(S::load(lower), S::load(lower.add(LANES))),
                            );
                            S::store(y.add((row * pooled.width + column) * LANES), value);
                        }
                    }
                },
            );
        }
    });
}

/// The gradient of a ReLU and the [`max_pool`] after it, from the ReLU's output `x`: each window's gradient goes to
/// its first maximum in reading order, as in PyTorch, unless that is 0.
pub(super) fn relu_max_pool_gradient<S: Simd>(
    x: &[f32],
    maps: Maps,
    gradient: &[f32],
    dx: &mut [f32],
) {
    let pooled = maps.pooled();
    assert_eq!(
        (x.len(), dx.len(), gradient.len()),
        (maps.len(), maps.len(), pooled.len())
    );
    let dx = Shared::new(dx);
    for_each(maps.pictures * maps.blocks(), 1, |plane| {
        // SAFETY: the kernels were chosen for this processor; lengths were checked, and an item writes its own
        // plane.
        unsafe {
            let to = dx.at(plane * maps.plane());
            if maps.height % 2 + maps.width % 2 > 0 {
                std::slice::from_raw_parts_mut(to, maps.plane()).fill(0.0);
            }
            S::vectorize(
                #[inline(always)]
                || {
                    let x = x.as_ptr().add(plane * maps.plane());
                    let gradient = gradient.as_ptr().add(plane * pooled.plane());
                    let zero = S::splat(0.0);
                    for row in 0..pooled.height {
                        for column in 0..pooled.width {
                            let first = (2 * row * maps.width + 2 * column) * LANES;
                            let below = first + maps.width * LANES;
                            let corners = [first, first + LANES, below, below + LANES];
                            let values = corners.map(
                                #[inline(always)]
                                |corner| S::load(x.add(corner)),
                            );
                            let largest =
                                S::max(S::max(values[0], values[1]), S::max(values[2], values[3]));
                            let mut left =
                                S::load(gradient.add((row * pooled.width + column) * LANES));
                            for (corner, value) in corners.into_iter().zip(values) {
                                let taken = S::not_less(value, largest, left, zero);
                                left = S::not_less(value, largest, zero, left);
                                S::store(to.add(corner), S::gate(value, taken));
                            }
                        }
                    }
                },
            );
        }
    });
}

/// The gradient of a ReLU, in place, from its output `y`.
pub(super) fn relu_gradient<S: Simd>(y: &[f32], gradient: &mut [f32]) {
    assert_eq!(y.len(), gradient.len());
    // SAFETY: the kernels were chosen for this processor; blocked maps are whole vectors long.
    unsafe {
        S::vectorize(
            #[inline(always)]
            || {
                for (y, gradient) in y.chunks_exact(LANES).zip(gradient.chunks_exact_mut(LANES)) {
                    let gated = S::gate(S::load(y.as_ptr()), S::load(gradient.as_ptr()));
                    S::store(gradient.as_mut_ptr(), gated);
                }
            },
        );
    }
}
