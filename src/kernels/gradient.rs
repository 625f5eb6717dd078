//! The gradient of a convolution's weights and bias. (That of its input is the convolution with the transposed
//! weights turned by 180°: see [`Filters`](super::winograd::Filters).)
//!
//! A Winograd convolution is linear in the transformed weights u = G g Gᵀ, so their gradient is, at each of the
//! (m+2)² points, the sum over tiles of v · (A dy Aᵀ)ᵀ with v the transformed input: a product whose inner
//! dimension is tiles. The gradient of g is Gᵀ of it G.

use super::gemm::Product;
use super::layout::Maps;
use super::parallel::{Shared, for_each};
use super::scratch::{Scratch, with_own};
use super::simd::{LANES, Simd};
use super::tile::{MAX_SIZE, Tile};
use super::winograd::{Grid, PAD, input_tile};

/// Bytes of transformed input and gradient that a chunk of tiles may take. Chunks depend on the layer's shape
/// alone, so the order of every sum does too.
const CHUNK_BYTES: usize = 24 << 20;

/// Input channels of a work item: three register blocks of 11, 11 and 10 rows with AVX-512.
const GROUP: usize = 2 * LANES;

/// Writes the gradient (out, in, 3, 3) of the weights, from blocked input `x` and the gradient `dy` of the
/// convolution's sums.
pub(super) fn weights<S: Simd, T: Tile>(
    x: &[f32],
    input: Maps,
    dy: &[f32],
    out_channels: usize,
    dw: &mut [f32],
) {
    let output = input.with_channels(out_channels);
    assert_eq!((x.len(), dy.len()), (input.len(), output.len()));
    assert_eq!(dw.len(), out_channels * input.channels * 9);
    let panel = S::PANEL_VECTORS * LANES;
    let (rows, panels) = (input.blocks() * LANES, out_channels.div_ceil(panel));
    let groups = rows.div_ceil(GROUP);
    let (from, to) = (Grid::new::<T>(input), Grid::new::<T>(output));
    let tiles = from.tiles();
    if tiles == 0 {
        dw.fill(0.0);
        return;
    }
    let most = (CHUNK_BYTES / (4 * T::POINTS * (groups * GROUP + panels * panel))).max(LANES);
    let chunks = tiles.div_ceil(most);
    let chunk = tiles.div_ceil(chunks);
    // Tile after tile of one group, or one panel, lies in one run: a product reads straight on.
    let (v_group, m_panel) = (chunk * GROUP + PAD, chunk * panel + PAD);
    let (v_point, m_point) = (groups * v_group, panels * m_panel);
    let mut v = Scratch::new(T::POINTS * v_point);
    let mut m = Scratch::new(T::POINTS * m_point);
    // One chunk: an item's sums are finished while they are in cache. More: they wait for the next.
    let sums_len = T::POINTS * GROUP * panel;
    let mut sums = Scratch::new(if chunks > 1 {
        groups * panels * sums_len
    } else {
        0
    });
    let (v, m, sums, dw) = (
        Shared::new(&mut v),
        Shared::new(&mut m),
        Shared::new(&mut sums),
        Shared::new(dw),
    );
    for first in (0..tiles).step_by(chunk) {
        let count = chunk.min(tiles - first);
        // SAFETY, for the three loops: the kernels were chosen for this processor; the sizes of x, dy and dw were
        // checked, and v and m are made for a chunk. In each loop an item writes what no other does: its tile's and
        // block's points, or its group's and panel's sums and weights.
        for_each(count * input.blocks(), 8, |item| unsafe {
            let (tile, block) = (item / input.blocks(), item % input.blocks());
            let (group, within) = (block * LANES / GROUP, block * LANES % GROUP);
            let v = v.at(group * v_group + tile * GROUP + within);
            S::vectorize(
                #[inline(always)]
                || input_tile::<S, T, false>(x.as_ptr(), &from, first + tile, block, v, v_point),
            );
        });
        for_each(count * output.blocks(), 8, |item| unsafe {
            let (tile, block) = (item / output.blocks(), item % output.blocks());
            let (index, within) = (block * LANES / panel, block * LANES % panel);
            let m = m.at(index * m_panel + tile * panel + within);
            S::vectorize(
                #[inline(always)]
                || input_tile::<S, T, true>(dy.as_ptr(), &to, first + tile, block, m, m_point),
            );
        });
        for_each(groups * panels, 1, |item| {
            let (group, index) = (item / panels, item % panels);
            let product = Product {
                rows: GROUP.min(rows - group * GROUP),
                segments: &[0],
                terms: count,
                a_row: 1,
                a_k: GROUP,
                b_k: panel,
                c_row: panel,
                accumulate: first > 0,
            };
            let run = |sums: *mut f32| unsafe {
                S::vectorize(
                    #[inline(always)]
                    || {
                        for point in 0..T::POINTS {
                            let a = v.at(point * v_point + group * v_group);
                            let b = m.at(point * m_point + index * m_panel);
                            product.run::<S>(a, b, sums.add(point * GROUP * panel));
                        }
                        if first + count == tiles {
                            let channels = product.rows.min(input.channels - group * GROUP);
                            for row in 0..channels {
                                for vector in 0..S::PANEL_VECTORS {
                                    let output = index * panel + vector * LANES;
                                    let from = sums.add(row * panel + vector * LANES);
                                    let taps = weights_back::<S, T>(from, GROUP * panel);
                                    for lane in 0..LANES.min(out_channels.saturating_sub(output)) {
                                        let filter =
                                            (output + lane) * input.channels + group * GROUP + row;
                                        for (tap, values) in taps.iter().enumerate() {
                                            *dw.at(filter * 9 + tap) = values[lane];
                                        }
                                    }
                                }
                            }
                        }
                    },
                );
            };
            if chunks > 1 {
                // SAFETY: as above; there is room for every item's sums.
                run(unsafe { sums.at(item * sums_len) });
            } else {
                with_own(sums_len, |own| run(own.as_mut_ptr()));
            }
        });
    }
}

/// Gᵀ u G for sixteen outputs: nine taps from (m+2)² points, `point` floats apart.
///
/// # Safety
/// Inside `vectorize`; `u` is valid for sixteen floats at each point.
#[inline(always)]
unsafe fn weights_back<S: Simd, T: Tile>(u: *const f32, point: usize) -> [[f32; LANES]; 9] {
    let mut taps = [[0.0; LANES]; 9];
    // SAFETY: points are the caller's.
    unsafe {
        let mut rows = [[S::splat(0.0); MAX_SIZE]; 3];
        for j in 0..T::SIZE {
            let mut column = [S::splat(0.0); MAX_SIZE];
            for (i, value) in column.iter_mut().enumerate().take(T::SIZE) {
                *value = S::load(u.add((i * T::SIZE + j) * point));
            }
            let column = T::weights_back::<S>(column);
            for i in 0..3 {
                rows[i][j] = column[i];
            }
        }
        for (i, row) in rows.iter().enumerate() {
            let row = T::weights_back::<S>(*row);
            for (j, value) in row.iter().enumerate() {
                S::store(taps[3 * i + j].as_mut_ptr(), *value);
            }
        }
    }
    taps
}

/// Writes the gradient (out) of the bias: the sum of `dy` over pictures and pixels, row by row.
pub(super) fn bias<S: Simd>(dy: &[f32], output: Maps, db: &mut [f32]) {
    assert_eq!((dy.len(), db.len()), (output.len(), output.channels));
    let mut padded = vec![0.0; output.blocks() * LANES];
    let sums = Shared::new(&mut padded);
    for_each(output.blocks(), 1, |block| {
        // SAFETY: the kernels were chosen for this processor; the length of dy was checked, and an item writes its
        // own block.
        unsafe {
            S::vectorize(
                #[inline(always)]
                || {
                    let mut total = S::splat(0.0);
                    for picture in 0..output.pictures {
                        let plane = dy
                            .as_ptr()
                            .add((picture * output.blocks() + block) * output.plane());
                        let mut map = S::splat(0.0);
                        for row in 0..output.height {
                            let mut sum = S::splat(0.0);
                            for column in 0..output.width {
                                sum = S::add(
                                    sum,
                                    S::load(plane.add((row * output.width + column) * LANES)),
                                );
                            }
                            map = S::add(map, sum);
                        }
                        total = S::add(total, map);
                    }
                    S::store(sums.at(block * LANES), total);
                },
            );
        }
    });
    db.copy_from_slice(&padded[..output.channels]);
}
