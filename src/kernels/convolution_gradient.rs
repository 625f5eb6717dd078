//! The gradients of any of a network's convolutions, from that of its sums.

use super::dense_gradient::weight_gradient;
use super::depthwise;
use super::epilogue::{Epilogue, Gate};
use super::isa::{Isa, Token, with_simd};
use super::method::Method;
use super::node::Conv;
use super::parallel::{Shared, for_each};
use super::scratch::Scratch;
use super::shape::{Blocked, FeatureMaps, Shape};
use super::simd::{LANES, Simd};
use super::squeeze::plane_sums;
use super::weights::Weights;
use super::window::{Padding, Window};
use super::winograd::{self, SpaceToDepth, space_to_depth, strided_back};

/// Writes the gradients of weights and bias, from the input `x` of `shape` and the blocked gradient `dz` of the sums.
pub(super) fn parameter_gradients(
    isa: Isa,
    conv: &Conv<&[f32]>,
    x: FeatureMaps<'_>,
    shape: Shape,
    dz: &[f32],
    dw: &mut [f32],
    db: &mut [f32],
) {
    let is_gathered = !conv.depthwise && shape.is_narrow() && matches!(x, FeatureMaps::Planar(_));
    if let FeatureMaps::Planar(x) = x
        && is_gathered
        && SpaceToDepth::is_for(shape, conv.window)
    {
        space_to_depth::parameter_gradients(isa, x, shape, conv.window, dz, dw, db);
        return;
    }
    if is_gathered {
        weight_gradient(isa, x, shape, dz, db.len(), conv.window, dw);
        bias_gradient(isa, conv.window, shape, dz, db);
        return;
    }
    let x = Blocked::of(x, shape);
    if conv.depthwise {
        depthwise::parameter_gradients(isa, x.maps(), shape, dz, conv.window, dw, db);
    } else if Method::weights_have_tiles(shape, conv.window) {
        winograd::parameter_gradients(isa, x.maps(), shape, conv.window, dz, dw, db);
    } else {
        let x = FeatureMaps::Blocked(x.maps());
        weight_gradient(isa, x, shape, dz, db.len(), conv.window, dw);
        bias_gradient(isa, conv.window, shape, dz, db);
    }
}

/// Writes the gradient of the bias, the sum of that of the sums over all pixels.
fn bias_gradient(isa: Isa, window: Window, shape: Shape, dz: &[f32], db: &mut [f32]) {
    let output = window.output(shape).with_channels(db.len());
    db.fill(0.0);
    for sums in plane_sums(isa, dz, None, output).chunks_exact(db.len()) {
        for (db, sum) in db.iter_mut().zip(sums) {
            *db += sum;
        }
    }
}

/// What becomes of the gradient of a convolution's input.
#[derive(Clone, Copy, Default)]
pub(super) struct Joined<'a> {
    /// A gradient of the same value that it is added to.
    pub(super) other: Option<&'a [f32]>,
    /// What made the input, which the gradient passes then.
    pub(super) gate: Option<Gate<'a>>,
}

/// Writes the gradient of the input, of `shape`, from that of the sums.
pub(super) fn input_gradient(
    isa: Isa,
    conv: &Conv<&[f32]>,
    shape: Shape,
    dz: &[f32],
    joined: Joined<'_>,
    dx: &mut [f32],
) {
    let window = conv.window;
    let epilogue = Epilogue {
        residual: joined.other,
        gate: joined.gate,
        ..Epilogue::default()
    };
    if conv.depthwise {
        let packed = depthwise::pack(conv.weights, conv.scale, shape.channels, window.kernel);
        depthwise::input_gradient(isa, dz, shape, &packed, window, &epilogue, dx);
        return;
    }
    let sums = window.output(shape).with_channels(conv.bias.len());
    let transposed = Transposed {
        isa,
        weights: Weights {
            values: conv.weights,
            out_channels: sums.channels,
            in_channels: shape.channels,
            size: window.kernel,
            scale: conv.scale,
            transposed: true,
        },
    };
    if window.kernel == 1 && window.padding == Padding::default() && window.stride > 1 {
        transposed.scatter(dz, sums, window.stride, shape, joined, dx);
        return;
    }
    if Method::inputs_have_tiles(shape, window) {
        let weights = &transposed.weights;
        strided_back::input_gradient(isa, dz, sums, window, weights, shape, &epilogue, dx);
        return;
    }
    let (spread, turned) = turned(window, shape, sums);
    if spread.stride == 1 && spread.to == sums {
        transposed.convolve(dz, sums, turned, &epilogue, dx);
        return;
    }
    let mut maps = Scratch::new(spread.to.blocked_len());
    spread.fill(dz, sums, &mut maps);
    transposed.convolve(&maps, spread.to, turned, &epilogue, dx);
}

/// The weights of the way back.
struct Transposed<'a> {
    isa: Isa,
    weights: Weights<'a>,
}

impl Transposed<'_> {
    fn convolve(
        &self,
        x: &[f32],
        shape: Shape,
        window: Window,
        epilogue: &Epilogue<'_>,
        y: &mut [f32],
    ) {
        let (outputs, _) = self.weights.sizes();
        let method = Method::choose(FeatureMaps::Blocked(x), shape, window, outputs);
        method.convolve(self.isa, x, shape, window, &self.weights, None, epilogue, y);
    }

    /// The gradient through a 1×1 window with a stride: only pixels that it met have one.
    fn scatter(
        &self,
        dz: &[f32],
        sums: Shape,
        stride: usize,
        shape: Shape,
        joined: Joined<'_>,
        dx: &mut [f32],
    ) {
        let met = sums.with_channels(shape.channels);
        let mut pixels = Scratch::new(met.blocked_len());
        self.convolve(
            dz,
            sums,
            Window::POINTWISE,
            &Epilogue::default(),
            &mut pixels,
        );
        join_scattered(self.isa, &pixels, met, stride, joined, shape, dx);
    }
}

/// Writes maps whose pixels come to lie a stride apart, with zeros between, and what they join.
fn join_scattered(
    isa: Isa,
    pixels: &[f32],
    met: Shape,
    stride: usize,
    joined: Joined<'_>,
    shape: Shape,
    dx: &mut [f32],
) {
    assert_eq!(
        (pixels.len(), dx.len()),
        (met.blocked_len(), shape.blocked_len())
    );
    let epilogue = Epilogue {
        residual: joined.other,
        gate: joined.gate,
        ..Epilogue::default()
    };
    epilogue.check(shape.channels, dx.len());
    let dx = Shared::new(dx);
    let row_len = shape.width * LANES;
    for_each(shape.batch * shape.blocks() * shape.height, |item| {
        let (plane, row) = (item / shape.height, item % shape.height);
        let is_met = row % stride == 0 && row / stride < met.height;
        let from = plane * met.plane_len() + row / stride * met.width * LANES;
        let columns = if is_met { met.width } else { 0 };
        with_simd!(isa, simd => simd.vectorize(
            #[inline(always)]
            || for column in 0..shape.width {
                let offset = item * row_len + column * LANES;
                let zero = simd.splat(0.0);
                // SAFETY: a pixel of the maps that were met, and one of the row, which is this item's alone and which
                // the epilogue was checked for.
                unsafe {
                    let value = if column % stride == 0 && column / stride < columns {
                        simd.load(pixels[from + column / stride * LANES..][..LANES].as_ptr())
                    } else {
                        zero
                    };
                    simd.store(dx.at(offset), epilogue.finish(simd, value, zero, offset));
                }
            },
        ));
    });
}

/// The convolution with stride 1 that takes a gradient back: how the gradient lies in what it reads, and its window.
///
/// The gradient's pixels are a stride apart, with zeros between, where the window had its upper left corner. It turns
/// around: what it stuck out by, up to the kernel, is what the gradient is padded with on that side; and where it lay
/// on padding alone, the gradient goes nowhere.
fn turned(window: Window, shape: Shape, sums: Shape) -> (Spread, Window) {
    let reach = window.kernel - 1;
    let Padding {
        top,
        bottom,
        left,
        right,
    } = window.padding;
    let places = |side: usize, before: usize, after: usize| {
        let alone = before.saturating_sub(reach) + after.saturating_sub(reach);
        side + before + after - reach - alone
    };
    let to = Shape {
        height: places(shape.height, top, bottom),
        width: places(shape.width, left, right),
        ..sums
    };
    let spread = Spread {
        stride: window.stride,
        skipped: (top.saturating_sub(reach), left.saturating_sub(reach)),
        to,
    };
    let turned = Window {
        kernel: window.kernel,
        stride: 1,
        padding: Padding {
            top: reach.saturating_sub(top),
            bottom: reach.saturating_sub(bottom),
            left: reach.saturating_sub(left),
            right: reach.saturating_sub(right),
        },
    };
    (spread, turned)
}

/// Maps whose pixels come to lie a stride apart, with zeros between.
struct Spread {
    stride: usize,
    /// Rows and columns, of what is written, that are left out at the beginning.
    skipped: (usize, usize),
    to: Shape,
}

impl Spread {
    /// Writes `maps`, of `shape`.
    fn fill(&self, maps: &[f32], shape: Shape, spread: &mut [f32]) {
        let to = self.to;
        assert_eq!(maps.len(), shape.blocked_len());
        assert_eq!(spread.len(), to.blocked_len());
        let spread = Shared::new(spread);
        for_each(shape.batch * shape.blocks(), |plane| {
            // SAFETY: an item writes its own plane.
            let target = unsafe { spread.slice(plane * to.plane_len(), to.plane_len()) };
            target.fill(0.0);
            let source = &maps[plane * shape.plane_len()..][..shape.plane_len()];
            let places = |count: usize, skipped: usize, side: usize| {
                let place = move |from: usize| (from * self.stride).checked_sub(skipped);
                (0..count).filter_map(move |from| {
                    let place = place(from).filter(|place| *place < side)?;
                    Some((from, place))
                })
            };
            for (from_row, row) in places(shape.height, self.skipped.0, to.height) {
                for (from, column) in places(shape.width, self.skipped.1, to.width) {
                    let from = (from_row * shape.width + from) * LANES;
                    let place = (row * to.width + column) * LANES;
                    target[place..][..LANES].copy_from_slice(&source[from..][..LANES]);
                }
            }
        });
    }
}
