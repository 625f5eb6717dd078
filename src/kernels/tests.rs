//! The kernels against a direct convolution in f64.

use proptest::prelude::*;

use super::conv::{Isa, Method, pad_bias};
use super::layout::Maps;
use super::winograd::{Epilogue, Filters};

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
                                sum += f64::from(pixel)
                                    * f64::from(weights[(o * channels + c) * 9 + tap]);
                            }
                        }
                    }
                    y.push(sum.max(0.0));
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
                out.push(at(0, 0).max(at(0, 1)).max(at(1, 0)).max(at(1, 1)));
            }
        }
    }
    out
}

fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square: f64 = expected.iter().map(|e| e * e).sum();
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
    let prepared = method.prepare(isa, &filters);
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
    };
    method.convolve(
        isa,
        input,
        maps,
        &prepared,
        whole.channels,
        &epilogue,
        &mut y,
    );
    let mut planar =
        vec![f32::NAN; output.pictures * output.channels * output.height * output.width];
    output.to_planar(&y, &mut planar);
    planar
}

const METHODS: [Method; 4] = [
    Method::Winograd4,
    Method::Winograd2,
    Method::Direct,
    Method::DirectPlanar,
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

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
