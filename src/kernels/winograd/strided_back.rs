//! The gradient of the input of a 3×3 convolution with stride 2 through tiles.
//!
//! In one dimension the gradient at an even place of [`strided`](super::strided), counted from the first window's
//! corner, is w₂ d₀ + w₀ d₁ of two neighbouring gradients of outputs, and that at an odd place w₁ d₀ of one. Four of
//! the first come from five gradients by F(4, 2), and four of the second from the first four of these by F(4, 1): both
//! from the same points, of which the second do without ∞. So gradients of outputs are transformed once for all four
//! parts of a map, and a tile of 8×8 takes 9² = 81 products: half as many as Winograd's F(4×4, 3×3) makes over
//! gradients that have been moved apart.

use super::super::epilogue::Epilogue;
use super::super::gemm::PanelRows;
use super::super::isa::{Isa, Token, with_simd};
use super::super::shape::Shape;
use super::super::simd::{LANES, Simd};
use super::super::weights::Weights;
use super::super::window::{Padding, Window};
use super::filtering::{Filtering, Maps, Transformed, Units, Written};
use super::forward::filter;
use super::paired_points::OUTPUTS;
use super::paired_tiles::input_tile;
use super::points::{Line, MAX_SIZE};
use super::strided::{INFINITE, PAIRS, POINTS, Strided, unit};
use super::tiling::{Tile, Tiling};

/// [`Strided`]'s way back.
#[derive(Clone, Copy)]
struct StridedBack;

/// How many products of an input and an output channel it takes to the gradient of maps of this shape.
pub(crate) fn products(shape: Shape, window: Window) -> usize {
    let parts = (2 * OUTPUTS + 1).pow(2);
    StridedBack::tiling(shape, before(window)).tiles() * parts
}

/// Writes the gradient of the input, of `shape`, from `dy`, of the shape `sums`, by the transposed weights.
#[expect(clippy::too_many_arguments, reason = "a layer's operands")]
pub(crate) fn input_gradient(
    isa: Isa,
    dy: &[f32],
    sums: Shape,
    window: Window,
    weights: &Weights<'_>,
    shape: Shape,
    epilogue: &Epilogue<'_>,
    dx: &mut [f32],
) {
    assert!(!epilogue.pool, "gradients are not pooled");
    let Padding { top, left, .. } = window.padding;
    let maps = Maps {
        x: dy,
        shape: sums,
        corner: (first(top), first(left)),
    };
    let to = (shape, before(window));
    with_simd!(isa, simd => filter::<_, StridedBack>(simd, maps, weights, None, to, epilogue, dx));
}

/// The first gradient of outputs that the first tile reads: the last whose odd place is at or before the maps' first.
fn first(padding: usize) -> isize {
    (padding as isize - 1).div_euclid(2)
}

/// How many rows and columns before the maps the first tile begins: one, if the padding is even.
fn before(window: Window) -> (usize, usize) {
    let Padding { top, left, .. } = window.padding;
    ((top + 1) % 2, (left + 1) % 2)
}

impl Filtering for StridedBack {
    const POINTS: usize = POINTS;
    const OUTPUT_PARTS: usize = 4;

    /// Of the parts, which are half as large.
    fn tiling(output: Shape, (above, before): (usize, usize)) -> Tiling {
        let part = Shape {
            height: (output.height + above).div_ceil(2),
            width: (output.width + before).div_ceil(2),
            ..output
        };
        Tiling::even(part, OUTPUTS, POINTS - OUTPUTS)
    }

    #[inline(always)]
    fn has(output_part: usize, row: usize, column: usize) -> bool {
        let (odd_row, odd_column) = (output_part / 2 == 1, output_part % 2 == 1);
        !(odd_row && row == INFINITE || odd_column && column == INFINITE)
    }

    fn units(down: usize, across: usize) -> usize {
        Strided::units(down, across)
    }

    #[inline(always)]
    fn panel_rows<S: Simd>(
        u: *const f32,
        units: Units,
        (row, column): (usize, usize),
        output_part: usize,
    ) -> impl PanelRows<S> {
        u.wrapping_add(unit(row, column, output_part) * units.len)
    }

    #[inline(always)]
    unsafe fn input_tile<S: Simd>(simd: S, maps: &Maps<'_>, place: (Tile, usize), to: Transformed) {
        // SAFETY: the caller says what it asks for.
        unsafe { input_tile::<S, 2, POINTS>(simd, &PAIRS, maps, place, to) }
    }

    #[inline(always)]
    unsafe fn output_tile<S: Simd>(
        simd: S,
        (m, point): (*const f32, usize),
        to: &Written<'_>,
        (tile, block): (Tile, usize),
    ) {
        let plane = (tile.image * to.shape.blocks() + block) * to.shape.plane_len();
        // SAFETY: the block is one of the output's.
        let bias = unsafe { to.epilogue.bias(simd, block) };
        for output_part in 0..Self::OUTPUT_PARTS {
            // SAFETY: the caller says that the points of all parts are valid.
            let rows = unsafe {
                let m = m.add(output_part * POINTS * POINTS * point);
                part::<S>(simd, (m, point), output_part)
            };
            // Those with an odd place come first.
            let (row_shift, column_shift) = (1 - output_part / 2, 1 - output_part % 2);
            for row in 0..OUTPUTS {
                let y = (2 * (tile.top + row) + row_shift).wrapping_sub(to.before.0);
                for column in 0..OUTPUTS {
                    let x = (2 * (tile.left + column) + column_shift).wrapping_sub(to.before.1);
                    if y < to.shape.height && x < to.shape.width {
                        let offset = plane + (y * to.shape.width + x) * LANES;
                        // SAFETY: a pixel of the maps, which the epilogue was checked for and nobody else writes.
                        unsafe {
                            let sums = rows[row][column];
                            let value = to.epilogue.finish(simd, sums, bias, offset);
                            simd.store(to.y.at(offset), value);
                        }
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>(
        simd: S,
        taps: (*const f32, usize),
        u: (*mut f32, Units),
        points: (usize, usize),
    ) {
        // SAFETY: the caller says what it asks for.
        unsafe { Strided::weights(simd, taps, u, points) }
    }
}

/// The outputs of a part of a tile, by rows.
///
/// # Safety
/// `m` is valid for reading sixteen floats at each point that the part has.
#[inline(always)]
unsafe fn part<S: Simd>(
    simd: S,
    (m, point): (*const f32, usize),
    output_part: usize,
) -> [Line<S>; OUTPUTS] {
    let zero = simd.splat(0.0);
    let mut rows = [[zero; MAX_SIZE]; OUTPUTS];
    for column in 0..POINTS {
        if !StridedBack::has(output_part, 0, column) {
            continue;
        }
        let mut points = [zero; MAX_SIZE];
        for row in 0..POINTS {
            if StridedBack::has(output_part, row, column) {
                // SAFETY: a point that the part has.
                points[row] = unsafe { simd.load(m.add((row * POINTS + column) * point)) };
            }
        }
        let values = PAIRS.output(simd, points);
        for row in 0..OUTPUTS {
            rows[row][column] = values[row];
        }
    }
    for row in 0..OUTPUTS {
        rows[row] = PAIRS.output(simd, rows[row]);
    }
    rows
}
