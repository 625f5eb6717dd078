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
use super::tile::Points;
use super::tiling::Tiling;
use super::transform::{input_tile, weights_back};
use super::winograd::PAD;

/// Bytes of transformed input and gradient that a chunk of tiles may take. Chunks depend on the layer's shape
/// alone, so the order of every sum does too.
const CHUNK_BYTES: usize = 24 << 20;

/// Items of work that a layer is cut into at least, if it has so many blocks and panels.
const ITEMS: usize = 16;

/// Tiles that a thread transforms in one go.
const TILES: usize = 8;

/// Writes the gradient (out, in, 3, 3) of the weights, from blocked input `x` and the gradient `dy` of the
/// convolution's sums.
pub(super) fn weights<S: Simd, P: Points>(
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
    let (blocks, panels) = (input.blocks(), out_channels.div_ceil(panel));
    let (from, to) = (Tiling::new::<P>(input), Tiling::new::<P>(output));
    let tiles = from.tiles();
    if tiles == 0 {
        dw.fill(0.0);
        return;
    }
    let (down, across) = from.points();
    let points = down * across;
    let per_tile = 4 * points * (blocks * LANES + panels * panel);
    let chunks = tiles.div_ceil((CHUNK_BYTES / per_tile).max(LANES));
    let room = tiles.div_ceil(chunks);
    let (v_point, m_point) = (blocks * room * LANES + PAD, panels * room * panel + PAD);
    let mut v = Scratch::new(points * v_point);
    let mut m = Scratch::new(points * m_point);
    // An item is a square of input blocks and panels: large ones read less, small ones are more to share.
    let (mut high, mut wide) = (4, 2);
    while blocks.div_ceil(high) * panels.div_ceil(wide) < ITEMS && high * wide > 1 {
        (high, wide) = if high > wide {
            (high / 2, wide)
        } else {
            (high, wide / 2)
        };
    }
    let (groups, strips) = (blocks.div_ceil(high), panels.div_ceil(wide));
    // One chunk: an item's sums are finished while they are in cache. More: they wait for the next.
    let sums_len = points * high * wide * LANES * panel;
    let mut sums = Scratch::new(if chunks > 1 {
        groups * strips * sums_len
    } else {
        0
    });
    let (v, m, sums, dw) = (
        Shared::new(&mut v),
        Shared::new(&mut m),
        Shared::new(&mut sums),
        Shared::new(dw),
    );
    for index in 0..chunks {
        let (first, end) = (index * tiles / chunks, (index + 1) * tiles / chunks);
        // SAFETY, for the three loops: the kernels were chosen for this processor; the sizes of x, dy and dw were
        // checked, and v and m are made for a chunk. In each loop an item writes what no other does: its tiles' points,
        // or its blocks' and panels' sums and weights.
        let items = (end - first).div_ceil(TILES);
        let of_item = |item: usize| first + item * TILES..end.min(first + (item + 1) * TILES);
        for_each(items, 1, |item| unsafe {
            S::vectorize(
                #[inline(always)]
                || {
                    for index in of_item(item) {
                        let tile = from.tile(index);
                        for block in 0..blocks {
                            let v = v.at((block * room + index - first) * LANES);
                            input_tile::<S, P, false>(x.as_ptr(), &from, tile, block, v, v_point);
                        }
                    }
                },
            );
        });
        for_each(items, 1, |item| unsafe {
            S::vectorize(
                #[inline(always)]
                || {
                    for index in of_item(item) {
                        let tile = to.tile(index);
                        for block in 0..output.blocks() {
                            let (index, lanes) = (index - first, block * LANES % panel);
                            let strip = block * LANES / panel * room;
                            let m = m.at((strip + index) * panel + lanes);
                            input_tile::<S, P, true>(dy.as_ptr(), &to, tile, block, m, m_point);
                        }
                    }
                },
            );
        });
        for_each(groups * strips, 1, |item| {
            let (group, strip) = (item / strips * high, item % strips * wide);
            let rows = high.min(blocks - group);
            let columns = wide.min(panels - strip);
            // (block, panel) pairs of the item, and where their sums are at each point.
            let pairs =
                || (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)));
            let place = |(row, column): (usize, usize)| (row * wide + column) * LANES * panel;
            let sums_point = high * wide * LANES * panel;
            let run = |sums: *mut f32| unsafe {
                S::vectorize(
                    #[inline(always)]
                    || {
                        for point in 0..points {
                            let with = from.with_point(point / across, point % across);
                            let (start, stop) = (with.start.max(first), with.end.min(end));
                            let product = Product::<1, LANES> {
                                rows: LANES,
                                segments: &[0],
                                terms: stop.saturating_sub(start),
                                accumulate: index > 0,
                            };
                            let skipped = start.min(stop).saturating_sub(first);
                            for pair in pairs() {
                                let (row, column) = (group + pair.0, strip + pair.1);
                                let a = v.at(point * v_point + (row * room + skipped) * LANES);
                                let b = m.at(point * m_point + (column * room + skipped) * panel);
                                let c = sums.add(point * sums_point + place(pair));
                                product.run::<S>(a, b, c);
                            }
                        }
                        if end < tiles {
                            return;
                        }
                        for pair in pairs() {
                            let (row, column) = (group + pair.0, strip + pair.1);
                            for channel in 0..LANES.min(input.channels - row * LANES) {
                                for vector in 0..S::PANEL_VECTORS {
                                    let output = column * panel + vector * LANES;
                                    let sums =
                                        sums.add(place(pair) + channel * panel + vector * LANES);
                                    let taps =
                                        weights_back::<S, P>(sums, sums_point, (down, across));
                                    for lane in 0..LANES.min(out_channels.saturating_sub(output)) {
                                        let filter = (output + lane) * input.channels
                                            + row * LANES
                                            + channel;
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
