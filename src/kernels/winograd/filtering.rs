//! What the ways of filtering by tiles have in common: how maps and weights are taken to points and back.

use super::super::epilogue::Epilogue;
use super::super::gemm::PanelRows;
use super::super::parallel::Shared;
use super::super::shape::Shape;
use super::super::simd::Simd;
use super::tiling::{Tile, Tiling};

/// A convolution's outputs are cut into tiles. The inputs of a tile and the weights are transformed to points,
/// multiplied point by point, added up over the channels, and transformed back.
///
/// A stride takes the map of a channel apart into several, whose products add up too: its parts.
pub(crate) trait Filtering: Copy + Send + Sync + 'static {
    /// Points on a side of the largest tile.
    const POINTS: usize;
    /// Weights from an input to an output.
    const TAPS: usize = 9;
    /// Parts of a map.
    const PARTS: usize = 1;
    /// The parts that a point of each kind has, in order.
    const KINDS: &'static [&'static [usize]] = &[&[0]];
    /// Maps that an output channel is written in: those of a gradient through a stride, which are its parts.
    const OUTPUT_PARTS: usize = 1;

    /// The tiles of maps that are written, the first of which begins so many rows and columns before them.
    fn tiling(output: Shape, before: (usize, usize)) -> Tiling;
    /// Whether an output part has a point.
    #[inline(always)]
    fn has(_output_part: usize, _row: usize, _column: usize) -> bool {
        true
    }
    /// The kind of a point.
    #[inline(always)]
    fn kind(_row: usize, _column: usize) -> usize {
        0
    }
    /// How many different numbers a weight has at so many points.
    fn units(down: usize, across: usize) -> usize {
        down * across
    }
    /// A panel's weights at a point of an output part, from all of its units on.
    #[inline(always)]
    fn panel_rows<S: Simd>(
        u: *const f32,
        units: Units,
        (row, column): (usize, usize),
        _output_part: usize,
    ) -> impl PanelRows<S> {
        u.wrapping_add((row * units.across + column) * units.len)
    }

    /// Transforms the inputs of one tile of one channel block to its points.
    ///
    /// # Safety
    /// `tile` and `block` are within the tiling and the maps, and `to` is valid for writing sixteen floats at each part
    /// of each point.
    unsafe fn input_tile<S: Simd>(simd: S, maps: &Maps<'_>, place: (Tile, usize), to: Transformed);

    /// Transforms one tile's products of sixteen output channels, `point` floats from point to point, back, and writes
    /// what the maps have room for.
    ///
    /// # Safety
    /// `m` is valid for reading sixteen floats at each point of each output part. `tile` and `block` are within what is
    /// written, which the epilogue was checked for, and nobody else writes these outputs.
    unsafe fn output_tile<S: Simd>(
        simd: S,
        m: (*const f32, usize),
        to: &Written<'_>,
        place: (Tile, usize),
    );

    /// Transforms the weights from one input to sixteen outputs to as many points. The taps are `tap` floats apart.
    ///
    /// # Safety
    /// `taps` is valid for reading sixteen floats at each tap, `u` for writing them at each unit.
    unsafe fn weights<S: Simd>(
        simd: S,
        taps: (*const f32, usize),
        u: (*mut f32, Units),
        points: (usize, usize),
    );
}

/// What the gradients of weights take besides.
pub(crate) trait FilteringBack: Filtering {
    /// The transpose of [`output_tile`](Filtering::output_tile): transforms the gradients of one tile's outputs, of one
    /// channel block, to its points. Returns the sum of what was transformed.
    ///
    /// # Safety
    /// As for [`input_tile`](Filtering::input_tile), of the one part that outputs have.
    unsafe fn output_tile_back<S: Simd>(
        simd: S,
        maps: &Maps<'_>,
        place: (Tile, usize),
        to: Transformed,
    ) -> S::V;

    /// The transpose of [`weights`](Filtering::weights): transforms the gradients at as many points, `point` floats
    /// apart and their parts `part`, to taps, one after the other.
    ///
    /// # Safety
    /// `u` is valid for reading sixteen floats at each part of each point, `taps` for writing them at each tap.
    unsafe fn weights_back<S: Simd>(
        simd: S,
        u: (*const f32, usize, usize),
        points: (usize, usize),
        taps: *mut f32,
    );
}

/// Blocked maps that tiles are cut from.
#[derive(Clone, Copy)]
pub(crate) struct Maps<'a> {
    pub(super) x: &'a [f32],
    pub(super) shape: Shape,
    /// The row and column, which may be before the first, that the first window begins with.
    pub(super) corner: (isize, isize),
}

impl Maps<'_> {
    /// Where a block of an image begins.
    #[inline(always)]
    pub(super) fn plane(&self, image: usize, block: usize) -> *const f32 {
        let plane = image * self.shape.blocks() + block;
        self.x.as_ptr().wrapping_add(plane * self.shape.plane_len())
    }
}

/// Maps that tiles are written to.
pub(crate) struct Written<'a> {
    pub(super) tiling: Tiling,
    /// Pooled if the epilogue pools.
    pub(super) y: Shared<'a>,
    /// Of the maps before they are pooled.
    pub(super) shape: Shape,
    /// Rows above and columns before the maps that the first tile begins with.
    pub(super) before: (usize, usize),
    pub(super) epilogue: &'a Epilogue<'a>,
}

/// Where a tile's values at its points go.
#[derive(Clone, Copy)]
pub(crate) struct Transformed {
    pub(super) v: *mut f32,
    /// Floats from point to point.
    pub(super) point: usize,
    /// Floats from part to part.
    pub(super) part: usize,
    /// Points to a row of the whole tiling's largest tile.
    pub(super) across: usize,
}

/// Where weights at points lie: unit after unit.
#[derive(Clone, Copy)]
pub(crate) struct Units {
    /// Points to a row.
    pub(super) across: usize,
    /// Floats from a unit to the next.
    pub(super) len: usize,
    /// Channel blocks of a unit.
    pub(super) blocks: usize,
}
