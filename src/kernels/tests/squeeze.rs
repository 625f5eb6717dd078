//! Squeeze-and-excitation and its gradients against f64.

use proptest::prelude::*;

use super::super::activation::Activation;
use super::super::isa::Isa;
use super::super::shape::Shape;
use super::super::squeeze::{Dense, gates, gradients, means, scale};
use super::reference::{relative_error, widened};
use super::windows::{blocked_with_padding, on_threads, padded_lanes};
use super::{cases, noise, planar};

/// Operands, planar, and the two activations.
struct Layer {
    shape: Shape,
    x: Vec<f32>,
    dy: Vec<f32>,
    reduce: (Vec<f32>, Vec<f32>, Activation),
    expand: (Vec<f32>, Vec<f32>, Activation),
}

/// Output, gradient of the input, gradients of the four parameters.
type Results<T> = [Vec<T>; 6];

fn value(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Relu => x.max(0.0),
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::HardSigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
        other => panic!("{other:?} is in no squeeze-and-excitation here"),
    }
}

/// Its derivative.
fn slope(activation: Activation, x: f64) -> f64 {
    let sigmoid = value(Activation::Sigmoid, x);
    match activation {
        Activation::Relu => f64::from(u8::from(x > 0.0)),
        Activation::Silu => sigmoid * (1.0 + x * (1.0 - sigmoid)),
        Activation::Sigmoid => sigmoid * (1.0 - sigmoid),
        Activation::HardSigmoid => f64::from(u8::from(x.abs() < 3.0)) / 6.0,
        other => panic!("{other:?} is in no squeeze-and-excitation here"),
    }
}

impl Layer {
    fn random(shape: Shape, hidden: usize, activations: [Activation; 2], seed: u64) -> Self {
        let channels = shape.channels;
        let dense = |inputs: usize, outputs: usize, activation, seed| {
            // Sums of about 1: a sigmoid's slope, σ · (1 − σ), loses digits far out.
            let scale = 1.0 / (inputs as f32).sqrt();
            let noise = |count, seed| -> Vec<f32> {
                let noise = noise(count, seed);
                noise.into_iter().map(|x| scale * x).collect()
            };
            let weight = noise(inputs * outputs, seed);
            (weight, noise(outputs, seed ^ 99), activation)
        };
        // Both signs, but sums over pixels that do not cancel to next to nothing.
        let maps = |seed| -> Vec<f32> {
            let noise = noise(shape.planar_len(), seed);
            noise.into_iter().map(|x| x + 1.0).collect()
        };
        Self {
            shape,
            x: maps(seed),
            dy: maps(seed ^ 1),
            reduce: dense(channels, hidden, activations[0], seed ^ 2),
            expand: dense(hidden, channels, activations[1], seed ^ 3),
        }
    }

    fn expected(&self) -> Results<f64> {
        let Shape {
            batch, channels, ..
        } = self.shape;
        let size = self.shape.height * self.shape.width;
        let (x, dy) = (widened(&self.x), widened(&self.dy));
        let (w1, b1) = (widened(&self.reduce.0), widened(&self.reduce.1));
        let (w2, b2) = (widened(&self.expand.0), widened(&self.expand.1));
        let hidden = b1.len();
        let mut results: Results<f64> = [
            vec![0.0; x.len()],
            vec![0.0; x.len()],
            vec![0.0; w1.len()],
            vec![0.0; hidden],
            vec![0.0; w2.len()],
            vec![0.0; channels],
        ];
        for n in 0..batch {
            let map = |c: usize| (n * channels + c) * size..(n * channels + c + 1) * size;
            let mean = |c: usize| x[map(c)].iter().sum::<f64>() / size as f64;
            let means: Vec<f64> = (0..channels).map(mean).collect();
            let sum =
                |w: &[f64], b: f64, x: &[f64]| b + w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            let reduced: Vec<f64> = (0..hidden)
                .map(|r| sum(&w1[r * channels..][..channels], b1[r], &means))
                .collect();
            let h: Vec<f64> = reduced.iter().map(|s| value(self.reduce.2, *s)).collect();
            let mut dh = vec![0.0; hidden];
            let mut gates = Vec::new();
            for c in 0..channels {
                let expanded = sum(&w2[c * hidden..][..hidden], b2[c], &h);
                gates.push(value(self.expand.2, expanded));
                let products = x[map(c)].iter().zip(&dy[map(c)]);
                let d = products.map(|(x, dy)| x * dy).sum::<f64>();
                let d = d * slope(self.expand.2, expanded);
                results[5][c] += d;
                for r in 0..hidden {
                    results[4][c * hidden + r] += d * h[r];
                    dh[r] += d * w2[c * hidden + r];
                }
            }
            let mut dmeans = vec![0.0; channels];
            for r in 0..hidden {
                let d = dh[r] * slope(self.reduce.2, reduced[r]);
                results[3][r] += d;
                for c in 0..channels {
                    results[2][r * channels + c] += d * means[c];
                    dmeans[c] += d * w1[r * channels + c];
                }
            }
            for c in 0..channels {
                for at in map(c) {
                    results[0][at] = x[at] * gates[c];
                    results[1][at] = dy[at] * gates[c] + dmeans[c] / size as f64;
                }
            }
        }
        results
    }

    fn run(&self, isa: Isa) -> Results<f32> {
        let shape = self.shape;
        let dense = |(weight, bias, activation): &(Vec<f32>, Vec<f32>, Activation)| {
            let (weight, bias) = (weight.clone(), bias.clone());
            (weight, bias, *activation)
        };
        let (reduce, expand) = (dense(&self.reduce), dense(&self.expand));
        let [reduce, expand] = [&reduce, &expand].map(|(weight, bias, activation)| Dense {
            weight: &weight[..],
            bias: &bias[..],
            activation: *activation,
        });
        let x = blocked_with_padding(shape, &self.x);
        let dy = blocked_with_padding(shape, &self.dy);
        let kept = gates(isa, means(isa, &x, shape), shape.batch, reduce, expand);
        let mut y = vec![f32::NAN; x.len()];
        scale(isa, &x, shape, &kept.gates, &mut y);
        let mut dx = vec![f32::NAN; x.len()];
        let found = gradients(isa, &x, shape, &kept, reduce, expand, &dy, &mut dx);
        for lane in padded_lanes(shape) {
            assert!(y[lane] == 0.0 && dx[lane] == 0.0);
        }
        [
            planar(shape, &y),
            planar(shape, &dx),
            found.reduce.weight.to_vec(),
            found.reduce.bias.to_vec(),
            found.expand.weight.to_vec(),
            found.expand.bias.to_vec(),
        ]
    }
}

/// As EfficientNet and MobileNetV3 have them.
const ACTIVATIONS: [[Activation; 2]; 2] = [
    [Activation::Silu, Activation::Sigmoid],
    [Activation::Relu, Activation::HardSigmoid],
];

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn squeeze_and_excitation_and_its_gradients_are_their_sums(
        (batch, channels, height, width) in (1usize..=3, 1usize..=70, 1usize..=20, 1usize..=20),
        hidden in 1usize..=20,
        kind in 0usize..2,
        seed in any::<u64>(),
    ) {
        let shape = Shape { batch, channels, height, width };
        let layer = Layer::random(shape, hidden, ACTIVATIONS[kind], seed);
        let expected = layer.expected();
        for isa in Isa::available() {
            let found = layer.run(isa);
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let error = relative_error(found, expected);
                prop_assert!(error < 1e-5, "{isa:?} {shape:?} {hidden}: {index} {error:e}");
            }
        }
    }
}

#[test]
fn threads_change_no_bit_of_squeeze_and_excitation() {
    let shape = Shape {
        batch: 3,
        channels: 72,
        height: 28,
        width: 27,
    };
    for activations in ACTIVATIONS {
        let layer = Layer::random(shape, 24, activations, 5);
        for isa in Isa::available() {
            on_threads(|| layer.run(isa).concat());
        }
    }
}

#[test]
fn squeeze_and_excitation_does_not_hide_nan() {
    let shape = Shape {
        batch: 2,
        channels: 18,
        height: 5,
        width: 7,
    };
    for activations in ACTIVATIONS {
        for isa in Isa::available() {
            let image = shape.planar_len() / 2;
            let mut layer = Layer::random(shape, 4, activations, 5);
            layer.x[17] = f32::NAN;
            // A mean of the first image spoils all its gates, nothing of the second.
            let [y, dx, dw, ..] = layer.run(isa);
            assert!(y[..image].iter().all(|y| y.is_nan()));
            assert!(y[image..].iter().all(|y| y.is_finite()));
            assert!(dx[..image].iter().all(|dx| dx.is_nan()));
            assert!(dw.iter().any(|dw| dw.is_nan()));
        }
    }
}
