//! Pools of any window against their definition.

use proptest::prelude::*;

use super::super::isa::Isa;
use super::super::pool::{Pooling, pool, pool_gradient};
use super::super::shape::Shape;
use super::super::window::Padding;
use super::super::window::Window;
use super::reference::relative_error;
use super::windows::{cases_of_windows, for_each_tap, on_threads};
use super::{blocked, cases, noise, planar};

/// Outputs and the gradient of the input.
fn expected(
    pooling: Pooling,
    x: &[f32],
    shape: Shape,
    window: Window,
    dy: &[f32],
) -> (Vec<f64>, Vec<f64>) {
    let count = window.taps() as f64;
    let start = match pooling {
        Pooling::Max => f64::NEG_INFINITY,
        Pooling::Average => 0.0,
    };
    let mut y = vec![start; dy.len()];
    let mut largest = vec![0; dy.len()];
    let mut dx = vec![0.0; x.len()];
    for_each_tap(shape, window, |from, to, _| match pooling {
        Pooling::Max => {
            let x = f64::from(x[from]);
            if x > y[to] || x.is_nan() {
                (y[to], largest[to]) = (x, from);
            }
        }
        Pooling::Average => {
            y[to] += f64::from(x[from]) / count;
            dx[from] += f64::from(dy[to]) / count;
        }
    });
    if pooling == Pooling::Max {
        for (from, dy) in largest.into_iter().zip(dy) {
            dx[from] += f64::from(*dy);
        }
    }
    (y, dx)
}

fn found(
    isa: Isa,
    pooling: Pooling,
    x: &[f32],
    shape: Shape,
    window: Window,
    dy: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let output = window.output(shape);
    let x = blocked(shape, x);
    let mut y = vec![f32::NAN; output.blocked_len()];
    pool(isa, pooling, &x, shape, window, &mut y);
    let mut dx = vec![f32::NAN; shape.blocked_len()];
    pool_gradient(
        isa,
        pooling,
        &x,
        shape,
        window,
        &blocked(output, dy),
        &mut dx,
    );
    assert!(y.iter().chain(&dx).all(|value| !value.is_nan()) || x.iter().any(|x| x.is_nan()));
    (planar(output, &y), planar(shape, &dx))
}

/// The window with padding as a pool takes it.
fn padded(window: Window, pooling: Pooling) -> Window {
    let most = match pooling {
        Pooling::Max => window.kernel / 2,
        Pooling::Average => 0,
    };
    let Padding {
        top,
        bottom,
        left,
        right,
    } = window.padding;
    let [top, bottom, left, right] = [top, bottom, left, right].map(|size| size.min(most));
    let padding = Padding {
        top,
        bottom,
        left,
        right,
    };
    Window { padding, ..window }
}

fn fits(shape: Shape, window: Window) -> bool {
    let Window {
        kernel, padding, ..
    } = window;
    shape.height + padding.top + padding.bottom >= kernel
        && shape.width + padding.left + padding.right >= kernel
}

proptest! {
    #![proptest_config(cases(80))]

    #[test]
    fn a_pool_of_any_window_and_its_gradient_are_as_defined(
        (shape, window) in cases_of_windows(),
        levels in 1u8..=60,
        seed in any::<u64>(),
    ) {
        for pooling in [Pooling::Max, Pooling::Average] {
            let window = padded(window, pooling);
            if !fits(shape, window) {
                continue;
            }
            // Few levels make many equals.
            let level = |x: f32| (x * f32::from(levels)).round();
            let x: Vec<_> = noise(shape.planar_len(), seed).into_iter().map(level).collect();
            let dy = noise(window.output(shape).planar_len(), seed ^ 1);
            let (y, dx) = expected(pooling, &x, shape, window, &dy);
            for isa in Isa::available() {
                let found = found(isa, pooling, &x, shape, window, &dy);
                let error = relative_error(&found.0, &y).max(relative_error(&found.1, &dx));
                prop_assert!(error < 1e-5, "{isa:?} {pooling:?} {shape:?} {window:?}: {error:e}");
            }
        }
    }
}

const STEM: Window = Window {
    kernel: 3,
    stride: 2,
    padding: Padding {
        top: 1,
        bottom: 1,
        left: 1,
        right: 1,
    },
};

const MAPS: Shape = Shape {
    batch: 2,
    channels: 20,
    height: 71,
    width: 33,
};

#[test]
fn threads_change_no_bit_of_a_pool() {
    let x = noise(MAPS.planar_len(), 1);
    for pooling in [Pooling::Max, Pooling::Average] {
        let window = padded(STEM, pooling);
        let dy = noise(window.output(MAPS).planar_len(), 2);
        for isa in Isa::available() {
            on_threads(|| {
                let (y, dx) = found(isa, pooling, &x, MAPS, window, &dy);
                [y, dx].concat()
            });
        }
    }
}

#[test]
fn a_pool_does_not_hide_nan() {
    for pooling in [Pooling::Max, Pooling::Average] {
        let window = padded(STEM, pooling);
        let mut dy = noise(window.output(MAPS).planar_len(), 2);
        for place in [0, 32, 1000, MAPS.planar_len() - 1] {
            let mut x = noise(MAPS.planar_len(), 1);
            x[place] = f32::NAN;
            let (y, _) = expected(pooling, &x, MAPS, window, &dy);
            let nan = dy.len() * place / MAPS.planar_len();
            dy[nan] = f32::NAN;
            for isa in Isa::available() {
                let (found, dx) = found(isa, pooling, &x, MAPS, window, &dy);
                for (found, expected) in found.iter().zip(&y) {
                    assert_eq!(found.is_nan(), expected.is_nan());
                }
                assert!(dx.iter().any(|dx| dx.is_nan()));
            }
        }
    }
}
