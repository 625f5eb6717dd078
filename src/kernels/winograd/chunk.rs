//! Tiles transformed to points, some at a time: what the microkernel reads.

use std::ops::Range;

use super::super::blocking::{GROUP_TILES, POINT_PAD};
use super::super::parallel::{Shared, for_each};
use super::super::simd::{LANES, Simd};
use super::filtering::{Filtering, Maps, Transformed};
use super::tiling::Tiling;

/// Transformed tiles from `first` on: (point, part, channel block, tile, 16), with room for `room` tiles.
#[derive(Clone, Copy)]
pub(super) struct Chunk<'a> {
    pub(super) first: usize,
    pub(super) room: usize,
    pub(super) values: Shared<'a>,
    /// Channel blocks.
    pub(super) blocks: usize,
    /// Floats from point to point.
    pub(super) point: usize,
}

impl<'a> Chunk<'a> {
    /// Room for so many tiles from `first` on.
    pub(super) fn new<F: Filtering>(
        values: Shared<'a>,
        blocks: usize,
        room: usize,
        first: usize,
    ) -> Self {
        Self {
            first,
            room,
            values,
            blocks,
            point: Self::point_len::<F>(blocks, room),
        }
    }

    /// Floats from point to point of a chunk.
    pub(super) fn point_len<F: Filtering>(blocks: usize, room: usize) -> usize {
        F::PARTS * blocks * room * LANES + POINT_PAD
    }

    /// Where a tile of a part of a channel block begins, at each point.
    #[inline(always)]
    pub(super) fn place(&self, part: usize, block: usize, tile: usize) -> usize {
        ((part * self.blocks + block) * self.room + tile - self.first) * LANES
    }

    /// Transforms tiles of maps.
    ///
    /// # Safety
    /// The chunk is made for the tiling's points and has room for these tiles, and nobody else reads or writes them.
    #[inline(always)]
    pub(super) unsafe fn fill<S: Simd, F: Filtering>(
        &self,
        simd: S,
        maps: &Maps<'_>,
        tiling: &Tiling,
        tiles: Range<usize>,
    ) {
        assert_eq!(maps.x.len(), maps.shape.blocked_len());
        assert_eq!(maps.shape.batch, tiling.shape.batch);
        assert_eq!(maps.shape.blocks(), self.blocks);
        for index in tiles {
            let tile = tiling.tile(index);
            for block in 0..self.blocks {
                // SAFETY: the maps were checked just now, and the tiling's tiles and the blocks are within them. The
                // chunk has room for the tile at each part of each point.
                unsafe {
                    let to = Transformed {
                        v: self.values.at(self.place(0, block, index)),
                        point: self.point,
                        part: self.blocks * self.room * LANES,
                        across: tiling.point_grid().1,
                    };
                    F::input_tile(simd, maps, (tile, block), to);
                }
            }
        }
    }

    /// [`fill`](Self::fill) on all threads.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn fill_together<S: Simd, F: Filtering>(
        &self,
        simd: S,
        maps: &Maps<'_>,
        tiling: &Tiling,
        tiles: Range<usize>,
    ) {
        for_each_group(tiles, |_, tiles| {
            simd.vectorize(
                #[inline(always)]
                // SAFETY: groups share no tile, and the caller says the rest.
                || unsafe { self.fill::<S, F>(simd, maps, tiling, tiles) },
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
