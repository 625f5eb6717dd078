//! How feature maps are cut into tiles.
//!
//! A side of a map is cut into as many of the largest tiles as fit and one smaller one for the rest: 64 = 10·6 + 4,
//! which takes 10·8 + 6 products where 16 tiles of 4 take 96. So a map has tiles of up to four kinds, which share
//! transformed weights (see [`points`](super::points)) but do not all have every point. Tiles are numbered kind by
//! kind, in an order in which those that have a point follow each other.

use std::ops::Range;

use super::super::shape::Shape;

/// One side of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Side {
    /// Largest tiles.
    full: usize,
    /// Outputs on a side of them.
    largest: usize,
    /// Points that a tile has beyond its outputs.
    beyond: usize,
    /// Outputs on a side of the last tile, if that is smaller; else 0.
    rest: usize,
}

impl Side {
    fn new(length: usize, largest: usize) -> Self {
        let rest = (length % largest).next_multiple_of(2);
        let full = length / largest + rest / largest;
        Self {
            full,
            largest,
            beyond: 2,
            rest: rest % largest,
        }
    }

    /// Tiles of one size, the last of which may reach beyond the map.
    fn even(length: usize, outputs: usize, beyond: usize) -> Self {
        Self {
            full: length.div_ceil(outputs),
            largest: outputs,
            beyond,
            rest: 0,
        }
    }

    /// Points of all its tiles together.
    fn total_points(&self) -> usize {
        let rest = if self.rest > 0 {
            self.rest + self.beyond
        } else {
            0
        };
        self.full * (self.largest + self.beyond) + rest
    }

    /// Points of its largest tile.
    fn largest_points(&self) -> usize {
        self.beyond
            + if self.full > 0 {
                self.largest
            } else {
                self.rest
            }
    }

    /// Whether the last tile has this point.
    fn rest_has(&self, point: usize) -> bool {
        self.full == 0 || self.rest > 0 && point < self.rest + self.beyond
    }
}

/// One tile: the place of its outputs, and how many it has on a side (some of which may be outside of the map).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(super) image: usize,
    pub(super) top: usize,
    pub(super) left: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// The tiles of feature maps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tiling {
    pub(super) shape: Shape,
    down: Side,
    across: Side,
    /// Where each kind of tile begins, and the end:
    ///
    /// | kind | full downwards | full across |
    /// |------|----------------|-------------|
    /// | 0    | yes            | no          |
    /// | 1    | yes            | yes         |
    /// | 2    | no             | yes         |
    /// | 3    | no             | no          |
    kinds: [usize; 5],
}

impl Tiling {
    pub(crate) fn of_largest(shape: Shape, largest: usize) -> Self {
        let side = |length: usize| Side::new(length, largest);
        Self::of_sides(shape, side(shape.height), side(shape.width))
    }

    /// Tiles of one size with so many points beyond their outputs.
    pub(super) fn even(shape: Shape, outputs: usize, beyond: usize) -> Self {
        let side = |length: usize| Side::even(length, outputs, beyond);
        Self::of_sides(shape, side(shape.height), side(shape.width))
    }

    fn of_sides(shape: Shape, down: Side, across: Side) -> Self {
        let rest = |side: Side| usize::from(side.rest > 0);
        let mut kinds = [0; 5];
        let counts = [
            down.full * rest(across),
            down.full * across.full,
            rest(down) * across.full,
            rest(down) * rest(across),
        ];
        for (kind, count) in counts.into_iter().enumerate() {
            kinds[kind + 1] = kinds[kind] + shape.batch * count;
        }
        Self {
            shape,
            down,
            across,
            kinds,
        }
    }

    pub(super) fn tiles(&self) -> usize {
        self.kinds[4]
    }

    /// Points down and across of the largest tile there is.
    pub(crate) fn point_grid(&self) -> (usize, usize) {
        (self.down.largest_points(), self.across.largest_points())
    }

    /// Points of all tiles together.
    pub(crate) fn total_points(&self) -> usize {
        self.shape.batch * self.down.total_points() * self.across.total_points()
    }

    /// The tiles that have a point.
    pub(super) fn with_point(&self, row: usize, column: usize) -> Range<usize> {
        let [_, all_full, down_rest, both_rest, end] = self.kinds;
        match (self.down.rest_has(row), self.across.rest_has(column)) {
            (true, true) => 0..end,
            (true, false) => all_full..both_rest,
            (false, true) => 0..down_rest,
            (false, false) => all_full..down_rest,
        }
    }

    pub(super) fn tile(&self, index: usize) -> Tile {
        let kind = (1..4).filter(|kind| index >= self.kinds[*kind]).count();
        let (full_down, full_across) = (kind < 2, kind == 1 || kind == 2);
        let (down, rows) = if full_down {
            (self.down.full, self.down.largest)
        } else {
            (1, self.down.rest)
        };
        let (across, columns) = if full_across {
            (self.across.full, self.across.largest)
        } else {
            (1, self.across.rest)
        };
        let index = index - self.kinds[kind];
        let (line, column) = (index / across, index % across);
        let (image, row) = (line / down, line % down);
        let first = |side: Side, full: bool| if full { 0 } else { side.full * side.largest };
        Tile {
            image,
            top: first(self.down, full_down) + row * rows,
            left: first(self.across, full_across) + column * columns,
            rows,
            columns,
        }
    }
}
