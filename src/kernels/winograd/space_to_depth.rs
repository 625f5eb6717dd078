//! The 7×7 convolution with stride 2 of maps of a few channels, which many networks begin with, through tiles.
//!
//! The pixels of each 2×2 are taken for channels of one: three channels become twelve, which nearly fill a block, and
//! the convolution one of 4×4 with stride 1, whose last row and column of weights belong to an eighth of the window and
//! are 0 for half of the channels. F(4×4, 4×4) makes 49 products for each channel of a tile where 16 · 49 are made
//! directly: 588 for a tile and output of three channels, and not 2,352.

use super::super::epilogue::Epilogue;
use super::super::gathered::Gathered;
use super::super::isa::{Isa, Token, with_simd};
use super::super::parallel::Shared;
use super::super::scratch::Scratch;
use super::super::shape::Shape;
use super::super::simd::{LANES, Simd};
use super::super::weights::Weights;
use super::super::window::{Padding, Window};
use super::filtering::{Filtering, FilteringBack, Maps, Transformed, Units, Written};
use super::forward::filter_packed;
use super::pack::transform_taps;
use super::paired_points::{OUTPUTS, Pairs};
use super::paired_tiles::{input_tile, load, output_tile, output_tile_back, store};
use super::points::{Line, MAX_SIZE};
use super::tiling::{Tile, Tiling};
use super::weight_gradient::of_family;

/// F(4×4, 4×4) of maps that [`depth`] made.
#[derive(Clone, Copy)]
pub(crate) struct SpaceToDepth;

/// Taps on a side of the window over these maps.
const TAPS: usize = 4;

/// Points, and inputs, on a side of a tile.
const POINTS: usize = OUTPUTS + TAPS - 1;

/// They round the least of those we tried.
const PAIRS: Pairs<3> = Pairs::new([0.25, 1.0, 2.0]);

/// Pixels that become one.
const PIXELS: usize = 4;

impl SpaceToDepth {
    /// Whether a convolution goes this way.
    pub(crate) fn is_for(shape: Shape, window: Window) -> bool {
        (window.kernel, window.stride) == (7, 2) && shape.channels * PIXELS <= LANES
    }
}

/// The maps, and the window over them, that a convolution with stride 2 becomes.
fn depth(planar: &[f32], shape: Shape, window: Window) -> Gathered<'_> {
    let output = window.output(shape);
    let Padding { top, left, .. } = window.padding;
    // So many pixels, each of two, are read.
    let after =
        |outputs: usize, before: usize, side: usize| 2 * (outputs + TAPS - 1) - side - before;
    let padding = Padding {
        top,
        bottom: after(output.height, top, shape.height),
        left,
        right: after(output.width, left, shape.width),
    };
    let pairs = Window {
        kernel: 2,
        stride: 2,
        padding,
    };
    Gathered::new(planar, shape, pairs)
}

/// Weights (out, in, 7, 7) as those of the maps: (panel, input, tap, output within the panel).
fn taps<S: Simd>(weights: &Weights<'_>) -> Vec<f32> {
    let (outputs, inputs) = weights.sizes();
    let channels = inputs * PIXELS;
    let mut taps = vec![0.0; outputs.div_ceil(S::NR) * channels * TAPS * TAPS * S::NR];
    for (row, taps) in taps.chunks_exact_mut(S::NR).enumerate() {
        let (channel, tap) = (row / (TAPS * TAPS) % channels, row % (TAPS * TAPS));
        let first = row / (TAPS * TAPS * channels) * S::NR;
        if let Some(tap) = tap_of(channel % PIXELS, tap) {
            for (output, to) in (first..outputs).zip(taps) {
                *to = weights.value(output, channel / PIXELS, tap);
            }
        }
    }
    taps
}

/// Which of the window's 49 weights a tap is, for the channels that were a pixel of each four; none past the last.
fn tap_of(pixel: usize, tap: usize) -> Option<usize> {
    let row = 2 * (tap / TAPS) + pixel / 2;
    let column = 2 * (tap % TAPS) + pixel % 2;
    (row < 7 && column < 7).then_some(row * 7 + column)
}

/// Packs weights (out, in, 7, 7) for [`convolve`].
pub(crate) fn pack<S: Simd>(simd: S, weights: &Weights<'_>) -> Scratch {
    let taps = taps::<S>(weights);
    let (outputs, inputs) = weights.sizes();
    let (panels, channels) = (outputs.div_ceil(S::NR), inputs * PIXELS);
    let (units, panel_len) = (units::<S>(), POINTS * POINTS * units::<S>().len);
    let mut packed = Scratch::new(panels * panel_len);
    packed.fill(0.0);
    let u = Shared::new(&mut packed);
    simd.vectorize(
        #[inline(always)]
        || {
            for (index, taps) in taps.chunks_exact(TAPS * TAPS * S::NR).enumerate() {
                let (panel, channel) = (index / channels, index % channels);
                // SAFETY: there is a panel row for each channel at each unit of each panel.
                unsafe {
                    let u = (u.at(panel * panel_len + channel * S::NR), units);
                    transform_taps::<S, SpaceToDepth>(simd, taps, u, (POINTS, POINTS));
                }
            }
        },
    );
    packed
}

/// Where packed weights lie.
fn units<S: Simd>() -> Units {
    Units {
        across: POINTS,
        len: LANES * S::NR,
        blocks: 1,
    }
}

/// Convolves planar `x`, of a shape that [`SpaceToDepth`] is for, with weights from [`pack`] into blocked `y`.
#[expect(clippy::too_many_arguments, reason = "a layer's operands")]
pub(crate) fn convolve<S: Simd>(
    simd: S,
    x: &[f32],
    shape: Shape,
    window: Window,
    packed: &[f32],
    out_channels: usize,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    if y.is_empty() {
        return;
    }
    let gathered = depth(x, shape, window);
    let mut maps = Scratch::new(gathered.output.blocked_len());
    gathered.fill(simd, 0, shape.batch, &mut maps);
    let maps = Maps {
        x: &maps,
        shape: gathered.output,
        corner: (0, 0),
    };
    let output = window.output(shape).with_channels(out_channels);
    let packed = (packed, units::<S>());
    filter_packed::<S, SpaceToDepth>(simd, maps, packed, output, epilogue, y);
}

/// Writes the gradients of the weights (out, in, 7, 7) and the bias (out), from planar input `x` and the blocked
/// gradient `dy` of the convolution's sums.
pub(crate) fn parameter_gradients(
    isa: Isa,
    x: &[f32],
    shape: Shape,
    window: Window,
    dy: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let output = window.output(shape).with_channels(db.len());
    assert_eq!(dy.len(), output.blocked_len());
    assert_eq!(dw.len(), output.channels * shape.channels * 49);
    let gathered = depth(x, shape, window);
    let channels = gathered.output.channels;
    let mut maps = Scratch::new(gathered.output.blocked_len());
    let mut taps = vec![0.0; output.channels * channels * TAPS * TAPS];
    let of = |x, shape| Maps {
        x,
        shape,
        corner: (0, 0),
    };
    with_simd!(isa, simd => {
        gathered.fill(simd, 0, shape.batch, &mut maps);
        let (from, to) = (of(&maps, gathered.output), of(dy, output));
        of_family::<_, SpaceToDepth>(simd, &from, &to, &mut taps, db);
    });
    for (index, gradient) in taps.into_iter().enumerate() {
        let (input, tap) = (index / (TAPS * TAPS), index % (TAPS * TAPS));
        if let Some(tap) = tap_of(input % PIXELS, tap) {
            dw[input / PIXELS * 49 + tap] = gradient;
        }
    }
}

impl Filtering for SpaceToDepth {
    const POINTS: usize = POINTS;
    const TAPS: usize = TAPS * TAPS;

    fn tiling(output: Shape, _: (usize, usize)) -> Tiling {
        Tiling::even(output, OUTPUTS, POINTS - OUTPUTS)
    }

    #[inline(always)]
    unsafe fn input_tile<S: Simd>(simd: S, maps: &Maps<'_>, place: (Tile, usize), to: Transformed) {
        // SAFETY: the caller says what it asks for.
        unsafe { input_tile::<S, 3, POINTS>(simd, &PAIRS, maps, place, to) }
    }

    #[inline(always)]
    unsafe fn output_tile<S: Simd>(
        simd: S,
        m: (*const f32, usize),
        to: &Written<'_>,
        place: (Tile, usize),
    ) {
        // SAFETY: the caller says what it asks for.
        unsafe { output_tile::<S, 3, POINTS>(simd, &PAIRS, m, to, place) }
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>(
        simd: S,
        (taps, tap): (*const f32, usize),
        (u, units): (*mut f32, Units),
        _: (usize, usize),
    ) {
        let mut columns = [[simd.splat(0.0); MAX_SIZE]; TAPS];
        // SAFETY: these are the taps, and the units.
        unsafe {
            for column in 0..TAPS {
                let values = load::<S, TAPS>(simd, taps.add(column * tap), TAPS * tap);
                columns[column] = PAIRS.weights(simd, values);
            }
            for row in 0..POINTS {
                let mut values: Line<S> = [simd.splat(0.0); MAX_SIZE];
                for column in 0..TAPS {
                    values[column] = columns[column][row];
                }
                let to = u.add(row * POINTS * units.len);
                store::<S, POINTS>(simd, PAIRS.weights(simd, values), to, units.len);
            }
        }
    }
}

impl FilteringBack for SpaceToDepth {
    #[inline(always)]
    unsafe fn output_tile_back<S: Simd>(
        simd: S,
        maps: &Maps<'_>,
        place: (Tile, usize),
        to: Transformed,
    ) -> S::V {
        // SAFETY: the caller says what it asks for.
        unsafe { output_tile_back::<S, 3, POINTS>(simd, &PAIRS, maps, place, to) }
    }

    #[inline(always)]
    unsafe fn weights_back<S: Simd>(
        simd: S,
        (u, point, _): (*const f32, usize, usize),
        _: (usize, usize),
        taps: *mut f32,
    ) {
        let mut columns = [[simd.splat(0.0); MAX_SIZE]; TAPS];
        // SAFETY: these are the points, and the taps.
        unsafe {
            for row in 0..POINTS {
                let values = load::<S, POINTS>(simd, u.add(row * POINTS * point), point);
                let values = PAIRS.weights_back(simd, values);
                for column in 0..TAPS {
                    columns[column][row] = values[column];
                }
            }
            for column in 0..TAPS {
                let values = PAIRS.weights_back(simd, columns[column]);
                store::<S, TAPS>(simd, values, taps.add(column * LANES), TAPS * LANES);
            }
        }
    }
}
