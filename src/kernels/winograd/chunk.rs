//! Tiles transformed to points, some at a time: what the microkernel reads.

use std::ops::Range;

use super::super::blocking::{GROUP_TILES, POINT_PAD};
use super::super::parallel::{Shared, for_each};
use super::super::shape::Shape;
use super::super::simd::{LANES, Simd};
use super::points::TileFamily;
use super::tiling::Tiling;
use super::transform::input_tile;

/// Transformed tiles from `first` on: (point, channel block, tile, 16), with room for `room` tiles.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'a> {
    pub(super) first: usize,
    pub(super) room: usize,
    pub(super) values: Shared<'a>,
    /// Floats from point to point.
    pub(super) point: usize,
}

impl Chunk<'_> {
    /// Floats from point to point of a chunk.
    pub(super) fn point_len(shape: Shape, room: usize) -> usize {
        shape.blocks() * room * LANES + POINT_PAD
    }

    /// Where a tile of a channel block begins, at each point.
    pub(super) fn place(&self, block: usize, tile: usize) -> usize {
        (block * self.room + tile - self.first) * LANES
    }

    /// Transforms tiles of `x`, which holds the tiling's maps.
    ///
    /// # Safety
    /// The chunk is made for the tiling's points and has room for these tiles, and nobody else reads or writes them.
    #[inline(always)]
    pub(super) unsafe fn fill<S: Simd, P: TileFamily>(
        &self,
        simd: S,
        x: &[f32],
        tiling: &Tiling,
        tiles: Range<usize>,
    ) {
        assert_eq!(x.len(), tiling.shape.blocked_len());
        for index in tiles {
            let tile = tiling.tile(index);
            for block in 0..tiling.shape.blocks() {
                // SAFETY: `x` was checked just now, and the tiling's tiles and blocks are within it. The chunk has room
                // for the tile at each point.
                unsafe {
                    let to = (self.values.at(self.place(block, index)), self.point);
                    input_tile::<S, P, false>(simd, x.as_ptr(), tiling, (tile, block), to);
                }
            }
        }
    }

    /// [`fill`](Self::fill) on all threads.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn fill_together<S: Simd, P: TileFamily>(
        &self,
        simd: S,
        x: &[f32],
        tiling: &Tiling,
        tiles: Range<usize>,
    ) {
        for_each_group(tiles, |_, tiles| {
            simd.vectorize(
                #[inline(always)]
                // SAFETY: groups share no tile, and the caller says the rest.
                || unsafe { self.fill::<S, P>(simd, x, tiling, tiles) },
            );
        });
    }
}

/// Runs `work` on all threads for groups of tiles, with each group's number.
pub(super) fn for_each_group(
    tiles: Range<usize>,
    work: impl Fn(usize, Range<usize>) + Send + Sync,
) {
    for_each(groups(&tiles), |group| {
        let first = tiles.start + group * GROUP_TILES;
        work(group, first..tiles.end.min(first + GROUP_TILES));
    });
}

/// How many groups [`for_each_group`] makes.
pub(super) fn groups(tiles: &Range<usize>) -> usize {
    tiles.len().div_ceil(GROUP_TILES)
}
