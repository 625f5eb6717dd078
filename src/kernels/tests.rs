//! The kernels against a direct convolution in f64.

use proptest::prelude::*;

use candle_core::{Device, Tensor, Var};

use super::conv::{Isa, Method, pad_bias};
use super::filters::Filters;
use super::layout::Maps;
use super::training::{Input, OpenLayer, backward, run_open};
use super::winograd::Epilogue;

/// The same random cases in every run: a sum that rounds to the other side of a ReLU, or cancels to next to nothing, is
/// rare but would fail a run that has nothing to do with it.
fn cases(count: u32) -> ProptestConfig {
    ProptestConfig {
        cases: count,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(1),
        ..ProptestConfig::default()
    }
}

/// Reproducible numbers, about normal.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..count)
        .map(|_| {
            let mut sum = 0.0;
            for _ in 0..4 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                sum += (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            }
            sum * 1.7
        })
        .collect()
}

/// Convolution with bias and ReLU of planar maps in f64.
fn reference(x: &[f32], maps: Maps, weights: &[f32], bias: &[f32]) -> Vec<f64> {
    let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
    reference_of(&x, maps, weights, bias)
}

fn reference_of(x: &[f64], maps: Maps, weights: &[f32], bias: &[f32]) -> Vec<f64> {
    let Maps {
        pictures,
        channels,
        height,
        width,
    } = maps;
    let mut y = Vec::new();
    for n in 0..pictures {
        for (o, bias) in bias.iter().enumerate() {
            for row in 0..height {
                for column in 0..width {
                    let mut sum = f64::from(*bias);
                    for c in 0..channels {
                        for tap in 0..9 {
                            let (r, k) = (row + tap / 3, column + tap % 3);
                            if r >= 1 && r <= height && k >= 1 && k <= width {
                                let pixel =
                                    x[((n * channels + c) * height + r - 1) * width + k - 1];
                                sum += pixel * f64::from(weights[(o * channels + c) * 9 + tap]);
                            }
                        }
                    }
                    y.push(if sum < 0.0 { 0.0 } else { sum });
                }
            }
        }
    }
    y
}

/// 2×2 max-pool of planar maps.
fn pooled(y: &[f64], maps: Maps) -> Vec<f64> {
    let (height, width) = (maps.height, maps.width);
    let mut out = Vec::new();
    for map in y.chunks_exact((height * width).max(1)) {
        for row in 0..height / 2 {
            for column in 0..width / 2 {
                let at = |r: usize, c: usize| map[(2 * row + r) * width + 2 * column + c];
                let largest = [at(0, 1), at(1, 0), at(1, 1)]
                    .into_iter()
                    .fold(at(0, 0), |a, b| if a.is_nan() || a > b { a } else { b });
                out.push(largest);
            }
        }
    }
    out
}

fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    error_beside(found, expected, expected)
}

/// The norm of the error over that of `scale`.
fn error_beside(found: &[f32], expected: &[f64], scale: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square: f64 = scale.iter().map(|e| e * e).sum();
    let error: f64 = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f64::from(*f) - e).powi(2))
        .sum();
    (error / square.max(1e-30)).sqrt()
}

fn convolve(
    isa: Isa,
    method: Method,
    x: &[f32],
    maps: Maps,
    weights: &[f32],
    bias: &[f32],
    pool: bool,
) -> Vec<f32> {
    let filters = Filters {
        weights,
        out_channels: bias.len(),
        in_channels: maps.channels,
        transposed: false,
    };
    let mut blocked = vec![f32::NAN; maps.len()];
    let input = if method == Method::DirectPlanar {
        x
    } else {
        maps.to_blocked(x, &mut blocked);
        &blocked
    };
    let whole = maps.with_channels(bias.len());
    let output = if pool { whole.pooled() } else { whole };
    let mut y = vec![f32::NAN; output.len()];
    let bias = pad_bias(bias);
    let epilogue = Epilogue {
        bias: Some(&bias),
        relu: true,
        pool,
        gate: None,
    };
    let prepared = method.prepare(isa, &filters);
    method.convolve(
        isa,
        input,
        maps,
        &filters,
        Some(&prepared),
        &epilogue,
        &mut y,
    );
    // Weights that are used once may go another way, to the same bits.
    let mut once = vec![f32::NAN; output.len()];
    method.convolve(isa, input, maps, &filters, None, &epilogue, &mut once);
    assert!(
        y.iter()
            .map(|y| y.to_bits())
            .eq(once.iter().map(|y| y.to_bits()))
    );
    let mut planar =
        vec![f32::NAN; output.pictures * output.channels * output.height * output.width];
    output.to_planar(&y, &mut planar);
    planar
}

const METHODS: [Method; 5] = [
    Method::Winograd6,
    Method::Winograd4,
    Method::Winograd2,
    Method::Direct,
    Method::DirectPlanar,
];

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn every_method_on_every_processor_is_the_convolution(
        pictures in 1usize..4,
        channels in 1usize..40,
        outputs in 1usize..40,
        height in 1usize..24,
        width in 1usize..24,
        seed in any::<u64>(),
        pool in any::<bool>(),
    ) {
        let maps = Maps { pictures, channels, height, width };
        let x = noise(pictures * channels * height * width, seed);
        let weights = noise(outputs * channels * 9, seed ^ 1);
        let bias = noise(outputs, seed ^ 2);
        let mut expected = reference(&x, maps, &weights, &bias);
        if pool {
            expected = pooled(&expected, maps);
        }
        for isa in Isa::available() {
            for method in METHODS {
                let found = convolve(isa, method, &x, maps, &weights, &bias, pool);
                let error = relative_error(&found, &expected);
                prop_assert!(error < 1e-5, "{isa:?} {method:?} {maps:?} → {outputs}: error {error:e}");
            }
        }
    }
}

#[test]
fn wide_layers_take_both_schedules() {
    // Enough tiles and channels for the fused and for the phased schedule.
    for (channels, outputs, side) in [(48, 64, 64), (272, 288, 16)] {
        let maps = Maps {
            pictures: 2,
            channels,
            height: side,
            width: side + 1,
        };
        let x = noise(2 * channels * side * (side + 1), 5);
        let weights = noise(outputs * channels * 9, 6);
        let bias = noise(outputs, 7);
        let expected = pooled(&reference(&x, maps, &weights, &bias), maps);
        for method in [Method::Winograd4, Method::Winograd2, Method::Direct] {
            let found = convolve(Isa::available()[0], method, &x, maps, &weights, &bias, true);
            let error = relative_error(&found, &expected);
            assert!(error < 1e-5, "{method:?} {maps:?}: error {error:e}");
        }
    }
}

/// A layer of the f64 reference network.
struct Reference {
    weights: Vec<f32>,
    bias: Vec<f32>,
    pool: bool,
}

/// Forward and backward in f64: the output, and each layer's gradients of weights and bias for Σ cotangent · output,
/// with the sums of the absolute values that a bias's gradient adds up: it may cancel to next to nothing.
#[expect(clippy::type_complexity, reason = "a test's result")]
fn backpropagate(
    layers: &[Reference],
    x: &[f32],
    mut maps: Maps,
    cotangent: &[f32],
) -> (Vec<f64>, Vec<(Vec<f64>, Vec<f64>, Vec<f64>)>) {
    let mut inputs = vec![x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>()];
    let mut outputs = Vec::new();
    let mut shapes = Vec::new();
    for layer in layers {
        let x = inputs.last().unwrap();
        let y = reference_of(x, maps, &layer.weights, &layer.bias);
        shapes.push(maps);
        maps = maps.with_channels(layer.bias.len());
        if layer.pool {
            inputs.push(pooled(&y, maps));
            maps = maps.pooled();
        } else {
            inputs.push(y.clone());
        }
        outputs.push(y);
    }
    let output = inputs.pop().unwrap();
    let mut gradient: Vec<f64> = cotangent.iter().map(|c| f64::from(*c)).collect();
    let mut gradients = Vec::new();
    for (index, layer) in layers.iter().enumerate().rev() {
        let (y, x, maps) = (&outputs[index], &inputs[index], shapes[index]);
        let Maps {
            pictures,
            channels,
            height,
            width,
        } = maps;
        let out_channels = layer.bias.len();
        let mut dy = vec![0.0; y.len()];
        for map in 0..pictures * out_channels {
            let at = |row: usize, column: usize| (map * height + row) * width + column;
            if layer.pool {
                for row in 0..height / 2 {
                    for column in 0..width / 2 {
                        let corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
                            .map(|(i, j)| at(2 * row + i, 2 * column + j));
                        let largest = corners
                            .into_iter()
                            .reduce(|a, b| if y[b] > y[a] { b } else { a })
                            .unwrap();
                        let from = (map * (height / 2) + row) * (width / 2) + column;
                        dy[largest] = gradient[from];
                    }
                }
            } else {
                dy[at(0, 0)..at(height, 0)].copy_from_slice(&gradient[at(0, 0)..at(height, 0)]);
            }
        }
        for (dy, y) in dy.iter_mut().zip(y) {
            if *y <= 0.0 {
                *dy = 0.0;
            }
        }
        let mut dw = vec![0.0; layer.weights.len()];
        let mut db = vec![0.0; out_channels];
        let mut added = vec![0.0; out_channels];
        let mut dx = vec![0.0; x.len()];
        for n in 0..pictures {
            for o in 0..out_channels {
                for row in 0..height {
                    for column in 0..width {
                        let g = dy[((n * out_channels + o) * height + row) * width + column];
                        db[o] += g;
                        added[o] += g.abs();
                        for c in 0..channels {
                            for tap in 0..9 {
                                let (r, k) = (row + tap / 3, column + tap % 3);
                                if r >= 1 && r <= height && k >= 1 && k <= width {
                                    let pixel =
                                        ((n * channels + c) * height + r - 1) * width + k - 1;
                                    let weight = (o * channels + c) * 9 + tap;
                                    dw[weight] += g * x[pixel];
                                    dx[pixel] += g * f64::from(layer.weights[weight]);
                                }
                            }
                        }
                    }
                }
            }
        }
        gradients.push((dw, db, added));
        gradient = dx;
    }
    gradients.reverse();
    (output, gradients)
}

/// Runs three layers with a graph and holds output and gradients against f64. `open` says which take a gradient.
fn check_training(
    isa: Isa,
    maps: Maps,
    channels: [usize; 3],
    open: [bool; 3],
    pool: [bool; 3],
    seed: u64,
) {
    let mut inputs = maps.channels;
    let mut layers = Vec::new();
    let mut side = maps;
    for (index, outputs) in channels.into_iter().enumerate() {
        let scale = (2.0 / (9 * inputs) as f32).sqrt() / 0.5;
        layers.push(Reference {
            weights: noise(outputs * inputs * 9, seed ^ (10 + index as u64))
                .into_iter()
                .map(|w| w * scale)
                .collect(),
            bias: noise(outputs, seed ^ (20 + index as u64)),
            pool: pool[index],
        });
        inputs = outputs;
        side = if pool[index] { side.pooled() } else { side };
    }
    let output = side.with_channels(inputs);
    let x = noise(maps.planar_len(), seed);
    let cotangent = noise(output.planar_len(), seed ^ 30);
    let (expected, gradients) = backpropagate(&layers, &x, maps, &cotangent);

    let variables: Vec<(Var, Var)> = layers
        .iter()
        .scan(maps.channels, |inputs, layer| {
            let outputs = layer.bias.len();
            let shape = (outputs, std::mem::replace(inputs, outputs), 3, 3);
            let weight = Tensor::from_slice(&layer.weights, shape, &Device::Cpu).unwrap();
            let bias = Tensor::from_slice(&layer.bias, outputs, &Device::Cpu).unwrap();
            Some((
                Var::from_tensor(&weight).unwrap(),
                Var::from_tensor(&bias).unwrap(),
            ))
        })
        .collect();
    let of = |var: &Var, open: bool| {
        if open {
            var.as_tensor().clone()
        } else {
            var.as_detached_tensor()
        }
    };
    let run = || {
        let layers = variables
            .iter()
            .zip(open)
            .zip(pool)
            .map(|(((weight, bias), open), pool)| OpenLayer {
                weight: of(weight, open),
                bias: of(bias, open),
                pool,
            });
        run_open(isa, layers.collect(), Input::Planar(x.clone()), maps).unwrap()
    };
    let y = run();
    let found: Vec<f32> = y.flatten_all().unwrap().to_vec1().unwrap();
    let what = format!("{isa:?} {maps:?} → {channels:?}, open {open:?}, pool {pool:?}");
    let error = relative_error(&found, &expected);
    assert!(error < 1e-5, "{what}: output error {error:e}");
    let cotangent = Tensor::from_vec(cotangent, y.shape(), &Device::Cpu).unwrap();
    let loss = (y * cotangent).unwrap().sum_all().unwrap();
    // Both ways for gradients to come out; which one a case takes is as random as the rest.
    let found = if seed.is_multiple_of(2) {
        backward(&loss, &mut Vec::new())
    } else {
        loss.backward()
    };
    let found = found.unwrap();
    for (index, (dw, db, added)) in gradients.iter().enumerate() {
        let (weight, bias) = &variables[index];
        for (var, expected, scale, name) in [(weight, dw, dw, "weight"), (bias, db, added, "bias")]
        {
            let Some(found) = found.get(var) else {
                assert!(!open[index], "{what}: no gradient of layer {index}");
                continue;
            };
            assert!(open[index], "{what}: a gradient of frozen layer {index}");
            assert_eq!(found.dims(), var.dims());
            let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
            let error = error_beside(&found, expected, scale);
            assert!(
                error < 2e-5,
                "{what}: {name} of layer {index}: error {error:e}"
            );
        }
    }
}

proptest! {
    #![proptest_config(cases(24))]

    #[test]
    fn gradients_of_a_run_are_those_of_f64(
        pictures in 1usize..4,
        channels in 1usize..24,
        first in 1usize..40,
        second in 1usize..40,
        third in 1usize..24,
        height in 4usize..20,
        width in 4usize..20,
        seed in any::<u64>(),
        open in prop::array::uniform3(any::<bool>()),
        pool in prop::array::uniform3(any::<bool>()),
    ) {
        let maps = Maps { pictures, channels, height, width };
        // Two poolings of four pixels leave one: a third would leave nothing to compare.
        let pool = [pool[0], pool[1], pool[2] && !(pool[0] && pool[1])];
        let open = if open == [false; 3] { [true; 3] } else { open };
        for isa in Isa::available() {
            check_training(isa, maps, [first, second, third], open, pool, seed);
        }
    }
}

#[test]
fn weight_gradients_of_many_tiles_take_several_chunks() {
    // Without a ReLU in between: of a million sums one may round to the other side of zero, and its gradient with it.
    let input = Maps {
        pictures: 3,
        channels: 33,
        height: 61,
        width: 118,
    };
    let output = input.with_channels(48);
    let (x, dy) = (noise(input.planar_len(), 1), noise(output.planar_len(), 2));
    let mut expected = vec![0.0; 48 * 33 * 9];
    let plane = 61 * 118;
    for n in 0..3 {
        for o in 0..48 {
            let dy = &dy[(n * 48 + o) * plane..][..plane];
            for c in 0..33 {
                let x = &x[(n * 33 + c) * plane..][..plane];
                for tap in 0..9 {
                    let (down, right) = (tap / 3, tap % 3);
                    let mut sum = 0.0;
                    for row in 1usize.saturating_sub(down)..61.min(62 - down) {
                        for column in 1usize.saturating_sub(right)..118.min(119 - right) {
                            let pixel = x[(row + down - 1) * 118 + column + right - 1];
                            sum += f64::from(dy[row * 118 + column]) * f64::from(pixel);
                        }
                    }
                    expected[(o * 33 + c) * 9 + tap] += sum;
                }
            }
        }
    }
    let blocked = |maps: Maps, planar: &[f32]| {
        let mut blocked = vec![f32::NAN; maps.len()];
        maps.to_blocked(planar, &mut blocked);
        blocked
    };
    let (x, dy) = (blocked(input, &x), blocked(output, &dy));
    for isa in Isa::available() {
        let mut dw = vec![f32::NAN; expected.len()];
        isa.parameter_gradients(&x, input, &dy, &mut dw, &mut [0.0; 48]);
        let error = relative_error(&dw, &expected);
        assert!(error < 1e-5, "{isa:?}: error {error:e}");
    }
}

#[test]
fn threads_change_no_bit() {
    let maps = Maps {
        pictures: 3,
        channels: 20,
        height: 37,
        width: 30,
    };
    let (weights, bias) = (noise(50 * 20 * 9, 1), noise(50, 2));
    let (x, cotangent) = (noise(maps.planar_len(), 3), noise(3 * 50 * 18 * 15, 4));
    for isa in Isa::available() {
        let run = || {
            let weight = Tensor::from_slice(&weights, (50, 20, 3, 3), &Device::Cpu).unwrap();
            let bias = Tensor::from_slice(&bias, 50, &Device::Cpu).unwrap();
            let (weight, bias) = (
                Var::from_tensor(&weight).unwrap(),
                Var::from_tensor(&bias).unwrap(),
            );
            let layer = OpenLayer {
                weight: weight.as_tensor().clone(),
                bias: bias.as_tensor().clone(),
                pool: true,
            };
            let y = run_open(isa, vec![layer], Input::Planar(x.clone()), maps).unwrap();
            let cotangent = Tensor::from_slice(&cotangent, y.shape(), &Device::Cpu).unwrap();
            let loss = (&y * cotangent).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            [
                &y,
                gradients.get(&weight).unwrap(),
                gradients.get(&bias).unwrap(),
            ]
            .map(|tensor| {
                let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
                values.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            })
        };
        let in_pool = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(run)
        };
        let one = in_pool(1);
        for threads in [2, 3, 5] {
            assert!(
                in_pool(threads) == one,
                "{isa:?}: {threads} threads differ from one"
            );
        }
    }
}

#[test]
fn gradients_that_go_around_candle_add_up_as_in_it() {
    let maps = Maps {
        pictures: 2,
        channels: 16,
        height: 6,
        width: 9,
    };
    let weight = Tensor::from_vec(noise(16 * 16 * 9, 1), (16, 16, 3, 3), &Device::Cpu).unwrap();
    let bias = Tensor::from_vec(noise(16, 2), 16, &Device::Cpu).unwrap();
    let (weight, bias) = (
        Var::from_tensor(&weight).unwrap(),
        Var::from_tensor(&bias).unwrap(),
    );
    let run = |seed| {
        let layer = OpenLayer {
            weight: weight.as_tensor().clone(),
            bias: bias.as_tensor().clone(),
            pool: false,
        };
        let x = Input::Planar(noise(maps.planar_len(), seed));
        run_open(Isa::available()[0], vec![layer], x, maps).unwrap()
    };
    // The same variables in two runs, and once outside of any.
    let loss = ((run(3).sqr().unwrap() + run(4)).unwrap().sum_all().unwrap()
        + weight.sqr().unwrap().sum_all().unwrap())
    .unwrap();
    // A spent tensor may hold anything, and is taken.
    let mut spent = vec![(weight.ones_like().unwrap() * f64::NAN).unwrap()];
    let sooner = backward(&loss, &mut spent).unwrap();
    assert!(spent.is_empty());
    let candle = loss.backward().unwrap();
    for var in [&weight, &bias] {
        let numbers = |store: &candle_core::backprop::GradStore| -> Vec<f32> {
            let gradient = store.get(var).unwrap();
            gradient.flatten_all().unwrap().to_vec1().unwrap()
        };
        let expected: Vec<f64> = numbers(&candle).into_iter().map(f64::from).collect();
        let error = relative_error(&numbers(&sooner), &expected);
        assert!(error < 1e-6, "error {error:e}");
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    let maps = Maps {
        pictures: 1,
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
                    let mut x = noise(maps.planar_len(), 3);
                    x[2 * 13 * 11 + place] = bad;
                    let expected = reference_of(
                        &x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>(),
                        maps,
                        &weights,
                        &bias,
                    );
                    let whole = maps.with_channels(18);
                    let expected = if pool {
                        pooled(&expected, whole)
                    } else {
                        expected
                    };
                    let found = convolve(isa, method, &x, maps, &weights, &bias, pool);
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
