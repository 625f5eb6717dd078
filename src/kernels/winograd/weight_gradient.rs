//! The gradient of a convolution's weights and bias. (That of its input is the convolution with the transposed
//! weights turned by 180°: see [`Weights`](super::super::weights::Weights).)
//!
//! A Winograd convolution is linear in the transformed weights u = G g Gᵀ, so their gradient is, at each of the
//! (m+2)² points, the sum over tiles of v · (A dy Aᵀ)ᵀ with v the transformed input: a product whose inner
//! dimension is tiles. The gradient of g is Gᵀ of it G.

use std::ops::Range;

use super::super::blocking::{
    GRADIENT_BLOCKS, GRADIENT_ITEMS, GRADIENT_PANELS, LARGE_SUMS_CHUNK_BYTES, POINT_PAD,
    SMALL_SUMS_CHUNK_BYTES,
};
use super::super::gemm::{InMemory, Microkernel};
use super::super::isa::{Isa, Token, with_simd};
use super::super::parallel::{Shared, for_each, part};
use super::super::scratch::{Scratch, with_own};
use super::super::shape::Shape;
use super::super::simd::{LANES, Simd};
use super::chunk::{Chunk, for_each_group, groups};
use super::points::{F2, F4, F6, TileFamily};
use super::tiling::Tiling;
use super::transform::{input_tile, weights_back};

/// Writes the gradients of the weights (out, in, 3, 3) and the bias (out), from blocked input `x` and the blocked
/// gradient `dy` of the convolution's sums. The tiles are those with the fewest products.
pub(crate) fn parameter_gradients(
    isa: Isa,
    x: &[f32],
    input: Shape,
    dy: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let points = |largest: usize| Tiling::of_largest(input, largest).total_points();
    with_simd!(isa, simd => if points(6) < points(4) {
        of_family::<_, F6>(simd, x, input, dy, dw, db);
    } else if points(4) < points(2) {
        of_family::<_, F4>(simd, x, input, dy, dw, db);
    } else {
        of_family::<_, F2>(simd, x, input, dy, dw, db);
    });
}

/// [`parameter_gradients`] with a family's tiles.
fn of_family<S: Simd, P: TileFamily>(
    simd: S,
    x: &[f32],
    input: Shape,
    dy: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let output = input.with_channels(db.len());
    assert_eq!(
        (x.len(), dy.len()),
        (input.blocked_len(), output.blocked_len())
    );
    assert_eq!(dw.len(), output.channels * input.channels * 9);
    db.fill(0.0);
    let (from, to) = (Tiling::new::<P>(input), Tiling::new::<P>(output));
    if from.tiles() == 0 {
        dw.fill(0.0);
        return;
    }
    let plan = Plan::new::<S>(from, to);
    let mut v = Scratch::new(plan.points * plan.v_point);
    let mut m = Scratch::new(plan.points * plan.m_point);
    let rectangles = if plan.sums_wait { plan.rectangles } else { 0 };
    let mut sums = Scratch::new(rectangles * plan.sums_len::<S>());
    let (v, m) = (Shared::new(&mut v), Shared::new(&mut m));
    let gradient = Gradient {
        simd,
        sums: Shared::new(&mut sums),
        dw: Shared::new(dw),
        plan,
    };
    for index in 0..gradient.plan.chunks {
        let tiles = part(&(0..from.tiles()), index, gradient.plan.chunks);
        let work = Work {
            inputs: Chunk {
                first: tiles.start,
                room: gradient.plan.room,
                values: v,
                point: gradient.plan.v_point,
            },
            outputs: m,
            tiles,
            is_first: index == 0,
        };
        let tiles = work.tiles.clone();
        // SAFETY: the chunk is made for `room` tiles, at least as many as these; nothing else runs at this time.
        unsafe { work.inputs.fill_together::<S, P>(simd, x, &from, tiles) };
        gradient.transform_outputs::<P>(&work, dy, db);
        gradient.accumulate::<P>(&work);
    }
    if gradient.plan.sums_wait {
        gradient.finish_all::<P>();
    }
}

/// How the work is cut: tiles into chunks, and for each chunk the channel blocks times panels into rectangles, at some
/// of the points each if there are few rectangles. It depends on the layer's shape alone, so the order of every sum
/// does too.
struct Plan {
    from: Tiling,
    to: Tiling,
    blocks: usize,
    panels: usize,
    /// Points in all.
    points: usize,
    /// Rectangles next to each other along the panels.
    strips: usize,
    rectangles: usize,
    /// Into how many parts the points are cut.
    parts: usize,
    chunks: usize,
    /// Tiles of the largest chunk.
    room: usize,
    /// Floats from point to point of a chunk's transformed inputs.
    v_point: usize,
    /// The same of its transformed gradients.
    m_point: usize,
    /// Whether sums wait until the last chunk or point is there. Others are finished while they are in the cache.
    sums_wait: bool,
}

impl Plan {
    fn new<S: Simd>(from: Tiling, to: Tiling) -> Self {
        let (blocks, panels) = (from.shape.blocks(), to.shape.channels.div_ceil(S::NR));
        let (down, across) = from.point_grid();
        let points = down * across;
        let strips = panels.div_ceil(GRADIENT_PANELS);
        let rectangles = blocks.div_ceil(GRADIENT_BLOCKS) * strips;
        let parts = GRADIENT_ITEMS.div_ceil(rectangles).min(points);
        let most = if parts > 1 {
            SMALL_SUMS_CHUNK_BYTES
        } else {
            LARGE_SUMS_CHUNK_BYTES
        };
        let per_tile = 4 * points * (blocks * LANES + panels * S::NR);
        let chunks = from.tiles().div_ceil((most / per_tile).max(LANES));
        let room = from.tiles().div_ceil(chunks);
        Self {
            from,
            to,
            blocks,
            panels,
            points,
            strips,
            rectangles,
            parts,
            chunks,
            room,
            v_point: Chunk::point_len(from.shape, room),
            m_point: panels * room * S::NR + POINT_PAD,
            sums_wait: chunks > 1 || parts > 1,
        }
    }

    /// Floats from point to point of a rectangle's sums.
    fn sums_point<S: Simd>(&self) -> usize {
        GRADIENT_BLOCKS * GRADIENT_PANELS * LANES * S::NR
    }

    /// Floats of a rectangle's sums.
    fn sums_len<S: Simd>(&self) -> usize {
        self.points * self.sums_point::<S>()
    }

    /// The channel blocks and the panels of a rectangle.
    fn rectangle(&self, index: usize) -> (Range<usize>, Range<usize>) {
        let run =
            |index: usize, length: usize, all: usize| index * length..all.min((index + 1) * length);
        (
            run(index / self.strips, GRADIENT_BLOCKS, self.blocks),
            run(index % self.strips, GRADIENT_PANELS, self.panels),
        )
    }

    /// The rectangle that has a channel block and a panel.
    fn rectangle_of(&self, block: usize, panel: usize) -> usize {
        block / GRADIENT_BLOCKS * self.strips + panel / GRADIENT_PANELS
    }

    /// Where the sums of a channel block and a panel begin in those of their rectangle, at each point.
    fn place<S: Simd>(&self, block: usize, panel: usize) -> usize {
        let within = block % GRADIENT_BLOCKS * GRADIENT_PANELS + panel % GRADIENT_PANELS;
        within * LANES * S::NR
    }
}

/// A chunk of tiles, transformed.
struct Work<'a> {
    inputs: Chunk<'a>,
    /// The gradients: (point, panel, tile of the chunk, output within the panel).
    outputs: Shared<'a>,
    tiles: Range<usize>,
    is_first: bool,
}

/// A gradient's plan and what it writes.
struct Gradient<'a, S> {
    simd: S,
    plan: Plan,
    /// Every rectangle's sums, if they wait.
    sums: Shared<'a>,
    dw: Shared<'a>,
}

impl<S: Simd> Gradient<'_, S> {
    /// Transforms a chunk's gradients on all threads, and adds them up to the bias's.
    fn transform_outputs<P: TileFamily>(&self, work: &Work<'_>, dy: &[f32], db: &mut [f32]) {
        let Plan { to, m_point, .. } = &self.plan;
        let blocks = to.shape.blocks();
        assert_eq!(dy.len(), to.shape.blocked_len());
        let mut biases = vec![0.0; groups(&work.tiles) * blocks * LANES];
        let shared = Shared::new(&mut biases);
        for_each_group(work.tiles.clone(), |group, tiles| {
            // SAFETY: a group has its own sums.
            let biases = unsafe { shared.slice(group * blocks * LANES, blocks * LANES) };
            self.simd.vectorize(
                #[inline(always)]
                || {
                    for index in tiles {
                        let tile = to.tile(index);
                        for (block, bias) in biases.chunks_exact_mut(LANES).enumerate() {
                            let (panel, lanes) = (block * LANES / S::NR, block * LANES % S::NR);
                            let tile_of_chunk = index - work.tiles.start;
                            let first = (panel * self.plan.room + tile_of_chunk) * S::NR + lanes;
                            // SAFETY: `dy` was checked. The chunk has room for the tile at each point, and groups share
                            // no tile; `bias` has sixteen floats.
                            unsafe {
                                let m = (work.outputs.at(first), *m_point);
                                let (place, dy) = ((tile, block), dy.as_ptr());
                                let sum = input_tile::<S, P, true>(self.simd, dy, to, place, m);
                                let sum = self.simd.add(self.simd.load(bias.as_ptr()), sum);
                                self.simd.store(bias.as_mut_ptr(), sum);
                            }
                        }
                    }
                },
            );
        });
        for biases in biases.chunks_exact(blocks * LANES) {
            for (sum, bias) in db.iter_mut().zip(biases) {
                *sum += bias;
            }
        }
    }

    /// Adds a chunk's products to every rectangle's sums, on all threads.
    fn accumulate<P: TileFamily>(&self, work: &Work<'_>) {
        let plan = &self.plan;
        for_each(plan.rectangles * plan.parts, |item| {
            let rectangle = item / plan.parts;
            let points = part(&(0..plan.points), item % plan.parts, plan.parts);
            let len = plan.sums_len::<S>();
            if plan.sums_wait {
                let sums = self.sums.part(rectangle * len, len);
                // SAFETY: an item writes its rectangle's sums at its own points.
                unsafe { self.products(work, rectangle, points, sums) };
            } else {
                // SAFETY: the buffer is the thread's own, and the weights are the item's alone: it has all points.
                with_own(len, |own| unsafe {
                    let sums = Shared::new(own);
                    self.products(work, rectangle, points, sums);
                    self.finish_rectangle::<P>(rectangle, sums);
                });
            }
        });
    }

    /// Adds a chunk's products to a rectangle's sums, at some of the points.
    ///
    /// # Safety
    /// The sums are a rectangle's, and nobody else reads or writes them at these points.
    unsafe fn products(
        &self,
        work: &Work<'_>,
        rectangle: usize,
        points: Range<usize>,
        sums: Shared<'_>,
    ) {
        let plan = &self.plan;
        let (blocks, panels) = plan.rectangle(rectangle);
        let (_, across) = plan.from.point_grid();
        let (first, end) = (work.tiles.start, work.tiles.end);
        self.simd.vectorize(
            #[inline(always)]
            || {
                for point in points {
                    let with = plan.from.with_point(point / across, point % across);
                    let start = with.start.clamp(first, end);
                    let stop = with.end.clamp(start, end);
                    for block in blocks.clone() {
                        let microkernel = Microkernel::<1, LANES> {
                            vectors: S::NR_VECTORS,
                            m: LANES.min(plan.from.shape.channels - block * LANES),
                            segments: &[0],
                            segment_k: stop - start,
                            last_k: stop - start,
                        };
                        for panel in panels.clone() {
                            let a = work.inputs.place(block, start);
                            let b = (panel * plan.room + start - first) * S::NR;
                            let c = point * plan.sums_point::<S>() + plan.place::<S>(block, panel);
                            // SAFETY: k goes over tiles of the chunk that have this point, which both operands hold;
                            // the sums have sixteen panel rows for each block and panel.
                            unsafe {
                                microkernel.run(
                                    self.simd,
                                    work.inputs.values.at(point * plan.v_point + a),
                                    work.outputs.at(point * plan.m_point + b).cast_const(),
                                    InMemory {
                                        c: sums.at(c),
                                        accumulate: !work.is_first,
                                    },
                                );
                            }
                        }
                    }
                }
            },
        );
    }

    /// Writes the weights' gradient from a rectangle's sums.
    ///
    /// # Safety
    /// As for [`finish`](Self::finish), of each of its channel blocks and panels.
    unsafe fn finish_rectangle<P: TileFamily>(&self, rectangle: usize, sums: Shared<'_>) {
        let (blocks, panels) = self.plan.rectangle(rectangle);
        self.simd.vectorize(
            #[inline(always)]
            || {
                for block in blocks {
                    for panel in panels.clone() {
                        // SAFETY: the sums and weights of this block and panel are the caller's, as those of all of
                        // the rectangle are.
                        unsafe { self.finish::<P>(sums, block, panel) };
                    }
                }
            },
        );
    }

    /// Writes the weights' gradient from sums that waited, on all threads.
    fn finish_all<P: TileFamily>(&self) {
        let plan = &self.plan;
        for_each(plan.blocks * plan.panels, |item| {
            let (block, panel) = (item / plan.panels, item % plan.panels);
            let len = plan.sums_len::<S>();
            let sums = self.sums.part(plan.rectangle_of(block, panel) * len, len);
            self.simd.vectorize(
                #[inline(always)]
                // SAFETY: all sums are there and only read; an item writes the weights of its block and panel.
                || unsafe { self.finish::<P>(sums, block, panel) },
            );
        });
    }

    /// Transforms the sums of a channel block and a panel back, and writes them.
    ///
    /// # Safety
    /// `sums` are their rectangle's, which nobody writes, and nobody else writes these weights.
    #[inline(always)]
    unsafe fn finish<P: TileFamily>(&self, sums: Shared<'_>, block: usize, panel: usize) {
        let (simd, plan) = (self.simd, &self.plan);
        for vector in 0..S::NR_VECTORS {
            let first_output = panel * S::NR + vector * LANES;
            if first_output >= plan.to.shape.channels {
                break;
            }
            let mut taps = TapGradients([0.0; LANES * 9 * LANES]);
            for (input, taps) in taps.0.chunks_exact_mut(9 * LANES).enumerate() {
                let at = plan.place::<S>(block, panel) + input * S::NR + vector * LANES;
                // SAFETY: the sums have sixteen panel rows for the block and panel at each point, and `taps` has nine
                // vectors.
                unsafe {
                    let u = (sums.at(at).cast_const(), plan.sums_point::<S>());
                    weights_back::<S, P>(simd, u, plan.from.point_grid(), taps.as_mut_ptr());
                }
            }
            // SAFETY: these weights are the caller's alone.
            unsafe { self.write(&taps, first_output, block * LANES) };
        }
    }

    /// Writes what there is of the weights from sixteen inputs to sixteen outputs.
    ///
    /// # Safety
    /// Nobody else reads or writes them.
    #[inline(always)]
    unsafe fn write(&self, taps: &TapGradients, first_output: usize, first_input: usize) {
        let (from, to) = (self.plan.from.shape, self.plan.to.shape);
        let inputs = LANES.min(from.channels - first_input);
        let outputs = LANES.min(to.channels - first_output);
        let row = from.channels * 9;
        let taps = taps.0.as_ptr();
        // SAFETY: there are so many inputs and outputs from these on, and `taps` holds 144 rows of sixteen outputs.
        unsafe {
            let dw = self.dw.at(first_output * row + first_input * 9);
            if inputs == LANES && outputs == LANES {
                for run in 0..9 {
                    let from = taps.add(run * LANES * LANES);
                    self.simd
                        .transpose((from, LANES), (dw.add(run * LANES), row as isize));
                }
                return;
            }
            for output in 0..outputs {
                for weight in 0..inputs * 9 {
                    *dw.add(output * row + weight) = *taps.add(weight * LANES + output);
                }
            }
        }
    }
}

/// Gradients of the weights from sixteen inputs to sixteen outputs, (input, tap, output). Its vectors do not lie across
/// two cache lines.
#[repr(align(64))]
struct TapGradients([f32; LANES * 9 * LANES]);
