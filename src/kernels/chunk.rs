//! Tiles transformed to points, some at a time: what products read.

use std::ops::Range;

use super::layout::Maps;
use super::parallel::{Shared, for_each};
use super::simd::{LANES, Simd};
use super::tile::Points;
use super::tiling::Tiling;
use super::transform::input_tile;

/// Padding of point planes: power-of-two strides would fall on few cache sets.
pub(super) const PAD: usize = LANES;

/// Tiles that a thread transforms in one go.
const TILES: usize = 8;

/// Transformed tiles from `first` on: (point, channel block, tile, 16), with room for `room` tiles.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) first: usize,
    pub(super) room: usize,
    pub(super) values: Shared,
    /// Floats from point to point.
    pub(super) point: usize,
}

impl Chunk {
    /// Floats from point to point of a chunk.
    pub(super) fn point_len(maps: Maps, room: usize) -> usize {
        maps.blocks() * room * LANES + PAD
    }

    /// Where a tile of a channel block begins, at each point.
    pub(super) fn place(&self, block: usize, tile: usize) -> usize {
        (block * self.room + tile - self.first) * LANES
    }

    /// Transforms tiles of `x`.
    ///
    /// # Safety
    /// Inside `vectorize`; `x` holds the tiling's maps, the chunk has room for these tiles of it, and nobody else writes
    /// them.
    #[inline(always)]
    pub(super) unsafe fn fill<S: Simd, P: Points>(
        &self,
        x: *const f32,
        tiling: &Tiling,
        tiles: Range<usize>,
    ) {
        for index in tiles {
            let tile = tiling.tile(index);
            for block in 0..tiling.maps.blocks() {
                // SAFETY: the caller's.
                unsafe {
                    let to = self.values.at(self.place(block, index));
                    input_tile::<S, P, false>(x, tiling, tile, block, to, self.point);
                }
            }
        }
    }

    /// [`fill`](Self::fill) on all threads.
    ///
    /// # Safety
    /// As there, and the kernels were chosen for this processor.
    pub(super) unsafe fn fill_together<S: Simd, P: Points>(
        &self,
        x: &[f32],
        tiling: &Tiling,
        tiles: Range<usize>,
    ) {
        for_each_group(tiles, |_, tiles| {
            // SAFETY: the caller's; groups share no tile.
            unsafe {
                S::vectorize(
                    #[inline(always)]
                    || self.fill::<S, P>(x.as_ptr(), tiling, tiles),
                );
            }
        });
    }
}

/// Runs `work` on all threads for groups of tiles, with each group's number.
pub(super) fn for_each_group(
    tiles: Range<usize>,
    work: impl Fn(usize, Range<usize>) + Send + Sync,
) {
    for_each(groups(&tiles), 1, |group| {
        let first = tiles.start + group * TILES;
        work(group, first..tiles.end.min(first + TILES));
    });
}

/// How many groups [`for_each_group`] makes.
pub(super) fn groups(tiles: &Range<usize>) -> usize {
    tiles.len().div_ceil(TILES)
}
