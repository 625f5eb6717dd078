//! Windows over planar maps, tap by tap: what depthwise convolutions and pools are tested against.

use proptest::prelude::*;

use super::super::shape::Shape;
use super::super::simd::LANES;
use super::super::window::Padding;
use super::super::window::Window;
use super::blocked;

/// Small maps with windows that fit them: channels that fill no block, uneven padding.
pub(super) fn cases_of_windows() -> impl Strategy<Value = (Shape, Window)> {
    let sizes = (1usize..=3, 1usize..=35, 1usize..=20, 1usize..=20);
    let kernel = prop_oneof![Just(1usize), Just(2), Just(3), Just(5), Just(7)];
    let padding = prop::array::uniform4(0usize..=7);
    (sizes, kernel, 1usize..=3, padding)
        .prop_map(
            |((batch, channels, height, width), kernel, stride, padding)| {
                let [top, bottom, left, right] = padding.map(|size| size.min(kernel));
                let padding = Padding {
                    top,
                    bottom,
                    left,
                    right,
                };
                let shape = Shape {
                    batch,
                    channels,
                    height,
                    width,
                };
                (
                    shape,
                    Window {
                        kernel,
                        stride,
                        padding,
                    },
                )
            },
        )
        .prop_filter("the window fits", |(shape, window)| {
            let padding = window.padding;
            shape.height + padding.top + padding.bottom >= window.kernel
                && shape.width + padding.left + padding.right >= window.kernel
        })
}

/// Calls `work` with the places in planar maps that a tap reads and writes, and the tap; outputs and their taps are in
/// reading order.
pub(super) fn for_each_tap(
    shape: Shape,
    window: Window,
    mut work: impl FnMut(usize, usize, usize),
) {
    let output = window.output(shape);
    let Window {
        kernel,
        stride,
        padding,
    } = window;
    for plane in 0..shape.batch * shape.channels {
        for to in 0..output.height * output.width {
            let (row, column) = (to / output.width, to % output.width);
            for tap in 0..kernel * kernel {
                let y = (row * stride + tap / kernel).wrapping_sub(padding.top);
                let x = (column * stride + tap % kernel).wrapping_sub(padding.left);
                if y < shape.height && x < shape.width {
                    let from = (plane * shape.height + y) * shape.width + x;
                    work(from, plane * output.height * output.width + to, tap);
                }
            }
        }
    }
}

/// Blocked maps whose padded lanes hold a number, as activations may leave one there.
pub(super) fn blocked_with_padding(shape: Shape, planar: &[f32]) -> Vec<f32> {
    let mut maps = blocked(shape, planar);
    for lane in padded_lanes(shape) {
        maps[lane] = 3.0;
    }
    maps
}

/// The places in blocked maps that belong to no channel.
pub(super) fn padded_lanes(shape: Shape) -> impl Iterator<Item = usize> {
    let lanes = shape.blocks() * LANES;
    (0..shape.blocked_len()).filter(move |place| {
        let block = place / shape.plane_len() * LANES % lanes;
        block + place % LANES >= shape.channels
    })
}

/// Panics unless `run` gives the same bits on one, two and three threads.
pub(super) fn on_threads(run: impl Fn() -> Vec<f32> + Send + Sync) {
    let bits = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let found = pool.build().unwrap().install(&run);
        found.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let one = bits(1);
    assert!(bits(2) == one && bits(3) == one);
}
