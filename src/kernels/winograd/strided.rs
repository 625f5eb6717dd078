//! The 3×3 convolution with stride 2 through tiles, which Winograd's filtering of [`points`](super::points) is not for.
//!
//! In one dimension an output is w₀ x₀ + w₁ x₁ + w₂ x₂, and the next one's inputs are two further on. So the inputs with
//! an even place, counted from the first window's corner, meet two weights, w₀ and w₂, with stride 1, and those with an odd
//! one the weight w₁ alone. The first are filtered by F(4, 2) at five points, ±a, ±b and ∞; the second by F(4, 1) at
//! four: the same without ∞, for which both transforms are the same. Their products at a point add up before they are
//! transformed back. In two dimensions a map has four such parts, and a tile of 4×4 outputs takes 9² = 81 products where
//! 144 are made directly.
//!
//! The transforms are those of Toom and Cook, as there; a tile's 1 / Π (p − q) is in the output's.

use std::mem::MaybeUninit;

use super::super::epilogue::Epilogue;
use super::super::gemm::PanelRows;
use super::super::parallel::Shared;
use super::super::shape::Shape;
use super::super::simd::{LANES, Simd};
use super::filtering::{Filtering, Maps, Transformed, Units};
use super::outputs::{LINE, Outputs};
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
        Self::tiling(output).tiles() * INPUTS * INPUTS
    }
}

/// Outputs on a side of a tile.
const OUTPUTS: usize = 4;

/// Inputs on a side of a tile.
const INPUTS: usize = 2 * OUTPUTS + 1;

/// Points on a side of a tile: the finite ones, and ∞.
const POINTS: usize = OUTPUTS + 1;

/// ∞, which inputs with an odd place do without.
const INFINITE: usize = OUTPUTS;

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

/// a and b, of the points ±a and ±b. They round the least of those we tried whose squares are exact.
const PAIRS: [f32; 2] = [0.5, 1.5];

/// p² of the other pair.
const OTHER_SQUARES: [f32; 2] = [PAIRS[1] * PAIRS[1], PAIRS[0] * PAIRS[0]];

/// p^k / Π (p − q) for the points p of each pair, and each output k. For −p those of even k are the opposite.
const COEFFICIENTS: [[f32; OUTPUTS]; 2] = {
    let mut coefficients = [[0.0; OUTPUTS]; 2];
    let mut pair = 0;
    while pair < 2 {
        let p = PAIRS[pair];
        let (mut power, mut value) = (0, 1.0 / (2.0 * p * (p * p - OTHER_SQUARES[pair])));
        while power < OUTPUTS {
            coefficients[pair][power] = value;
            value *= p;
            power += 1;
        }
        pair += 1;
    }
    coefficients
};

/// Bᵀ d: five inputs to five points. The finite points are those of the first four.
#[inline(always)]
fn input<S: Simd>(simd: S, d: [S::V; POINTS]) -> [S::V; POINTS] {
    let mut points = [simd.splat(0.0); POINTS];
    for pair in 0..2 {
        let minus_square = simd.splat(-OTHER_SQUARES[pair]);
        let odd = simd.mul_add(minus_square, d[1], d[3]);
        let even = simd.mul_add(minus_square, d[0], d[2]);
        let p = PAIRS[pair];
        points[2 * pair] = simd.mul_add(simd.splat(p), even, odd);
        points[2 * pair + 1] = simd.mul_add(simd.splat(-p), even, odd);
    }
    let [a, b] = OTHER_SQUARES;
    let sum = simd.mul_add(simd.splat(-(a + b)), d[2], d[4]);
    points[INFINITE] = simd.mul_add(simd.splat(a * b), d[0], sum);
    points
}

/// The even and the odd of nine inputs to points: five, and four after them.
#[inline(always)]
fn inputs<S: Simd>(simd: S, d: [S::V; INPUTS]) -> [S::V; INPUTS] {
    let zero = simd.splat(0.0);
    let even = input(simd, [d[0], d[2], d[4], d[6], d[8]]);
    let odd = input(simd, [d[1], d[3], d[5], d[7], zero]);
    let mut points = [zero; INPUTS];
    points[..POINTS].copy_from_slice(&even);
    points[POINTS..].copy_from_slice(&odd[..OUTPUTS]);
    points
}

/// Aᵀ m: five points to four outputs.
#[inline(always)]
fn output<S: Simd>(simd: S, m: Line<S>) -> Line<S> {
    let mut y = [simd.splat(0.0); MAX_SIZE];
    y[OUTPUTS - 1] = m[INFINITE];
    for pair in 0..2 {
        let (plus, minus) = (m[2 * pair], m[2 * pair + 1]);
        let parts = [simd.sub(plus, minus), simd.add(plus, minus)];
        for power in 0..OUTPUTS {
            let coefficient = simd.splat(COEFFICIENTS[pair][power]);
            y[power] = simd.mul_add(coefficient, parts[power % 2], y[power]);
        }
    }
    y
}

/// A y, the transpose of [`output`].
#[inline(always)]
fn output_back<S: Simd>(simd: S, y: [S::V; OUTPUTS]) -> [S::V; POINTS] {
    let mut m = [simd.splat(0.0); POINTS];
    m[INFINITE] = y[OUTPUTS - 1];
    for pair in 0..2 {
        let coefficients = COEFFICIENTS[pair];
        let mut parts = [simd.splat(0.0); 2];
        for power in 0..OUTPUTS {
            let coefficient = simd.splat(coefficients[power]);
            parts[power % 2] = simd.mul_add(coefficient, y[power], parts[power % 2]);
        }
        let [even, odd] = parts;
        m[2 * pair] = simd.add(odd, even);
        m[2 * pair + 1] = simd.sub(odd, even);
    }
    m
}

/// G g of the two weights that inputs with an even place meet. (The one that others meet is itself at every point.)
#[inline(always)]
fn weights<S: Simd>(simd: S, [first, second]: [S::V; 2]) -> [S::V; POINTS] {
    let mut points = [second; POINTS];
    for pair in 0..2 {
        let p = PAIRS[pair];
        points[2 * pair] = simd.mul_add(simd.splat(p), second, first);
        points[2 * pair + 1] = simd.mul_add(simd.splat(-p), second, first);
    }
    points
}

/// Gᵀ u, the transpose of [`weights`].
#[inline(always)]
fn weights_back<S: Simd>(simd: S, u: [S::V; POINTS]) -> [S::V; 2] {
    let (mut first, mut second) = (simd.splat(0.0), u[INFINITE]);
    for pair in 0..2 {
        let (plus, minus) = (u[2 * pair], u[2 * pair + 1]);
        first = simd.add(first, simd.add(plus, minus));
        second = simd.mul_add(simd.splat(PAIRS[pair]), simd.sub(plus, minus), second);
    }
    [first, second]
}

/// The sum at the finite points.
#[inline(always)]
fn finite_sum<S: Simd>(simd: S, u: [S::V; POINTS]) -> S::V {
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

    #[inline(always)]
    fn row(self) -> usize {
        S::NR
    }

    #[inline(always)]
    fn vector(self) -> usize {
        LANES
    }
}

/// A tile's values between the pass along its columns and that along its rows.
type HalfTransformed<const FLOATS: usize> = MaybeUninit<Aligned<FLOATS>>;

/// Floats of a line of a tile's inputs.
const INPUT_LINE: usize = MAX_PIXELS * LANES;

impl Filtering for Strided {
    const POINTS: usize = POINTS;
    const PARTS: usize = 4;
    /// Rows and columns with a finite point; columns with ∞; rows with ∞; both.
    const KINDS: &'static [&'static [usize]] = &[&[0, 1, 2, 3], &[0, 2], &[0, 1], &[0]];

    fn tiling(output: Shape) -> Tiling {
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
    fn unit(row: usize, column: usize, part: usize, _: usize) -> usize {
        match part {
            0 => row * POINTS + column,
            1 => FIRST_UNITS[1] + row,
            2 => FIRST_UNITS[2] + column,
            _ => FIRST_UNITS[3],
        }
    }

    #[inline(always)]
    fn panel_rows<S: Simd>(
        u: *const f32,
        units: Units,
        (row, column): (usize, usize),
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
                *first = u.wrapping_add(Self::unit(row, column, *part, POINTS) * units.len);
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
        let mut half = HalfTransformed::<{ INPUTS * INPUT_LINE }>::uninit();
        let half = half.as_mut_ptr().cast::<f32>();
        let first = |at: usize, padding: usize| 2 * at as isize - padding as isize;
        let corner = (
            first(tile.top, maps.padding.0),
            first(tile.left, maps.padding.1),
        );
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
        tiling: &Tiling,
        place: (Tile, usize),
        epilogue: &Epilogue<'_>,
        y: Shared<'_>,
    ) {
        let mut half = HalfTransformed::<{ OUTPUTS * LINE }>::uninit();
        let half = half.as_mut_ptr().cast::<f32>();
        // SAFETY: the caller says that points are valid; `half` has the lines and columns that the second pass reads and
        // the first one wrote; outputs are written only where the maps have them.
        unsafe {
            for column in 0..POINTS {
                let mut points = [simd.splat(0.0); MAX_SIZE];
                for row in 0..POINTS {
                    points[row] = simd.load(m.add((row * POINTS + column) * point));
                }
                let points = output(simd, points);
                for row in 0..OUTPUTS {
                    simd.store(half.add(row * LINE + column * LANES), points[row]);
                }
            }
            let outputs = Outputs::new(simd, tiling, place, epilogue, y);
            outputs.write::<POINTS, OUTPUTS>(
                half,
                #[inline(always)]
                |line| output(simd, line),
            );
        }
    }

    #[inline(always)]
    unsafe fn output_tile_back<S: Simd>(
        simd: S,
        maps: &Maps<'_>,
        (tile, block): (Tile, usize),
        to: Transformed,
    ) -> S::V {
        let mut half = HalfTransformed::<{ POINTS * LINE }>::uninit();
        let half = half.as_mut_ptr().cast::<f32>();
        let corner = (tile.top as isize, tile.left as isize);
        let patch = Patch::<POINTS>::new(maps, (tile.image, block), corner, OUTPUTS);
        // SAFETY: as for inputs.
        unsafe {
            let sum = patch.pass::<S, OUTPUTS, POINTS>(
                simd,
                (half, LINE),
                #[inline(always)]
                |d| output_back(simd, [d[0], d[1], d[2], d[3]]),
            );
            for row in 0..POINTS {
                let values = std::array::from_fn(
                    #[inline(always)]
                    |column| simd.load(half.add(row * LINE + column * LANES)),
                );
                for (column, value) in output_back(simd, values).into_iter().enumerate() {
                    simd.store(to.v.add((row * POINTS + column) * to.point), value);
                }
            }
            sum
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
            let even = weights(simd, [taps[column], taps[6 + column]]);
            for row in 0..POINTS {
                rows[row][column] = even[row];
            }
            rows[POINTS][column] = taps[3 + column];
        }
        for row in 0..POINTS + 1 {
            let [first, odd, last] = rows[row];
            let even = weights(simd, [first, last]);
            let (of_even, of_odd) = if row < POINTS {
                (Self::unit(row, 0, 0, POINTS), Self::unit(row, 0, 1, POINTS))
            } else {
                (Self::unit(0, 0, 2, POINTS), Self::unit(0, 0, 3, POINTS))
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

    #[inline(always)]
    unsafe fn weights_back<S: Simd>(
        simd: S,
        (u, point, part): (*const f32, usize, usize),
        _: (usize, usize),
        taps: *mut f32,
    ) {
        // By columns of taps, a line for even rows and one for odd rows.
        let mut columns = [[[simd.splat(0.0); POINTS]; 2]; 3];
        for row in 0..POINTS {
            for odd_row in 0..if row < INFINITE { 2 } else { 1 } {
                let mut values = [[simd.splat(0.0); POINTS]; 2];
                for odd_column in 0..2 {
                    for column in 0..POINTS - odd_column {
                        let at = (row * POINTS + column) * point;
                        let at = at + (2 * odd_row + odd_column) * part;
                        // SAFETY: one of the parts that the point has.
                        values[odd_column][column] = unsafe { simd.load(u.add(at)) };
                    }
                }
                let [even, odd] = values;
                let [first, last] = weights_back(simd, even);
                columns[0][odd_row][row] = first;
                columns[1][odd_row][row] = finite_sum(simd, odd);
                columns[2][odd_row][row] = last;
            }
        }
        for column in 0..3 {
            let [even, odd] = columns[column];
            let [first, last] = weights_back(simd, even);
            let middle = finite_sum(simd, odd);
            for (row, value) in [first, middle, last].into_iter().enumerate() {
                // SAFETY: one of the nine taps.
                unsafe { simd.store(taps.add((3 * row + column) * LANES), value) };
            }
        }
    }
}
