//! The 3×3 convolution with stride 2 through tiles, which Winograd's filtering of [`points`](super::points) is not for.
//!
//! In one dimension an output is w₀ x₀ + w₁ x₁ + w₂ x₂, and the next one's inputs are two further on. So the inputs
//! with an even place, counted from the first window's corner, meet two weights, w₀ and w₂, with stride 1, and those
//! with an odd one the weight w₁ alone. The first are filtered by F(4, 2) at five points, ±a, ±b and ∞; the second by
//! F(4, 1) at four: the same without ∞, for which both transforms are the same. Their products at a point add up before
//! they are transformed back. In two dimensions a map has four such parts, and a tile of 4×4 outputs takes 9² = 81
//! products where 144 are made directly.
//!
//! The transforms are those of Toom and Cook, as there; a tile's 1 / Π (p − q) is in the output's.

use std::mem::MaybeUninit;

use super::super::gemm::PanelRows;
use super::super::shape::Shape;
use super::super::simd::{LANES, Simd};
use super::filtering::{Filtering, FilteringBack, Maps, Transformed, Units, Written};
use super::paired_points::{OUTPUTS, Pairs};
use super::paired_tiles::{load, output_tile, output_tile_back};
use super::patch::{Aligned, MAX_PIXELS, Patch};
use super::points::{Line, MAX_SIZE};
use super::tiling::{Tile, Tiling};

/// F(4×4, 3×3) with stride 2, and its gradients.
#[derive(Clone, Copy)]
pub(crate) struct Strided;

impl Strided {
    /// Different numbers that a weight has at the points.
    pub(crate) const NUMBERS_OF_A_WEIGHT: usize = UNITS;

    /// Products of one input and one output channel that maps of this shape take.
    pub(crate) fn products(output: Shape) -> usize {
        Self::tiling(output, (0, 0)).tiles() * INPUTS * INPUTS
    }
}

/// Inputs on a side of a tile.
const INPUTS: usize = 2 * OUTPUTS + 1;

/// Points on a side of a tile: the finite ones, and ∞.
pub(super) const POINTS: usize = OUTPUTS + 1;

/// ∞, which inputs with an odd place do without.
pub(super) const INFINITE: usize = Pairs::<2>::INFINITE;

/// Where the units of each part begin: a weight that inputs with an odd row meet is the same at all rows, and so for
/// columns.
const FIRST_UNITS: [usize; 4] = [
    0,
    POINTS * POINTS,
    POINTS * (POINTS + 1),
    POINTS * (POINTS + 2),
];

/// Units in all.
const UNITS: usize = (POINTS + 1) * (POINTS + 1);

/// Which unit a part meets at a point.
#[inline(always)]
pub(super) fn unit(row: usize, column: usize, part: usize) -> usize {
    match part {
        0 => row * POINTS + column,
        1 => FIRST_UNITS[1] + row,
        2 => FIRST_UNITS[2] + column,
        _ => FIRST_UNITS[3],
    }
}

/// They round the least of those we tried.
pub(super) const PAIRS: Pairs<2> = Pairs::new([0.5, 1.5]);

/// The even and the odd of nine inputs to points: five, and four after them.
#[inline(always)]
fn inputs<S: Simd>(simd: S, d: [S::V; INPUTS]) -> [S::V; INPUTS] {
    let zero = simd.splat(0.0);
    let even = [d[0], d[2], d[4], d[6], d[8], zero, zero, zero];
    let odd = [d[1], d[3], d[5], d[7], zero, zero, zero, zero];
    let (even, odd) = (PAIRS.input(simd, even), PAIRS.input(simd, odd));
    let mut points = [zero; INPUTS];
    points[..POINTS].copy_from_slice(&even[..POINTS]);
    points[POINTS..].copy_from_slice(&odd[..OUTPUTS]);
    points
}

/// The two weights that inputs with an even place meet to points. (The one that others meet is itself at every point.)
#[inline(always)]
fn weights<S: Simd>(simd: S, first: S::V, second: S::V) -> Line<S> {
    let mut taps = [simd.splat(0.0); MAX_SIZE];
    (taps[0], taps[1]) = (first, second);
    PAIRS.weights(simd, taps)
}

/// The sum at the finite points.
#[inline(always)]
fn finite_sum<S: Simd>(simd: S, u: Line<S>) -> S::V {
    simd.add(simd.add(u[0], u[1]), simd.add(u[2], u[3]))
}

/// Panel rows of the parts of a point, block by block.
#[derive(Clone, Copy)]
struct PartRows {
    /// Where the rows of each part that the point has begin, and behind them those of the next point.
    first: [*const f32; 8],
    /// How many parts the point has.
    parts: usize,
    blocks: usize,
}

impl<S: Simd> PanelRows<S> for PartRows {
    #[inline(always)]
    fn segment(self, index: usize, segment_k: usize) -> *const f32 {
        let (mut block, mut part) = (index / self.parts, index % self.parts);
        if block >= self.blocks {
            block -= self.blocks;
            part += self.parts;
        }
        self.first[part].wrapping_add(block * segment_k * S::NR)
    }
}

/// A tile's inputs between the pass along their columns and that along their rows.
type HalfTransformed = MaybeUninit<Aligned<{ INPUTS * INPUT_LINE }>>;

/// Floats of a line of a tile's inputs.
const INPUT_LINE: usize = MAX_PIXELS * LANES;

impl Filtering for Strided {
    const POINTS: usize = POINTS;
    const PARTS: usize = 4;
    /// Rows and columns with a finite point; columns with ∞; rows with ∞; both.
    const KINDS: &'static [&'static [usize]] = &[&[0, 1, 2, 3], &[0, 2], &[0, 1], &[0]];

    fn tiling(output: Shape, _: (usize, usize)) -> Tiling {
        Tiling::even(output, OUTPUTS, POINTS - OUTPUTS)
    }

    #[inline(always)]
    fn kind(row: usize, column: usize) -> usize {
        2 * usize::from(row == INFINITE) + usize::from(column == INFINITE)
    }

    fn units(_: usize, _: usize) -> usize {
        UNITS
    }

    #[inline(always)]
    fn panel_rows<S: Simd>(
        u: *const f32,
        units: Units,
        (row, column): (usize, usize),
        _: usize,
    ) -> impl PanelRows<S> {
        let next = match column {
            INFINITE => ((row + 1) % POINTS, 0),
            _ => (row, column + 1),
        };
        let mut first = [u; 8];
        let mut firsts = first.iter_mut();
        for (row, column) in [(row, column), next] {
            let parts = Self::KINDS[Self::kind(row, column)];
            for (first, part) in firsts.by_ref().zip(parts) {
                *first = u.wrapping_add(unit(row, column, *part) * units.len);
            }
        }
        PartRows {
            first,
            parts: Self::KINDS[Self::kind(row, column)].len(),
            blocks: units.blocks,
        }
    }

    #[inline(always)]
    unsafe fn input_tile<S: Simd>(
        simd: S,
        maps: &Maps<'_>,
        (tile, block): (Tile, usize),
        to: Transformed,
    ) {
        let mut half = HalfTransformed::uninit();
        let half = half.as_mut_ptr().cast::<f32>();
        let (top, left) = maps.corner;
        let corner = (top + 2 * tile.top as isize, left + 2 * tile.left as isize);
        let patch = Patch::<INPUTS>::new(maps, (tile.image, block), corner, INPUTS);
        // SAFETY: the caller says that tile and block are within the maps; `half` has the lines and columns that the
        // second pass reads and the first one wrote; the caller says that parts of points are valid.
        unsafe {
            patch.pass::<S, INPUTS, INPUTS>(
                simd,
                (half, INPUT_LINE),
                #[inline(always)]
                |d| inputs(simd, d),
            );
            for line in 0..INPUTS {
                let values = std::array::from_fn(
                    #[inline(always)]
                    |column| simd.load(half.add(line * INPUT_LINE + column * LANES)),
                );
                let (row, part) = (line % POINTS, line / POINTS * 2);
                for (index, value) in inputs(simd, values).into_iter().enumerate() {
                    let (column, part) = (index % POINTS, part + index / POINTS);
                    let point = row * POINTS + column;
                    simd.store(to.v.add(point * to.point + part * to.part), value);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn output_tile<S: Simd>(
        simd: S,
        (m, point): (*const f32, usize),
        to: &Written<'_>,
        place: (Tile, usize),
    ) {
        // SAFETY: the caller says what it asks for.
        unsafe {
            output_tile::<S, 2, POINTS>(simd, &PAIRS, (m, point), to, place);
        }
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>(
        simd: S,
        (taps, tap): (*const f32, usize),
        (u, units): (*mut f32, Units),
        _: (usize, usize),
    ) {
        let taps: [S::V; 9] = std::array::from_fn(
            #[inline(always)]
            // SAFETY: one of the nine taps.
            |at| unsafe { simd.load(taps.add(at * tap)) },
        );
        // By rows: those of the even parts at each point, and the one of the odd parts at all.
        let mut rows = [[simd.splat(0.0); 3]; POINTS + 1];
        for column in 0..3 {
            let even = weights(simd, taps[column], taps[6 + column]);
            for row in 0..POINTS {
                rows[row][column] = even[row];
            }
            rows[POINTS][column] = taps[3 + column];
        }
        for row in 0..POINTS + 1 {
            let [first, odd, last] = rows[row];
            let even = weights(simd, first, last);
            let (of_even, of_odd) = if row < POINTS {
                (unit(row, 0, 0), unit(row, 0, 1))
            } else {
                (unit(0, 0, 2), unit(0, 0, 3))
            };
            // SAFETY: these are units.
            unsafe {
                for column in 0..POINTS {
                    simd.store(u.add((of_even + column) * units.len), even[column]);
                }
                simd.store(u.add(of_odd * units.len), odd);
            }
        }
    }
}

impl FilteringBack for Strided {
    #[inline(always)]
    unsafe fn output_tile_back<S: Simd>(
        simd: S,
        maps: &Maps<'_>,
        place: (Tile, usize),
        to: Transformed,
    ) -> S::V {
        // SAFETY: the caller says what it asks for.
        unsafe { output_tile_back::<S, 2, POINTS>(simd, &PAIRS, maps, place, to) }
    }

    #[inline(always)]
    unsafe fn weights_back<S: Simd>(
        simd: S,
        (u, point, part): (*const f32, usize, usize),
        _: (usize, usize),
        taps: *mut f32,
    ) {
        // By columns of taps, a line for even rows and one for odd rows.
        let mut columns = [[[simd.splat(0.0); MAX_SIZE]; 2]; 3];
        for row in 0..POINTS {
            for odd_row in 0..if row < INFINITE { 2 } else { 1 } {
                // SAFETY: these are the parts that the row's points have.
                let (even, odd) = unsafe {
                    let of_row = u.add(row * POINTS * point + 2 * odd_row * part);
                    (
                        load::<S, POINTS>(simd, of_row, point),
                        load::<S, OUTPUTS>(simd, of_row.add(part), point),
                    )
                };
                let even = PAIRS.weights_back(simd, even);
                columns[0][odd_row][row] = even[0];
                columns[1][odd_row][row] = finite_sum(simd, odd);
                columns[2][odd_row][row] = even[1];
            }
        }
        for column in 0..3 {
            let [even, odd] = columns[column];
            let even = PAIRS.weights_back(simd, even);
            let middle = finite_sum(simd, odd);
            for (row, value) in [even[0], middle, even[1]].into_iter().enumerate() {
                // SAFETY: one of the nine taps.
                unsafe { simd.store(taps.add((3 * row + column) * LANES), value) };
            }
        }
    }
}
