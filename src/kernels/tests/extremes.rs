//! Numbers that are not finite, and numbers next to zero.

use std::hint::black_box;

use super::super::activation::Activation;
use super::super::elementwise::activation_gradient;
use super::super::isa::Isa;
use super::super::pool::{max_pool, max_pool_gradient};
use super::super::shape::Shape;
use super::super::window::Window;
use super::super::winograd::parameter_gradients;
use super::network::{Network, sooner};
use super::reference::*;
use super::{METHODS, blocked, convolve, noise, planar};

#[test]
fn what_is_not_finite_stays_so() {
    let shape = Shape {
        batch: 1,
        channels: 5,
        height: 13,
        width: 11,
    };
    let (weights, bias) = (noise(18 * 5 * 9, 1), noise(18, 2));
    for isa in Isa::available() {
        for method in METHODS {
            for (bad, pool) in [
                (f32::NAN, false),
                (f32::NAN, true),
                (f32::INFINITY, false),
                (f32::NEG_INFINITY, true),
            ] {
                for place in [0, 6 * 11 + 5, 13 * 11 - 1] {
                    let mut x = noise(shape.planar_len(), 3);
                    x[2 * 13 * 11 + place] = bad;
                    let expected = reference(&x, shape, &weights, &bias);
                    let whole = shape.with_channels(18);
                    let expected = if pool {
                        pooled(&expected, whole)
                    } else {
                        expected
                    };
                    let found = convolve(isa, method, &x, shape, &weights, &bias, true, pool);
                    for (found, expected) in found.iter().zip(&expected) {
                        // max(−∞, 0) is 0: a direct convolution may give the number 0, never another one.
                        assert!(
                            expected.is_finite() || !found.is_finite(),
                            "{isa:?} {method:?} {bad} at {place}: {found} for {expected}"
                        );
                    }
                }
            }
        }
    }
}

/// Runs a network and counts the gradients that f64 has no finite numbers for: the kernels must have none either.
fn count_not_finite(isa: Isa, network: &Network, x: &[f32], cotangent: &[f32]) -> usize {
    let outputs = network.unpooled(isa, x);
    let expected = network.expected(&outputs, x, cotangent).gradients;
    let found = network.run(isa, &[true; 2], false, x, cotangent, sooner);
    let mut count = 0;
    for (index, [dw, db, _]) in expected.iter().enumerate() {
        for (found, expected) in found.gradients[index].iter().flatten().zip([dw, db]) {
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    expected.is_finite() || !found.is_finite(),
                    "layer {index}: {found} for {expected}"
                );
                count += usize::from(!expected.is_finite());
            }
        }
    }
    count
}

#[test]
fn what_is_not_finite_shows_in_gradients() {
    let shape = Shape {
        batch: 2,
        channels: 5,
        height: 13,
        width: 11,
    };
    for isa in Isa::available() {
        for pool in [[false, false], [true, false], [false, true]] {
            let network = Network::random(shape, &[18, 7], &[true; 2], &pool, 4);
            let x = noise(shape.planar_len(), 3);
            let cotangent = noise(network.output().planar_len(), 5);
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let (mut by_input, mut by_cotangent) = (0, 0);
                for part in 0..4 {
                    let spoilt = |numbers: &[f32]| {
                        let mut numbers = numbers.to_vec();
                        let last = numbers.len() - 1;
                        numbers[part * last / 3] = bad;
                        numbers
                    };
                    by_input += count_not_finite(isa, &network, &spoilt(&x), &cotangent);
                    by_cotangent += count_not_finite(isa, &network, &x, &spoilt(&cotangent));
                }
                // A closed ReLU keeps some of them from everything; not all.
                assert!(
                    by_input > 0 && by_cotangent > 0,
                    "{isa:?}, pool {pool:?}, {bad}: {by_input}, {by_cotangent}"
                );
            }
        }
    }
}

/// What is spoilt comes back as no number even where the ReLU is closed: a Winograd tile makes NaN of ∞ − ∞, and the
/// gate must not make 0 of it.
#[test]
fn closed_gates_do_not_hide_nan() {
    let shape = Shape {
        batch: 1,
        channels: 16,
        height: 2,
        width: 4,
    };
    let closed = vec![0.0; shape.blocked_len()];
    for isa in Isa::available() {
        let mut gradient = vec![f32::NAN; shape.blocked_len()];
        activation_gradient(isa, Activation::Relu, &closed, &mut gradient);
        assert!(gradient.iter().all(|g| g.is_nan()), "{isa:?}");

        let pooled = vec![f32::NAN; shape.pooled().blocked_len()];
        let mut gradient = vec![1.0; shape.blocked_len()];
        max_pool_gradient(isa, &closed, shape, true, &pooled, &mut gradient);
        let nan = gradient.iter().filter(|g| g.is_nan()).count();
        assert_eq!(nan, pooled.len(), "{isa:?}");
    }
}

/// The smallest f32 above zero, 2⁻¹⁴⁹: what subnormal numbers are multiples of.
const STEP: f64 = 1.401_298_464_324_817e-45;

/// How many steps a number, a weight or a product may be off: a transform adds up a few of them, rounds, and scales.
const STEPS: f64 = 64.0;

/// Scales of inputs and weights: one subnormal, or their products, or a product too large for its factors to be.
const SCALES: [(f32, f32); 6] = [
    (1e-40, 1.0),
    (1.0, 1e-40),
    (1e-20, 1e-20),
    (1e-25, 1e-15),
    (1e-40, 1e25),
    (1e25, 1e-40),
];

fn scaled(mut numbers: Vec<f32>, scale: f32) -> Vec<f32> {
    numbers.iter_mut().for_each(|number| *number *= scale);
    numbers
}

fn largest(numbers: &[f64]) -> f64 {
    numbers.iter().copied().fold(0.0, f64::max)
}

fn absolute(numbers: &[f32]) -> Vec<f64> {
    numbers.iter().map(|x| f64::from(x.abs())).collect()
}

/// Fails if this thread, or one of the pool's, was left taking subnormal numbers for zero.
fn assert_subnormals_are_numbers(what: &str) {
    let is_number = || black_box(1e-40f32) * black_box(0.5) > 0.0;
    let everywhere = is_number() && rayon::broadcast(|_| is_number()).into_iter().all(|is| is);
    assert!(everywhere, "{what} left a thread that flushes to zero");
}

fn assert_within(found: &[f32], expected: &[f64], bound: f64, what: &str) {
    let errors = found.iter().zip(expected);
    let error = largest(
        &errors
            .map(|(f, e)| (f64::from(*f) - e).abs())
            .collect::<Vec<_>>(),
    );
    // Rounding to nothing would be an error as large as what is expected.
    let size = largest(&expected.iter().map(|e| e.abs()).collect::<Vec<_>>());
    assert!(
        bound < size / 8.0,
        "{what}: {bound:e} says nothing of {size:e}"
    );
    assert!(error <= bound, "{what}: error {error:e} above {bound:e}");
}

/// Underflow is gradual: beside the rounding there always is, an output is off by what it would be if every number,
/// weight and product were rounded to a few of the smallest steps.
#[test]
fn subnormal_numbers_are_not_flushed() {
    let shape = Shape {
        batch: 2,
        channels: 20,
        height: 9,
        width: 14,
    };
    let outputs = 18;
    let ones = vec![1.0; outputs * shape.channels * 9];
    for (of_x, of_weights) in SCALES {
        let x = scaled(noise(shape.planar_len(), 1), of_x);
        let weights = scaled(noise(outputs * shape.channels * 9, 2), of_weights);
        let bias = scaled(noise(outputs, 3), of_x * of_weights);
        let expected = reference(&x, shape, &weights, &bias);
        let magnitudes: Vec<f32> = weights.iter().map(|weight| weight.abs()).collect();
        let rounding = 1e-6 * largest(&sums(&absolute(&x), shape, &magnitudes, &bias));
        let filters = absolute(&weights);
        let filters = filters
            .chunks_exact(9 * shape.channels)
            .map(|filter| filter.iter().sum());
        let numbers = largest(&filters.collect::<Vec<_>>())
            + largest(&sums(&absolute(&x), shape, &ones, &[0.0]))
            + 9.0 * shape.channels as f64;
        let bound = rounding + STEPS * STEP * numbers;
        for isa in Isa::available() {
            for method in METHODS {
                let what = format!("{isa:?} {method:?}, {of_x:e} · {of_weights:e}");
                let found = convolve(isa, method, &x, shape, &weights, &bias, true, false);
                assert_within(&found, &expected, bound, &what);
                assert_subnormals_are_numbers(&what);
            }
        }
    }
}

#[test]
fn subnormal_gradients_are_not_flushed() {
    let shape = Shape {
        batch: 2,
        channels: 20,
        height: 9,
        width: 14,
    };
    let output = shape.with_channels(18);
    let pixels = 2 * 9 * 14;
    for (of_x, of_dy) in SCALES {
        let x = scaled(noise(shape.planar_len(), 1), of_x);
        let dy = scaled(noise(output.planar_len(), 2), of_dy);
        let dw = weight_gradient(&widened(&x), shape, &widened(&dy), 18);
        let db = bias_gradient(&widened(&dy), shape, 18);
        let rounding = 1e-6 * largest(&weight_gradient(&absolute(&x), shape, &absolute(&dy), 18));
        // A tap meets no more than all pixels of a channel.
        let of_channels = |numbers: &[f32], channels| {
            largest(&bias_gradient(&absolute(numbers), shape, channels))
        };
        let numbers = of_channels(&x, 20) + of_channels(&dy, 18) + pixels as f64;
        let bound = rounding + STEPS * STEP * numbers;
        let (x, blocked_dy) = (blocked(shape, &x), blocked(output, &dy));
        for isa in Isa::available() {
            let what = format!("{isa:?}, {of_x:e} · {of_dy:e}");
            let mut found = vec![f32::NAN; dw.len()];
            let mut found_db = vec![f32::NAN; db.len()];
            parameter_gradients(
                isa,
                &x,
                shape,
                Window::SAME_3X3,
                &blocked_dy,
                &mut found,
                &mut found_db,
            );
            assert_within(&found, &dw, bound, &what);
            // Sums of subnormal numbers are exact.
            assert_within(&found_db, &db, 1e-6 * of_channels(&dy, 18), &what);
            assert_subnormals_are_numbers(&what);
        }
    }
}

/// Above zero is above zero, however little.
#[test]
fn subnormal_outputs_pass_gates_and_pools() {
    let shape = Shape {
        batch: 1,
        channels: 16,
        height: 4,
        width: 6,
    };
    let least = f32::from_bits(1);
    let y: Vec<f32> = (0..shape.planar_len())
        .map(|index| least * [0.0, 1.0, 3.0, 2.0, 0.0][index % 5])
        .collect();
    let winners = routes(&y, shape, true, true);
    for isa in Isa::available() {
        let ones = vec![1.0; shape.planar_len()];
        let mut gradient = blocked(shape, &ones);
        activation_gradient(isa, Activation::Relu, &blocked(shape, &y), &mut gradient);
        let expected: Vec<f32> = y.iter().map(|y| if *y > 0.0 { 1.0 } else { 0.0 }).collect();
        assert_eq!(planar(shape, &gradient), expected, "{isa:?}");

        let pooled = shape.pooled();
        let mut found = vec![f32::NAN; pooled.blocked_len()];
        max_pool(isa, &blocked(shape, &y), shape, &mut found);
        assert_eq!(planar(pooled, &found), routed(&winners, &y), "{isa:?}");

        let ones = blocked(pooled, &ones[..pooled.planar_len()]);
        let mut found = vec![f32::NAN; shape.blocked_len()];
        max_pool_gradient(isa, &blocked(shape, &y), shape, true, &ones, &mut found);
        let mut expected = vec![0.0; shape.planar_len()];
        for at in winners.iter().copied().flatten() {
            expected[at] = 1.0;
        }
        assert_eq!(planar(shape, &found), expected, "{isa:?}");
    }
}
