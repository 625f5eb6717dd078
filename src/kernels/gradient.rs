//! The gradient of a convolution's weights and bias. (That of its input is the convolution with the transposed
//! weights turned by 180°: see [`Filters`](super::filters::Filters).)
//!
//! A Winograd convolution is linear in the transformed weights u = G g Gᵀ, so their gradient is, at each of the
//! (m+2)² points, the sum over tiles of v · (A dy Aᵀ)ᵀ with v the transformed input: a product whose inner
//! dimension is tiles. The gradient of g is Gᵀ of it G.

use std::ops::Range;

use super::chunk::{Chunk, PAD, for_each_group, groups};
use super::gemm::Product;
use super::layout::Maps;
use super::parallel::{Shared, for_each, part};
use super::scratch::{Scratch, with_own};
use super::simd::{LANES, Simd};
use super::tile::Points;
use super::tiling::Tiling;
use super::transform::{input_tile, weights_back};

/// Bytes of transformed input and gradient that a chunk of tiles may take: few where the sums are small and quickly
/// passed over again, so that both stay in the last cache; else as many as it may hold. Chunks depend on the layer's
/// shape alone, so the order of every sum does too.
const FEW_BYTES: usize = 6 << 20;
const MANY_BYTES: usize = 24 << 20;

/// Items of work that a chunk is cut into at least.
const ITEMS: usize = 16;

/// Channel blocks and panels of an item at most: their sums at all points stay in the second-level cache, as do their
/// values at one.
const BLOCKS: usize = 4;
const PANELS: usize = 2;

/// Writes the gradients of the weights (out, in, 3, 3) and the bias (out), from blocked input `x` and the gradient `dy`
/// of the convolution's sums.
pub(super) fn parameters<S: Simd, P: Points>(
    x: &[f32],
    input: Maps,
    dy: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let out_channels = db.len();
    let output = input.with_channels(out_channels);
    assert_eq!((x.len(), dy.len()), (input.len(), output.len()));
    assert_eq!(dw.len(), out_channels * input.channels * 9);
    let panel = S::PANEL_VECTORS * LANES;
    let (blocks, panels) = (input.blocks(), out_channels.div_ceil(panel));
    let (from, to) = (Tiling::new::<P>(input), Tiling::new::<P>(output));
    let tiles = from.tiles();
    db.fill(0.0);
    if tiles == 0 {
        dw.fill(0.0);
        return;
    }
    let (down, across) = from.points();
    let points = down * across;
    let per_tile = 4 * points * (blocks * LANES + panels * panel);
    // An item is a rectangle of blocks and panels, at some of the points if there are few rectangles.
    let strips = panels.div_ceil(PANELS);
    let rectangles = blocks.div_ceil(BLOCKS) * strips;
    let parts = ITEMS.div_ceil(rectangles).min(points);
    let most = if parts > 1 { FEW_BYTES } else { MANY_BYTES };
    let chunks = tiles.div_ceil((most / per_tile).max(LANES));
    let room = tiles.div_ceil(chunks);
    let (v_point, m_point) = (Chunk::point_len(input, room), panels * room * panel + PAD);
    let mut v = Scratch::new(points * v_point);
    let mut m = Scratch::new(points * m_point);
    let sums_point = BLOCKS * PANELS * LANES * panel;
    let sums_len = points * sums_point;
    // Sums over all tiles at all points are finished while they are in cache. Others wait.
    let wait = chunks > 1 || parts > 1;
    let mut sums = Scratch::new(if wait { rectangles * sums_len } else { 0 });
    let (v, m, sums) = (
        Shared::new(&mut v),
        Shared::new(&mut m),
        Shared::new(&mut sums),
    );
    let gradient = Gradient {
        dw: Shared::new(dw),
        in_channels: input.channels,
        out_channels,
        points: (down, across),
        sums_point,
    };
    for index in 0..chunks {
        let range = part(&(0..tiles), index, chunks);
        let (first, end) = (range.start, range.end);
        let chunk = Chunk {
            first,
            room,
            values: v,
            point: v_point,
        };
        // SAFETY, for the three loops: the kernels were chosen for this processor; the sizes of x, dy and dw were
        // checked, and v and m are made for a chunk. In each loop an item writes what no other does: its tiles' points,
        // its pixels' sums, or its rectangle's sums, at its points, and weights.
        unsafe { chunk.fill_together::<S, P>(x, &from, range.clone()) };
        let mut biases = vec![0.0; groups(&range) * output.blocks() * LANES];
        let shared = Shared::new(&mut biases);
        for_each_group(range.clone(), |group, tiles| unsafe {
            S::vectorize(
                #[inline(always)]
                || {
                    for index in tiles {
                        let tile = to.tile(index);
                        for block in 0..output.blocks() {
                            let (index, lanes) = (index - first, block * LANES % panel);
                            let strip = block * LANES / panel * room;
                            let m = m.at((strip + index) * panel + lanes);
                            let dy = dy.as_ptr();
                            let sum = input_tile::<S, P, true>(dy, &to, tile, block, m, m_point);
                            let bias = shared.at((group * output.blocks() + block) * LANES);
                            S::store(bias, S::add(S::load(bias), sum));
                        }
                    }
                },
            );
        });
        for biases in biases.chunks_exact(output.blocks() * LANES) {
            for (sum, bias) in db.iter_mut().zip(biases) {
                *sum += bias;
            }
        }
        for_each(rectangles * parts, 1, |item| {
            let rectangle = item / parts;
            let some_points = part(&(0..points), item % parts, parts);
            let rows = run_of(rectangle / strips, BLOCKS, blocks);
            let columns = run_of(rectangle % strips, PANELS, panels);
            let run = |sums: *mut f32| unsafe {
                S::vectorize(
                    #[inline(always)]
                    || {
                        for point in some_points.clone() {
                            let with = from.with_point(point / across, point % across);
                            let start = with.start.clamp(first, end);
                            let stop = with.end.clamp(start, end);
                            for row in rows.clone() {
                                let product = Product::<1, LANES> {
                                    rows: LANES.min(input.channels - row * LANES),
                                    segments: &[0],
                                    terms: stop - start,
                                    accumulate: index > 0,
                                };
                                for column in columns.clone() {
                                    let a = chunk.place(row, start);
                                    let b = (column * room + start - first) * panel;
                                    let c = point * sums_point + gradient.place::<S>(row, column);
                                    product.run::<S>(
                                        v.at(point * v_point + a),
                                        m.at(point * m_point + b),
                                        sums.add(c),
                                    );
                                }
                            }
                        }
                        if !wait {
                            for row in rows.clone() {
                                for column in columns.clone() {
                                    gradient.finish::<S, P>(sums, row, column);
                                }
                            }
                        }
                    },
                );
            };
            if wait {
                // SAFETY: as above; there is room for every rectangle's sums.
                run(unsafe { sums.at(rectangle * sums_len) });
            } else {
                with_own(sums_len, |own| run(own.as_mut_ptr()));
            }
        });
    }
    if wait {
        for_each(blocks * panels, 1, |item| {
            let (row, column) = (item / panels, item % panels);
            let rectangle = row / BLOCKS * strips + column / PANELS;
            // SAFETY: the kernels were chosen for this processor; these are a rectangle's sums, and an item writes the
            // weights of its block and panel.
            unsafe {
                let sums = sums.at(rectangle * sums_len);
                S::vectorize(
                    #[inline(always)]
                    || gradient.finish::<S, P>(sums, row, column),
                );
            }
        });
    }
}

/// The `index`-th run of so many, of all there are.
fn run_of(index: usize, length: usize, all: usize) -> Range<usize> {
    index * length..all.min((index + 1) * length)
}

/// Where sums at points go.
struct Gradient {
    dw: Shared,
    in_channels: usize,
    out_channels: usize,
    points: (usize, usize),
    /// Floats from point to point in a rectangle's sums.
    sums_point: usize,
}

impl Gradient {
    /// Where the sums of a channel block and a panel begin in those of their rectangle, at each point.
    fn place<S: Simd>(&self, block: usize, panel: usize) -> usize {
        let within = block % BLOCKS * PANELS + panel % PANELS;
        within * LANES * S::PANEL_VECTORS * LANES
    }

    /// Transforms the sums of a channel block and a panel back, and writes them.
    ///
    /// # Safety
    /// Inside `vectorize`; `sums` are their rectangle's, and nobody else writes these weights.
    #[inline(always)]
    unsafe fn finish<S: Simd, P: Points>(&self, sums: *mut f32, block: usize, panel: usize) {
        let width = S::PANEL_VECTORS * LANES;
        let first_input = block * LANES;
        let inputs = LANES.min(self.in_channels - first_input);
        for vector in 0..S::PANEL_VECTORS {
            let first_output = panel * width + vector * LANES;
            let outputs = LANES.min(self.out_channels.saturating_sub(first_output));
            // (input, tap, output)
            let mut taps = Taps([0.0; LANES * 9 * LANES]);
            let taps = taps.0.as_mut_ptr();
            // SAFETY: the caller's; weights are written only where there are such channels.
            unsafe {
                for input in 0..LANES {
                    let at = self.place::<S>(block, panel) + input * width + vector * LANES;
                    let to = taps.add(input * 9 * LANES);
                    weights_back::<S, P>(sums.add(at), self.sums_point, self.points, to);
                }
                let row = self.in_channels * 9;
                let dw = self.dw.at(first_output * row + first_input * 9);
                if inputs == LANES && outputs == LANES {
                    for run in 0..9 {
                        let from = taps.add(run * LANES * LANES).cast_const();
                        S::transpose((from, LANES), (dw.add(run * LANES), row as isize));
                    }
                    continue;
                }
                for output in 0..outputs {
                    for weight in 0..inputs * 9 {
                        *dw.add(output * row + weight) = *taps.add(weight * LANES + output);
                    }
                }
            }
        }
    }
}

/// Vectors that do not lie across two cache lines.
#[repr(align(64))]
struct Taps([f32; LANES * 9 * LANES]);
