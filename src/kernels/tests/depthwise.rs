//! Depthwise convolutions and their gradients against direct sums in f64.

use proptest::prelude::*;

use super::super::activation::Activation;
use super::super::depthwise::{convolve, input_gradient, pack, parameter_gradients};
use super::super::epilogue::{Epilogue, Gate, pad_bias};
use super::super::isa::Isa;
use super::super::shape::Shape;
use super::super::window::Padding;
use super::super::window::Window;
use super::reference::relative_error;
use super::windows::*;
use super::{blocked, cases, noise, planar};

fn epilogue(bias: Option<&[f32]>) -> Epilogue<'_> {
    Epilogue {
        bias,
        ..Epilogue::default()
    }
}

/// A layer's operands, planar.
struct Layer {
    shape: Shape,
    window: Window,
    x: Vec<f32>,
    weights: Vec<f32>,
    bias: Vec<f32>,
    dy: Vec<f32>,
}

/// What a layer gives.
struct Results<T> {
    y: Vec<T>,
    dx: Vec<T>,
    dw: Vec<T>,
    db: Vec<T>,
}

impl Layer {
    fn random(shape: Shape, window: Window, seed: u64) -> Self {
        Self {
            shape,
            window,
            x: noise(shape.planar_len(), seed),
            weights: noise(shape.channels * window.taps(), seed ^ 1),
            bias: noise(shape.channels, seed ^ 2),
            dy: noise(window.output(shape).planar_len(), seed ^ 3),
        }
    }

    fn expected(&self) -> Results<f64> {
        let output = self.window.output(self.shape);
        let size = output.height * output.width;
        let channel = |at: usize| at / size % self.shape.channels;
        let mut y: Vec<_> = (0..output.planar_len())
            .map(|at| f64::from(self.bias[channel(at)]))
            .collect();
        let mut dx = vec![0.0; self.x.len()];
        let mut dw = vec![0.0; self.weights.len()];
        let mut db = vec![0.0; self.bias.len()];
        for_each_tap(self.shape, self.window, |from, to, tap| {
            let weight = channel(to) * self.window.taps() + tap;
            let [x, w, d] = [self.x[from], self.weights[weight], self.dy[to]].map(f64::from);
            y[to] += w * x;
            dx[from] += w * d;
            dw[weight] += d * x;
        });
        for (at, dy) in self.dy.iter().enumerate() {
            db[channel(at)] += f64::from(*dy);
        }
        Results { y, dx, dw, db }
    }

    fn run(&self, isa: Isa) -> Results<f32> {
        let (shape, window) = (self.shape, self.window);
        let output = window.output(shape);
        let packed = pack(&self.weights, None, shape.channels, window.kernel);
        let x = blocked_with_padding(shape, &self.x);
        let dy = blocked_with_padding(output, &self.dy);
        let bias = pad_bias(&self.bias);
        let mut y = vec![f32::NAN; output.blocked_len()];
        convolve(
            isa,
            &x,
            shape,
            &packed,
            window,
            &epilogue(Some(&bias)),
            &mut y,
        );
        let mut dx = vec![f32::NAN; shape.blocked_len()];
        input_gradient(isa, &dy, shape, &packed, window, &epilogue(None), &mut dx);
        let mut dw = vec![f32::NAN; self.weights.len()];
        let mut db = vec![f32::NAN; self.bias.len()];
        parameter_gradients(isa, &x, shape, &dy, window, &mut dw, &mut db);
        for (shape, maps) in [(output, &y), (shape, &dx)] {
            assert!(padded_lanes(shape).all(|lane| maps[lane] == 0.0));
        }
        let (y, dx) = (planar(output, &y), planar(shape, &dx));
        Results { y, dx, dw, db }
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn a_depthwise_layer_and_its_gradients_are_their_sums(
        (shape, window) in cases_of_windows(),
        seed in any::<u64>(),
    ) {
        let layer = Layer::random(shape, window, seed);
        let expected = layer.expected();
        for isa in Isa::available() {
            let found = layer.run(isa);
            for (name, found, expected) in [
                ("y", &found.y, &expected.y),
                ("dx", &found.dx, &expected.dx),
                ("dw", &found.dw, &expected.dw),
                ("db", &found.db, &expected.db),
            ] {
                let error = relative_error(found, expected);
                prop_assert!(error < 1e-5, "{isa:?} {shape:?} {window:?}: {name} {error:e}");
            }
        }
    }
}

#[test]
fn the_input_gradient_passes_the_gate_before_it() {
    let shape = Shape {
        batch: 2,
        channels: 19,
        height: 11,
        width: 14,
    };
    for stride in [1, 2] {
        let window = Window {
            kernel: 3,
            stride,
            padding: Padding::even(1),
        };
        let layer = Layer::random(shape, window, 3);
        let packed = pack(&layer.weights, None, shape.channels, window.kernel);
        let dy = blocked(window.output(shape), &layer.dy);
        let gate = blocked(shape, &layer.x);
        let epilogue = Epilogue {
            gate: Gate::of(Activation::Relu, &gate),
            ..epilogue(None)
        };
        let open = |(dx, x): (f64, &f32)| if *x > 0.0 { dx } else { 0.0 };
        let expected = layer.expected().dx.into_iter().zip(&layer.x).map(open);
        let expected: Vec<_> = expected.collect();
        for isa in Isa::available() {
            let mut dx = vec![f32::NAN; shape.blocked_len()];
            input_gradient(isa, &dy, shape, &packed, window, &epilogue, &mut dx);
            let error = relative_error(&planar(shape, &dx), &expected);
            assert!(error < 1e-5, "{isa:?} {stride}: {error:e}");
        }
    }
}

#[test]
fn threads_change_no_bit_of_a_depthwise_layer() {
    let shape = Shape {
        batch: 2,
        channels: 40,
        height: 45,
        width: 37,
    };
    for (kernel, stride) in [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1)] {
        let padding = Padding::even(kernel / 2);
        let window = Window {
            kernel,
            stride,
            padding,
        };
        let layer = Layer::random(shape, window, 7);
        for isa in Isa::available() {
            on_threads(|| {
                let Results { y, dx, dw, db } = layer.run(isa);
                [y, dx, dw, db].concat()
            });
        }
    }
}

#[test]
fn a_depthwise_layer_does_not_hide_what_is_not_finite() {
    let shape = Shape {
        batch: 2,
        channels: 18,
        height: 9,
        width: 12,
    };
    for (kernel, stride) in [(3, 1), (3, 2), (5, 1), (5, 2), (4, 3)] {
        let window = Window {
            kernel,
            stride,
            padding: Padding::even(kernel / 2),
        };
        for bad in [f32::NAN, f32::INFINITY] {
            for place in [0, 53, 1000] {
                let mut layer = Layer::random(shape, window, 7);
                layer.x[place] = bad;
                let at = place % layer.dy.len();
                layer.dy[at] = bad;
                let expected = layer.expected();
                for isa in Isa::available() {
                    let found = layer.run(isa);
                    for (found, expected) in [
                        (&found.y, &expected.y),
                        (&found.dx, &expected.dx),
                        (&found.dw, &expected.dw),
                        (&found.db, &expected.db),
                    ] {
                        for (found, expected) in found.iter().zip(expected) {
                            assert_eq!(found.is_finite(), expected.is_finite(), "{window:?}");
                        }
                    }
                }
            }
        }
    }
}
