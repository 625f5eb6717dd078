//! The 3×3 convolution through Winograd tiles: transform, products at every point, transform back.

use std::ops::Range;

use super::chunk::{Chunk, PAD};
use super::epilogue::Epilogue;
use super::filters::{self, Filters, Taps};
use super::gemm::Product;
use super::layout::Maps;
use super::parallel::{Shared, for_each, part};
use super::scratch::{Scratch, with_own};
use super::simd::{LANES, Simd};
use super::tile::Points;
use super::tiling::Tiling;
use super::transform::output_tile;

/// Transformed weights up to this many bytes are read once per small chunk of tiles by each thread, larger ones once per
/// large chunk by all threads together.
const SMALL_BYTES: usize = 5 << 20;

/// Bytes of transformed input that a thread's own chunk of tiles may take: it stays in the second-level cache.
const OWN_BYTES: usize = 600 << 10;

/// Bytes of transformed input that a chunk of tiles shared by all threads may take: it stays in the last cache.
const SHARED_BYTES: usize = 12 << 20;

/// Bytes of transformed weights that a thread makes at a time.
const PANEL_BYTES: usize = 512 << 10;

/// A convolution's operands and sizes.
struct Layer<'a> {
    x: &'a [f32],
    /// The inputs cut into tiles.
    from: Tiling,
    /// The outputs cut into tiles.
    to: Tiling,
    in_blocks: usize,
    panels: usize,
    /// Floats of a panel row.
    panel: usize,
    epilogue: &'a Epilogue<'a>,
    y: Shared,
}

/// Convolves `x`, of `input`'s shape, with the weights of `filters` into `y`. Those that are used often are given as
/// [`points`](filters::points); others are transformed, if they are large a panel at a time.
pub(super) fn convolve<S: Simd, P: Points>(
    x: &[f32],
    input: Maps,
    filters: &Filters<'_>,
    points: Option<&[f32]>,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let (out_channels, in_channels) = filters.sizes();
    let panel = S::PANEL_VECTORS * LANES;
    let panels = out_channels.div_ceil(panel);
    let output = input.with_channels(out_channels);
    let written = if epilogue.pool {
        output.pooled()
    } else {
        output
    };
    assert_eq!(input.channels, in_channels);
    assert_eq!((x.len(), y.len()), (input.len(), written.len()));
    epilogue.check(out_channels, y.len());
    if y.is_empty() {
        return;
    }
    let layer = Layer {
        x,
        from: Tiling::new::<P>(input),
        to: Tiling::new::<P>(output),
        in_blocks: input.blocks(),
        panels,
        panel,
        epilogue,
        y: Shared::new(y),
    };
    let length = filters::points_len::<S, P>(filters);
    let is_small = 4 * length <= SMALL_BYTES;
    let made;
    let points = match points {
        None if is_small => {
            made = filters::points::<S, P>(filters);
            Some(&*made)
        }
        points => points,
    };
    match points {
        Some(points) => {
            assert_eq!(points.len(), length);
            if is_small {
                layer.by_chunk::<S, P>(points);
            } else {
                layer.by_panel::<S, P>(Weights::Points(points));
            }
        }
        None => layer.by_panel::<S, P>(Weights::Filters(filters)),
    }
}

/// What a panel's products are made with.
#[derive(Clone, Copy)]
enum Weights<'a> {
    Points(&'a [f32]),
    /// Transformed by the thread that uses them: nine numbers are read from memory for up to 64, and 64 are not
    /// written.
    Filters(&'a Filters<'a>),
}

impl Layer<'_> {
    /// Points down and across.
    fn points(&self) -> (usize, usize) {
        self.from.points()
    }

    fn m_point(&self, room: usize) -> usize {
        room * self.panel + PAD
    }

    /// Where the channel blocks of a tile begin, from the first.
    fn segments(&self, room: usize) -> Vec<usize> {
        (0..self.in_blocks)
            .map(|block| block * room * LANES)
            .collect()
    }

    /// Each thread takes small chunks of tiles from input to output.
    fn by_chunk<S: Simd, P: Points>(&self, u: &[f32]) {
        let (down, across) = self.points();
        let tiles = self.from.tiles();
        let per_tile = 4 * down * across * self.in_blocks * LANES;
        let most = (OWN_BYTES / per_tile / S::ROWS).max(1) * S::ROWS;
        let chunks = tiles
            .div_ceil(most)
            .max(rayon::current_num_threads().min(tiles));
        let room = tiles.div_ceil(chunks);
        let (v_point, m_point) = (Chunk::point_len(self.from.maps, room), self.m_point(room));
        let (v_len, m_len) = (down * across * v_point, down * across * m_point);
        let segments = self.segments(room);
        for_each(chunks, 1, |index| {
            with_own(v_len + m_len, |own| {
                let (v, m) = own.split_at_mut(v_len);
                // Even chunks: the last one is not the smallest.
                let range = part(&(0..tiles), index, chunks);
                let chunk = Chunk {
                    first: range.start,
                    room,
                    values: Shared::new(v),
                    point: v_point,
                };
                let m = m.as_mut_ptr();
                // SAFETY: the kernels were chosen for this processor. Chunks have at most `room` tiles, which v and m
                // are made for; sizes of x, u and y were checked; a tile's outputs are written by this item alone.
                unsafe {
                    S::vectorize(
                        #[inline(always)]
                        || {
                            chunk.fill::<S, P>(self.x.as_ptr(), &self.from, range.clone());
                            for panel in 0..self.panels {
                                let (range, m) = (&range, (m, m_point));
                                self.ready_products::<S, P>(chunk, range, &segments, panel, u, m);
                                self.outputs::<S, P>(chunk, range, panel, m);
                            }
                        },
                    );
                }
            });
        });
    }

    /// All threads transform a large chunk of tiles, then each takes a panel of output channels at a time.
    fn by_panel<S: Simd, P: Points>(&self, weights: Weights<'_>) {
        let (down, across) = self.points();
        let points = down * across;
        let tiles = self.from.tiles();
        let per_tile = 4 * points * self.in_blocks * LANES;
        let chunks = tiles.div_ceil((SHARED_BYTES / per_tile).max(S::ROWS));
        let room = tiles.div_ceil(chunks);
        let (v_point, m_point) = (Chunk::point_len(self.from.maps, room), self.m_point(room));
        let segments = self.segments(room);
        let mut v = Scratch::new(points * v_point);
        let v = Shared::new(&mut v);
        for index in 0..chunks {
            let range = part(&(0..tiles), index, chunks);
            let chunk = Chunk {
                first: range.start,
                room,
                values: v,
                point: v_point,
            };
            // SAFETY, for both loops: the kernels were chosen for this processor; sizes of x and y were checked and v
            // is made for a chunk. An item writes what no other item does: its tiles' points, its panel's pixels of its
            // tiles.
            unsafe { chunk.fill_together::<S, P>(self.x, &self.from, range.clone()) };
            // Threads beyond the number of panels share their tiles.
            let parts = rayon::current_num_threads().div_ceil(self.panels);
            let parts = parts.min(range.len().div_ceil(S::ROWS));
            for_each(self.panels * parts, 1, |item| {
                let (panel, range) = (item / parts, part(&range, item % parts, parts));
                with_own(points * m_point, |m| unsafe {
                    let (range, m) = (&range, (m.as_mut_ptr(), m_point));
                    S::vectorize(
                        #[inline(always)]
                        || {
                            match weights {
                                Weights::Points(u) => {
                                    self.ready_products::<S, P>(
                                        chunk, range, &segments, panel, u, m,
                                    );
                                }
                                Weights::Filters(filters) => {
                                    self.new_products::<S, P>(
                                        chunk, range, &segments, panel, filters, m,
                                    );
                                }
                            }
                            self.outputs::<S, P>(chunk, range, panel, m);
                        },
                    );
                });
            });
        }
    }

    /// A panel's products of some of a chunk's tiles with transformed weights.
    ///
    /// # Safety
    /// As for [`products`](Self::products).
    #[inline(always)]
    unsafe fn ready_products<S: Simd, P: Points>(
        &self,
        chunk: Chunk,
        range: &Range<usize>,
        segments: &[usize],
        panel: usize,
        points: &[f32],
        m: (*mut f32, usize),
    ) {
        let size = P::LARGEST + 2;
        let u_point = self.in_blocks * LANES * self.panel;
        // SAFETY: the caller's; there are so many points, of which smaller tiles use the first.
        unsafe {
            let u = points.as_ptr().add(panel * size * size * u_point);
            let u = |row, column| u.add((row * size + column) * u_point);
            self.products::<S>(chunk, range, segments, u, m, false);
        }
    }

    /// A panel's products of some of a chunk's tiles with weights that are transformed here, some channel blocks at a time.
    ///
    /// # Safety
    /// As for [`products`](Self::products).
    #[inline(always)]
    unsafe fn new_products<S: Simd, P: Points>(
        &self,
        chunk: Chunk,
        range: &Range<usize>,
        segments: &[usize],
        panel: usize,
        filters: &Filters<'_>,
        m: (*mut f32, usize),
    ) {
        let (down, across) = self.points();
        let row_bytes = 4 * down * across * LANES * self.panel;
        let blocks = (PANEL_BYTES / row_bytes).clamp(1, self.in_blocks);
        let u_point = blocks * LANES * self.panel + PAD;
        let mut own = Scratch::new(down * across * u_point);
        let mut taps = Taps::ZERO;
        for first in (0..self.in_blocks).step_by(blocks) {
            let end = self.in_blocks.min(first + blocks);
            let u = own.as_mut_ptr();
            // SAFETY: the caller's; u is made for so many blocks.
            unsafe {
                for block in first..end {
                    filters.gather::<S>(panel, block, &mut taps);
                    for input in 0..LANES {
                        let row = (block - first) * LANES + input;
                        let u = (u.add(row * self.panel), u_point);
                        filters::input_points::<S, P>(taps.of::<S>(input), u, (down, across));
                    }
                }
                let u = |row, column| u.add((row * across + column) * u_point).cast_const();
                self.products::<S>(chunk, range, &segments[first..end], u, m, first > 0);
            }
        }
    }

    /// A panel's products of some of a chunk's tiles at every point, of the channel blocks that `segments` are of.
    ///
    /// # Safety
    /// Inside `vectorize`; the tiles are the chunk's, `u` gives a point's weights for these blocks, and `m` has room for the chunk.
    #[inline(always)]
    unsafe fn products<S: Simd>(
        &self,
        chunk: Chunk,
        range: &Range<usize>,
        segments: &[usize],
        u: impl Fn(usize, usize) -> *const f32,
        (m, m_point): (*mut f32, usize),
        accumulate: bool,
    ) {
        let (down, across) = self.points();
        for row in 0..down {
            for column in 0..across {
                let tiles = self.from.with_point(row, column);
                let (first, end) = (tiles.start.max(range.start), tiles.end.min(range.end));
                if first >= end {
                    continue;
                }
                let product = Product::<LANES, 1> {
                    rows: end - first,
                    segments,
                    terms: LANES,
                    accumulate,
                };
                let (point, skipped) = (row * across + column, first - chunk.first);
                // SAFETY: the caller's; these rows are the tiles'.
                unsafe {
                    product.run::<S>(
                        chunk.values.at(point * chunk.point + skipped * LANES),
                        u(row, column),
                        m.add(point * m_point + skipped * self.panel),
                    );
                }
            }
        }
    }

    /// Transforms a panel's products back.
    ///
    /// # Safety
    /// Inside `vectorize`; `m` holds the tiles' products, and nobody else writes their pixels in the panel.
    #[inline(always)]
    unsafe fn outputs<S: Simd, P: Points>(
        &self,
        chunk: Chunk,
        range: &Range<usize>,
        panel: usize,
        (m, m_point): (*mut f32, usize),
    ) {
        for vector in 0..S::PANEL_VECTORS {
            let block = panel * S::PANEL_VECTORS + vector;
            if block == self.to.maps.blocks() {
                break;
            }
            for index in range.clone() {
                let tile = self.to.tile(index);
                // SAFETY: the caller's.
                unsafe {
                    let m = m.add((index - chunk.first) * self.panel + vector * LANES);
                    let y = self.y.at(0);
                    output_tile::<S, P>(m, m_point, &self.to, tile, block, self.epilogue, y);
                }
            }
        }
    }
}
