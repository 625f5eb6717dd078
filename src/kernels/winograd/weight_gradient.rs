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
use super::super::window::Window;
use super::chunk::{Chunk, for_each_group, groups};
use super::filtering::{FilteringBack, Maps, Transformed};
use super::forward::corner;
use super::points::{F2, F4, F6};
use super::strided::Strided;
use super::tiling::Tiling;

/// Writes the gradients of the weights (out, in, 3, 3) and the bias (out), from blocked input `x` and the blocked
/// gradient `dy` of the sums of a convolution with stride 1 or 2. The tiles are those with the fewest products.
pub(crate) fn parameter_gradients(
    isa: Isa,
    x: &[f32],
    input: Shape,
    window: Window,
    dy: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let output = window.output(input).with_channels(db.len());
    assert_eq!(
        (x.len(), dy.len()),
        (input.blocked_len(), output.blocked_len())
    );
    let corner = corner(window);
    let maps = |x, shape| Maps { x, shape, corner };
    let (from, to) = (maps(x, input), maps(dy, output));
    let points = |largest: usize| Tiling::of_largest(output, largest).total_points();
    with_simd!(isa, simd => if window.stride == 2 {
        of_family::<_, Strided>(simd, &from, &to, dw, db);
    } else if points(6) < points(4) {
        of_family::<_, F6>(simd, &from, &to, dw, db);
    } else if points(4) < points(2) {
        of_family::<_, F4>(simd, &from, &to, dw, db);
    } else {
        of_family::<_, F2>(simd, &from, &to, dw, db);
    });
}

/// [`parameter_gradients`] with a family's tiles, of weights (out, in, taps).
pub(super) fn of_family<S: Simd, F: FilteringBack>(
    simd: S,
    inputs: &Maps<'_>,
    outputs: &Maps<'_>,
    dw: &mut [f32],
    db: &mut [f32],
) {
    assert_eq!(
        dw.len(),
        outputs.shape.channels * inputs.shape.channels * F::TAPS
    );
    db.fill(0.0);
    let tiling = F::tiling(outputs.shape, (0, 0));
    if tiling.tiles() == 0 {
        dw.fill(0.0);
        return;
    }
    let plan = Plan::new::<S, F>(inputs.shape, tiling);
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
    let plan = &gradient.plan;
    for index in 0..plan.chunks {
        let tiles = part(&(0..tiling.tiles()), index, plan.chunks);
        let work = Work {
            inputs: Chunk::new::<F>(v, plan.blocks, plan.room, tiles.start),
            outputs: m,
            tiles,
            is_first: index == 0,
        };
        let tiles = work.tiles.clone();
        // SAFETY: the chunk is made for `room` tiles, at least as many as these; nothing else runs at this time.
        unsafe {
            work.inputs
                .fill_together::<S, F>(simd, inputs, &tiling, tiles)
        };
        gradient.transform_outputs::<F>(&work, outputs, db);
        gradient.accumulate::<F>(&work);
    }
    if plan.sums_wait {
        gradient.finish_all::<F>();
    }
}

/// How the work is cut: tiles into chunks, and for each chunk the channel blocks times panels into rectangles, at some
/// of the points each if there are few rectangles. It depends on the layer's shape alone, so the order of every sum
/// does too.
struct Plan {
    tiling: Tiling,
    in_channels: usize,
    blocks: usize,
    panels: usize,
    /// Points in all.
    points: usize,
    /// Channel blocks of a rectangle at most, each with all of its parts.
    high: usize,
    /// Parts of a channel block.
    parts_of_block: usize,
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
    fn new<S: Simd, F: FilteringBack>(input: Shape, tiling: Tiling) -> Self {
        let (blocks, panels) = (input.blocks(), tiling.shape.channels.div_ceil(S::NR));
        let (down, across) = tiling.point_grid();
        let points = down * across;
        let strips = panels.div_ceil(GRADIENT_PANELS);
        let high = GRADIENT_BLOCKS / F::PARTS;
        let rectangles = blocks.div_ceil(high) * strips;
        let parts = GRADIENT_ITEMS.div_ceil(rectangles).min(points);
        let most = if parts > 1 {
            SMALL_SUMS_CHUNK_BYTES
        } else {
            LARGE_SUMS_CHUNK_BYTES
        };
        let per_tile = 4 * points * (F::PARTS * blocks * LANES + panels * S::NR);
        let chunks = tiling.tiles().div_ceil((most / per_tile).max(LANES));
        let room = tiling.tiles().div_ceil(chunks);
        Self {
            tiling,
            in_channels: input.channels,
            high,
            parts_of_block: F::PARTS,
            blocks,
            panels,
            points,
            strips,
            rectangles,
            parts,
            chunks,
            room,
            v_point: Chunk::point_len::<F>(blocks, room),
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
            run(index / self.strips, self.high, self.blocks),
            run(index % self.strips, GRADIENT_PANELS, self.panels),
        )
    }

    /// The rectangle that has a channel block and a panel.
    fn rectangle_of(&self, block: usize, panel: usize) -> usize {
        block / self.high * self.strips + panel / GRADIENT_PANELS
    }

    /// Where the sums of a part of a channel block and a panel begin in those of their rectangle, at each point.
    fn place<S: Simd>(&self, part: usize, block: usize, panel: usize) -> usize {
        let within = block % self.high * self.parts_of_block + part;
        (within * GRADIENT_PANELS + panel % GRADIENT_PANELS) * LANES * S::NR
    }

    /// Floats from part to part of a rectangle's sums.
    fn part_len<S: Simd>() -> usize {
        GRADIENT_PANELS * LANES * S::NR
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
    fn transform_outputs<F: FilteringBack>(
        &self,
        work: &Work<'_>,
        maps: &Maps<'_>,
        db: &mut [f32],
    ) {
        let Plan {
            tiling, m_point, ..
        } = &self.plan;
        let blocks = tiling.shape.blocks();
        assert_eq!(maps.shape, tiling.shape);
        let mut biases = vec![0.0; groups(&work.tiles) * blocks * LANES];
        let shared = Shared::new(&mut biases);
        for_each_group(work.tiles.clone(), |group, tiles| {
            // SAFETY: a group has its own sums.
            let biases = unsafe { shared.slice(group * blocks * LANES, blocks * LANES) };
            self.simd.vectorize(
                #[inline(always)]
                || {
                    for index in tiles {
                        let tile = tiling.tile(index);
                        for (block, bias) in biases.chunks_exact_mut(LANES).enumerate() {
                            let (panel, lanes) = (block * LANES / S::NR, block * LANES % S::NR);
                            let tile_of_chunk = index - work.tiles.start;
                            let first = (panel * self.plan.room + tile_of_chunk) * S::NR + lanes;
                            // SAFETY: the maps were checked. The chunk has room for the tile at each point, and groups
                            // share no tile; `bias` has sixteen floats.
                            unsafe {
                                let to = Transformed {
                                    v: work.outputs.at(first),
                                    point: *m_point,
                                    part: 0,
                                    across: tiling.point_grid().1,
                                };
                                let place = (tile, block);
                                let sum = F::output_tile_back(self.simd, maps, place, to);
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
    fn accumulate<F: FilteringBack>(&self, work: &Work<'_>) {
        let plan = &self.plan;
        for_each(plan.rectangles * plan.parts, |item| {
            let rectangle = item / plan.parts;
            let points = part(&(0..plan.points), item % plan.parts, plan.parts);
            let len = plan.sums_len::<S>();
            if plan.sums_wait {
                let sums = self.sums.part(rectangle * len, len);
                // SAFETY: an item writes its rectangle's sums at its own points.
                unsafe { self.products::<F>(work, rectangle, points, sums) };
            } else {
                // SAFETY: the buffer is the thread's own, and the weights are the item's alone: it has all points.
                with_own(len, |own| unsafe {
                    let sums = Shared::new(own);
                    self.products::<F>(work, rectangle, points, sums);
                    self.finish_rectangle::<F>(rectangle, sums);
                });
            }
        });
    }

    /// Adds a chunk's products to a rectangle's sums, at some of the points.
    ///
    /// # Safety
    /// The sums are a rectangle's, and nobody else reads or writes them at these points.
    unsafe fn products<F: FilteringBack>(
        &self,
        work: &Work<'_>,
        rectangle: usize,
        points: Range<usize>,
        sums: Shared<'_>,
    ) {
        let plan = &self.plan;
        let (blocks, panels) = plan.rectangle(rectangle);
        let (_, across) = plan.tiling.point_grid();
        let (first, end) = (work.tiles.start, work.tiles.end);
        self.simd.vectorize(
            #[inline(always)]
            || {
                for point in points {
                    let (row, column) = (point / across, point % across);
                    let with = plan.tiling.with_point(row, column);
                    let start = with.start.clamp(first, end);
                    let stop = with.end.clamp(start, end);
                    let parts = F::KINDS[F::kind(row, column)];
                    let of_block = |block| parts.iter().map(move |part| (block, *part));
                    for (block, part) in blocks.clone().flat_map(of_block) {
                        let microkernel = Microkernel::<1, LANES> {
                            vectors: S::NR_VECTORS,
                            m: LANES.min(plan.in_channels - block * LANES),
                            segments: &[0],
                            segment_k: stop - start,
                            last_k: stop - start,
                        };
                        for panel in panels.clone() {
                            let a = work.inputs.place(part, block, start);
                            let b = (panel * plan.room + start - first) * S::NR;
                            let place = plan.place::<S>(part, block, panel);
                            let c = point * plan.sums_point::<S>() + place;
                            // SAFETY: k goes over tiles of the chunk that have this point, which both operands hold;
                            // the sums have sixteen panel rows for each part of a block and panel.
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
    unsafe fn finish_rectangle<F: FilteringBack>(&self, rectangle: usize, sums: Shared<'_>) {
        let (blocks, panels) = self.plan.rectangle(rectangle);
        self.simd.vectorize(
            #[inline(always)]
            || {
                for block in blocks {
                    for panel in panels.clone() {
                        // SAFETY: the sums and weights of this block and panel are the caller's, as those of all of
                        // the rectangle are.
                        unsafe { self.finish::<F>(sums, block, panel) };
                    }
                }
            },
        );
    }

    /// Writes the weights' gradient from sums that waited, on all threads.
    fn finish_all<F: FilteringBack>(&self) {
        let plan = &self.plan;
        for_each(plan.blocks * plan.panels, |item| {
            let (block, panel) = (item / plan.panels, item % plan.panels);
            let len = plan.sums_len::<S>();
            let sums = self.sums.part(plan.rectangle_of(block, panel) * len, len);
            self.simd.vectorize(
                #[inline(always)]
                // SAFETY: all sums are there and only read; an item writes the weights of its block and panel.
                || unsafe { self.finish::<F>(sums, block, panel) },
            );
        });
    }

    /// Transforms the sums of a channel block and a panel back, and writes them.
    ///
    /// # Safety
    /// `sums` are their rectangle's, which nobody writes, and nobody else writes these weights.
    #[inline(always)]
    unsafe fn finish<F: FilteringBack>(&self, sums: Shared<'_>, block: usize, panel: usize) {
        let (simd, plan) = (self.simd, &self.plan);
        for vector in 0..S::NR_VECTORS {
            let first_output = panel * S::NR + vector * LANES;
            if first_output >= plan.tiling.shape.channels {
                break;
            }
            let mut taps = TapGradients([0.0; LANES * MAX_TAPS * LANES]);
            let of_inputs = taps.0.chunks_exact_mut(F::TAPS * LANES).take(LANES);
            for (input, taps) in of_inputs.enumerate() {
                let at = plan.place::<S>(0, block, panel) + input * S::NR + vector * LANES;
                // SAFETY: the sums have sixteen panel rows for each part of the block and the panel at each point, and
                // `taps` has a vector for each tap.
                unsafe {
                    let u = sums.at(at).cast_const();
                    let u = (u, plan.sums_point::<S>(), Plan::part_len::<S>());
                    F::weights_back(simd, u, plan.tiling.point_grid(), taps.as_mut_ptr());
                }
            }
            // SAFETY: these weights are the caller's alone.
            unsafe { self.write::<F>(&taps, first_output, block * LANES) };
        }
    }

    /// Writes what there is of the weights from sixteen inputs to sixteen outputs.
    ///
    /// # Safety
    /// Nobody else reads or writes them.
    #[inline(always)]
    unsafe fn write<F: FilteringBack>(
        &self,
        taps: &TapGradients,
        first_output: usize,
        first_input: usize,
    ) {
        let (in_channels, out_channels) = (self.plan.in_channels, self.plan.tiling.shape.channels);
        let inputs = LANES.min(in_channels - first_input);
        let outputs = LANES.min(out_channels - first_output);
        let row = in_channels * F::TAPS;
        let taps = taps.0.as_ptr();
        // SAFETY: there are so many inputs and outputs from these on, and `taps` holds as many rows of sixteen outputs
        // as sixteen inputs have taps.
        unsafe {
            let dw = self.dw.at(first_output * row + first_input * F::TAPS);
            if inputs == LANES && outputs == LANES {
                for run in 0..F::TAPS {
                    let from = taps.add(run * LANES * LANES);
                    self.simd
                        .transpose((from, LANES), (dw.add(run * LANES), row as isize));
                }
                return;
            }
            for output in 0..outputs {
                for weight in 0..inputs * F::TAPS {
                    *dw.add(output * row + weight) = *taps.add(weight * LANES + output);
                }
            }
        }
    }
}

/// Gradients of the weights from sixteen inputs to sixteen outputs, (input, tap, output). Its vectors do not lie across
/// two cache lines.
#[repr(align(64))]
struct TapGradients([f32; LANES * MAX_TAPS * LANES]);

/// The most taps of a window.
const MAX_TAPS: usize = 16;
