//! The 2×2 max-pool with stride 2 on blocked maps, and its gradient. An odd last row or column is left out.

use super::conv::{Isa, with_lanes};
use super::layout::Maps;
use super::parallel::{Shared, for_each};
use super::simd::{LANES, Simd};

/// [`max_pool`] with the instructions asked for.
pub(super) fn max_pool_on(isa: Isa, x: &[f32], maps: Maps, y: &mut [f32]) {
    with_lanes!(isa, L => max_pool::<L>(x, maps, y));
}

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

/// The gradient of [`max_pool`]: each window's gradient goes to its first maximum in reading order, as in PyTorch.
pub(super) fn max_pool_gradient(x: &[f32], maps: Maps, gradient: &[f32], dx: &mut [f32]) {
    let pooled = maps.pooled();
    assert_eq!(
        (x.len(), dx.len(), gradient.len()),
        (maps.len(), maps.len(), pooled.len())
    );
    let dx = Shared::new(dx);
    for_each(maps.pictures * maps.blocks(), 1, |plane| {
        let x = &x[plane * maps.plane()..][..maps.plane()];
        let gradient = &gradient[plane * pooled.plane()..][..pooled.plane()];
        // SAFETY: an item's slice is its own plane of dx.
        let dx =
            unsafe { std::slice::from_raw_parts_mut(dx.at(plane * maps.plane()), maps.plane()) };
        dx.fill(0.0);
        for row in 0..pooled.height {
            for column in 0..pooled.width {
                let first = (2 * row * maps.width + 2 * column) * LANES;
                let below = first + maps.width * LANES;
                let corners = [first, first + LANES, below, below + LANES];
                let from = (row * pooled.width + column) * LANES;
                for lane in 0..LANES {
                    let mut largest = corners[0] + lane;
                    for corner in &corners[1..] {
                        let (new, old) = (x[corner + lane], x[largest]);
                        if new > old || (new.is_nan() && !old.is_nan()) {
                            largest = corner + lane;
                        }
                    }
                    dx[largest] = gradient[from + lane];
                }
            }
        }
    });
}
