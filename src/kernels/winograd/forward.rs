//! The convolution through Winograd tiles: transform, products at every point, transform back.

use std::ops::Range;

use super::super::blocking::{
    OWN_CHUNK_BYTES, POINT_PAD, PRODUCTS_BYTES, SHARED_CHUNK_BYTES, SMALL_WEIGHT_BYTES,
    WEIGHT_PANEL_BYTES,
};
use super::super::epilogue::Epilogue;
use super::super::gemm::{InMemory, Microkernel};
use super::super::parallel::{Shared, for_each, part};
use super::super::scratch::{Scratch, with_own};
use super::super::shape::Shape;
use super::super::simd::{LANES, Simd};
use super::super::weights::{Taps, Weights};
use super::super::window::{Padding, Window};
use super::chunk::Chunk;
use super::filtering::{Filtering, Maps, Units, Written};
use super::pack::{pack, packed_len, transform_taps, units};

/// Convolves blocked `x`, of `input`'s shape, with 3×3 `weights` into blocked `y`. Weights that are used often are
/// given packed, by [`pack`]; others are transformed, if they are large a panel at a time.
#[expect(clippy::too_many_arguments, reason = "a layer's operands")]
pub(crate) fn convolve<S: Simd, F: Filtering>(
    simd: S,
    x: &[f32],
    input: Shape,
    window: Window,
    weights: &Weights<'_>,
    packed: Option<&[f32]>,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let output = window.output(input).with_channels(weights.sizes().0);
    let maps = Maps {
        x,
        shape: input,
        corner: corner(window),
    };
    filter::<S, F>(simd, maps, weights, packed, (output, (0, 0)), epilogue, y);
}

/// The row and column that a window begins with.
pub(super) fn corner(window: Window) -> (isize, isize) {
    let Padding { top, left, .. } = window.padding;
    (-(top as isize), -(left as isize))
}

/// The same from maps to `output`, of whose first tile so many rows are above it and columns before it.
pub(super) fn filter<S: Simd, F: Filtering>(
    simd: S,
    maps: Maps<'_>,
    weights: &Weights<'_>,
    packed: Option<&[f32]>,
    output: (Shape, (usize, usize)),
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    assert_eq!((output.0.channels, maps.shape.channels), weights.sizes());
    if y.is_empty() {
        return;
    }
    let units = units::<S, F>(weights);
    let convolution = Convolution::new::<F>(simd, maps, output, units, epilogue, y);
    let is_small = 4 * packed_len::<S, F>(simd, weights) <= SMALL_WEIGHT_BYTES;
    let made;
    let packed = match packed {
        None if is_small => {
            made = pack::<S, F>(simd, weights);
            Some(&*made)
        }
        packed => packed,
    };
    match packed {
        Some(packed) if is_small => convolution.by_chunk::<F>(packed),
        Some(packed) => convolution.by_panel::<F>(PanelWeights::Packed(packed)),
        None => convolution.by_panel::<F>(PanelWeights::Unpacked(weights)),
    }
}

/// The same with packed weights of few channels.
pub(super) fn filter_packed<S: Simd, F: Filtering>(
    simd: S,
    maps: Maps<'_>,
    (packed, units): (&[f32], Units),
    output: Shape,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let output = (output, (0, 0));
    Convolution::new::<F>(simd, maps, output, units, epilogue, y).by_chunk::<F>(packed);
}

/// What a panel's products are made with.
#[derive(Clone, Copy)]
enum PanelWeights<'a> {
    Packed(&'a [f32]),
    /// Transformed by the thread that uses them: nine numbers are read from memory for up to 64, and 64 are not
    /// written.
    Unpacked(&'a Weights<'a>),
}

/// A convolution's operands and sizes.
struct Convolution<'a, S> {
    simd: S,
    maps: Maps<'a>,
    to: Written<'a>,
    in_blocks: usize,
    /// Channels of the last block that are no padding, where it is the only one.
    last_k: usize,
    panels: usize,
    /// Floats of a panel's packed weights.
    panel_len: usize,
    /// Where they lie.
    units: Units,
}

/// Some of a chunk's tiles, and room for their products with one panel.
struct Work<'a> {
    chunk: Chunk<'a>,
    tiles: Range<usize>,
    /// (output part, point, tile of the chunk, output within the panel)
    products: Shared<'a>,
    /// Floats from point to point in `products`.
    point: usize,
}

/// Where the parts of a tile's channel blocks begin, from the first, block by block, for each kind of point.
type Segments = Vec<Vec<usize>>;

impl<'a, S: Simd> Convolution<'a, S> {
    fn new<F: Filtering>(
        simd: S,
        maps: Maps<'a>,
        (shape, before): (Shape, (usize, usize)),
        units: Units,
        epilogue: &'a Epilogue<'a>,
        y: &'a mut [f32],
    ) -> Self {
        let written = if epilogue.pool { shape.pooled() } else { shape };
        assert_eq!(y.len(), written.blocked_len());
        epilogue.check(shape.channels, y.len());
        assert!(!epilogue.is_unsettled(), "tiles settle nothing");
        Self {
            simd,
            maps,
            to: Written {
                tiling: F::tiling(shape, before),
                y: Shared::new(y),
                shape,
                before,
                epilogue,
            },
            in_blocks: maps.shape.blocks(),
            last_k: if F::PARTS == 1 && maps.shape.blocks() == 1 {
                maps.shape.channels
            } else {
                LANES
            },
            panels: shape.channels.div_ceil(S::NR),
            panel_len: F::units(F::POINTS, F::POINTS) * units.len,
            units,
        }
    }

    /// Floats from point to point in the products of `room` tiles with a panel.
    fn products_point(room: usize) -> usize {
        room * S::NR + POINT_PAD
    }

    /// The segments of some of the channel blocks, of a chunk with room for so many tiles.
    fn segments<F: Filtering>(&self, blocks: &Range<usize>, room: usize) -> Segments {
        let place = |block: usize, part: usize| (part * self.in_blocks + block) * room * LANES;
        let of_kind = |parts: &&'static [usize]| {
            let parts = parts.iter();
            let of_block = |block| parts.clone().map(move |part| place(block, *part));
            blocks.clone().flat_map(of_block).collect()
        };
        F::KINDS.iter().map(of_kind).collect()
    }

    /// Each thread takes small chunks of tiles from input to output.
    fn by_chunk<F: Filtering>(&self, packed: &[f32]) {
        assert_eq!(packed.len(), self.panels * self.panel_len);
        let (down, across) = self.to.tiling.point_grid();
        let tiles = self.to.tiling.tiles();
        // Products take room too, if there are more of them than inputs.
        let wide = (F::PARTS * self.in_blocks * LANES).max(2 * F::OUTPUT_PARTS * S::NR);
        let per_tile = 4 * down * across * wide;
        let most = (OWN_CHUNK_BYTES / per_tile / S::MR).max(1) * S::MR;
        let chunks = tiles
            .div_ceil(most)
            .max(rayon::current_num_threads().min(tiles));
        let room = tiles.div_ceil(chunks);
        let v_point = Chunk::point_len::<F>(self.in_blocks, room);
        let m_point = Self::products_point(room);
        let points = down * across;
        let (v_len, m_len) = (points * v_point, F::OUTPUT_PARTS * points * m_point);
        let segments = self.segments::<F>(&(0..self.in_blocks), room);
        for_each(chunks, |index| {
            with_own(v_len + m_len, |own| {
                let (v, m) = own.split_at_mut(v_len);
                // Even chunks: the last one is not the smallest.
                let tiles = part(&(0..tiles), index, chunks);
                let work = Work {
                    chunk: Chunk::new::<F>(Shared::new(v), self.in_blocks, room, tiles.start),
                    tiles,
                    products: Shared::new(m),
                    point: m_point,
                };
                self.simd.vectorize(
                    #[inline(always)]
                    // SAFETY: the chunk and the products are this thread's own, made for `room` tiles, and so many are
                    // in `tiles`; their outputs are written by this item alone. The length of `packed` was checked.
                    || unsafe {
                        let tiles = work.tiles.clone();
                        let chunk = &work.chunk;
                        chunk.fill::<S, F>(self.simd, &self.maps, &self.to.tiling, tiles);
                        for panel in 0..self.panels {
                            self.packed_products::<F>(&work, &segments, panel, packed);
                            self.outputs::<F>(&work, panel);
                        }
                    },
                );
            });
        });
    }

    /// All threads transform a large chunk of tiles, then each takes a panel of output channels at a time.
    fn by_panel<F: Filtering>(&self, weights: PanelWeights<'_>) {
        if let PanelWeights::Packed(packed) = weights {
            assert_eq!(packed.len(), self.panels * self.panel_len);
        }
        let (down, across) = self.to.tiling.point_grid();
        let points = down * across;
        let tiles = self.to.tiling.tiles();
        let per_tile = 4 * points * F::PARTS * self.in_blocks * LANES;
        let products_per_tile = 4 * F::OUTPUT_PARTS * points * S::NR;
        let most = (SHARED_CHUNK_BYTES / per_tile).min(PRODUCTS_BYTES / products_per_tile);
        let chunks = tiles.div_ceil(most.max(S::MR));
        let room = tiles.div_ceil(chunks);
        let v_point = Chunk::point_len::<F>(self.in_blocks, room);
        let m_point = Self::products_point(room);
        let segments = self.segments::<F>(&(0..self.in_blocks), room);
        let mut v = Scratch::new(points * v_point);
        let values = Shared::new(&mut v);
        for index in 0..chunks {
            let tiles = part(&(0..tiles), index, chunks);
            let chunk = Chunk::new::<F>(values, self.in_blocks, room, tiles.start);
            // SAFETY: the chunk is made for `room` tiles, at least as many as these; nothing else runs at this time.
            unsafe {
                chunk.fill_together::<S, F>(self.simd, &self.maps, &self.to.tiling, tiles.clone());
            }
            // Threads beyond the number of panels share their tiles.
            let parts = rayon::current_num_threads().div_ceil(self.panels);
            let parts = parts.min(tiles.len().div_ceil(S::MR));
            for_each(self.panels * parts, |item| {
                let panel = item / parts;
                with_own(F::OUTPUT_PARTS * points * m_point, |m| {
                    let work = Work {
                        chunk,
                        tiles: part(&tiles, item % parts, parts),
                        products: Shared::new(m),
                        point: m_point,
                    };
                    // SAFETY: the chunk was filled, and is only read here; the products are this thread's own, with
                    // room for its tiles; an item alone writes its panel's outputs of its tiles.
                    unsafe { self.panel::<F>(&work, &segments, panel, weights) };
                });
            });
        }
    }

    /// A panel's outputs of some of a chunk's tiles.
    ///
    /// # Safety
    /// As for [`products`](Self::products) and [`outputs`](Self::outputs).
    unsafe fn panel<F: Filtering>(
        &self,
        work: &Work<'_>,
        segments: &Segments,
        panel: usize,
        weights: PanelWeights<'_>,
    ) {
        self.simd.vectorize(
            #[inline(always)]
            // SAFETY: the caller says what all three ask for.
            || unsafe {
                match weights {
                    PanelWeights::Packed(u) => {
                        self.packed_products::<F>(work, segments, panel, u);
                    }
                    PanelWeights::Unpacked(weights) => {
                        self.unpacked_products::<F>(work, panel, weights);
                    }
                }
                self.outputs::<F>(work, panel);
            },
        );
    }

    /// A panel's products with packed weights.
    ///
    /// # Safety
    /// As for [`products`](Self::products), but for the weights, which are packed for this convolution.
    #[inline(always)]
    unsafe fn packed_products<F: Filtering>(
        &self,
        work: &Work<'_>,
        segments: &Segments,
        panel: usize,
        packed: &[f32],
    ) {
        let u = packed[panel * self.panel_len..][..self.panel_len].as_ptr();
        // SAFETY: there are the points of the largest tile, of which smaller tiles use the first.
        unsafe { self.products::<F>(work, segments, (u, self.units), false) };
    }

    /// A panel's products with weights that are transformed here, some channel blocks at a time.
    ///
    /// # Safety
    /// As for [`products`](Self::products), but for the weights.
    #[inline(always)]
    unsafe fn unpacked_products<F: Filtering>(
        &self,
        work: &Work<'_>,
        panel: usize,
        weights: &Weights<'_>,
    ) {
        let (down, across) = self.to.tiling.point_grid();
        let of_block = F::units(down, across) * LANES * S::NR;
        let most = (WEIGHT_PANEL_BYTES / (4 * of_block)).clamp(1, self.in_blocks);
        let mut own = Scratch::new(most * of_block + F::units(down, across) * POINT_PAD);
        let mut taps = Taps::ZERO;
        for first in (0..self.in_blocks).step_by(most) {
            let blocks = first..self.in_blocks.min(first + most);
            let units = Units {
                across,
                len: blocks.len() * LANES * S::NR + POINT_PAD,
                blocks: blocks.len(),
            };
            let u = own.as_mut_ptr();
            for block in blocks.clone() {
                weights.read_taps(self.simd, panel, block, &mut taps);
                for input in 0..LANES {
                    let row = (block - first) * LANES + input;
                    let taps = taps.of::<S>(input);
                    // SAFETY: `own` is made for the panel rows of so many blocks at each unit.
                    unsafe {
                        let u = (u.add(row * S::NR), units);
                        transform_taps::<S, F>(self.simd, taps, u, (down, across));
                    }
                }
            }
            let segments = self.segments::<F>(&blocks, work.chunk.room);
            // SAFETY: these are the points of these blocks' weights, filled just now.
            unsafe { self.products::<F>(work, &segments, (u.cast_const(), units), first > 0) };
        }
    }

    /// A panel's products of the tiles at every point, over the channel blocks of the segments.
    ///
    /// # Safety
    /// The chunk holds the tiles, transformed; the products have room for them and are the caller's alone; `u` holds
    /// the panel rows for these blocks at each unit.
    #[inline(always)]
    unsafe fn products<F: Filtering>(
        &self,
        work: &Work<'_>,
        segments: &Segments,
        (u, units): (*const f32, Units),
        accumulate: bool,
    ) {
        let (down, across) = self.to.tiling.point_grid();
        let points = down * across;
        for index in 0..F::OUTPUT_PARTS * points {
            let (output_part, point) = (index / points, index % points);
            let (row, column) = (point / across, point % across);
            let tiles = self.to.tiling.with_point(row, column);
            let first = tiles.start.max(work.tiles.start);
            let end = tiles.end.min(work.tiles.end);
            if first >= end || !F::has(output_part, row, column) {
                continue;
            }
            let microkernel = Microkernel::<LANES, 1> {
                vectors: S::NR_VECTORS,
                m: end - first,
                segments: &segments[F::kind(row, column)],
                segment_k: LANES,
                last_k: self.last_k,
            };
            let skipped = first - work.chunk.first;
            // SAFETY: rows are the tiles from `first` to `end`, which chunk and products have at this point.
            unsafe {
                let v = work.chunk.values;
                let v = v.at(point * work.chunk.point + skipped * LANES);
                let m = work.products.at(index * work.point + skipped * S::NR);
                let u = F::panel_rows::<S>(u, units, (row, column), output_part);
                let output = InMemory { c: m, accumulate };
                microkernel.run(self.simd, v, u, output);
            }
        }
    }

    /// Transforms a panel's products back.
    ///
    /// # Safety
    /// The products hold the tiles', which are the output's, and nobody else writes their outputs in the panel.
    #[inline(always)]
    unsafe fn outputs<F: Filtering>(&self, work: &Work<'_>, panel: usize) {
        for vector in 0..S::NR_VECTORS {
            let block = panel * S::NR_VECTORS + vector;
            if block == self.to.shape.blocks() {
                break;
            }
            for index in work.tiles.clone() {
                let tile = self.to.tiling.tile(index);
                let first = (index - work.chunk.first) * S::NR + vector * LANES;
                // SAFETY: the products have the tile at each point. The length of `y` and the epilogue were checked.
                unsafe {
                    let m = (work.products.at(first).cast_const(), work.point);
                    F::output_tile(self.simd, m, &self.to, (tile, block));
                }
            }
        }
    }
}
