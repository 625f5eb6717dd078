//! The kernels against a direct convolution in f64.

mod extremes;
mod gradients;
mod network;
mod reference;

use std::collections::HashSet;

use proptest::prelude::*;

use super::conv::{Isa, Method};
use super::epilogue::{Epilogue, pad_bias};
use super::filters::Filters;
use super::layout::Maps;
use super::stack::{self, Layer, Prepared};
use network::Convolution;
use reference::*;

/// The same random cases in every run: a sum that cancels to next to nothing is rare but would fail a run that has
/// nothing to do with it. `PROPTEST_CASES`, as elsewhere, asks for another number: a sanitizer is slow.
fn cases(count: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: asked.and_then(|cases| cases.parse().ok()).unwrap_or(count),
        failure_persistence: None,
        // A failure among large maps is told now, not smaller in an hour.
        max_shrink_time: 10_000,
        rng_seed: proptest::test_runner::RngSeed::Fixed(1),
        ..ProptestConfig::default()
    }
}

/// A height, a width or a number of channels: half of them so small that most tiles and blocks stick out.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..=9, 1usize..=70]
}

fn maps() -> impl Strategy<Value = Maps> {
    let sizes = (1usize..=5, size(), size(), size());
    sizes.prop_map(|(pictures, channels, height, width)| Maps {
        pictures,
        channels,
        height,
        width,
    })
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

fn blocked(maps: Maps, planar: &[f32]) -> Vec<f32> {
    let mut blocked = vec![f32::NAN; maps.len()];
    maps.to_blocked(planar, &mut blocked);
    blocked
}

fn planar(maps: Maps, blocked: &[f32]) -> Vec<f32> {
    let mut planar = vec![f32::NAN; maps.planar_len()];
    maps.to_planar(blocked, &mut planar);
    planar
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
    let run = |prepared: Option<&[f32]>, y: &mut [f32]| {
        method.convolve(isa, input, maps, &filters, prepared, &epilogue, y);
    };
    run(Some(&prepared), &mut y);
    // Weights that are used once may go another way, to the same bits.
    let mut once = vec![f32::NAN; output.len()];
    run(None, &mut once);
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
        maps in maps(),
        outputs in size(),
        seed in any::<u64>(),
        pool in any::<bool>(),
    ) {
        let x = noise(maps.planar_len(), seed);
        let weights = noise(outputs * maps.channels * 9, seed ^ 1);
        let bias = noise(outputs, seed ^ 2);
        let mut expected = reference(&x, maps, &weights, &bias);
        if pool {
            expected = pooled(&expected, maps);
        }
        for method in METHODS {
            let run = |isa| convolve(isa, method, &x, maps, &weights, &bias, pool);
            let portable = widened(&run(Isa::Portable));
            for isa in Isa::available() {
                let found = run(isa);
                let error = relative_error(&found, &expected);
                prop_assert!(error < 1e-5, "{isa:?} {method:?} {maps:?} → {outputs}: error {error:e}");
                // The same sums, some of them rounded less often.
                let error = relative_error(&found, &portable);
                prop_assert!(error < 5e-6, "{isa:?} {method:?} {maps:?} → {outputs}: {error:e} from portable");
            }
        }
    }

}

#[test]
fn wide_layers_take_both_schedules() {
    // Enough tiles and channels for schedules by chunk and by panel, and for several chunks.
    for (channels, outputs, side) in [(48, 64, 64), (272, 288, 16), (512, 48, 13)] {
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
        for method in METHODS
            .into_iter()
            .filter(|method| *method != Method::DirectPlanar)
        {
            let found = convolve(Isa::available()[0], method, &x, maps, &weights, &bias, true);
            let error = relative_error(&found, &expected);
            assert!(error < 1e-5, "{method:?} {maps:?}: error {error:e}");
        }
    }
}

#[test]
fn more_threads_than_panels_change_no_bit() {
    let maps = Maps {
        pictures: 2,
        channels: 272,
        height: 16,
        width: 17,
    };
    let x = noise(maps.planar_len(), 5);
    let (weights, bias) = (noise(160 * 272 * 9, 6), noise(160, 7));
    for method in METHODS {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let isa = Isa::available()[0];
            let found = pool
                .build()
                .unwrap()
                .install(|| convolve(isa, method, &x, maps, &weights, &bias, false));
            found.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
        };
        assert!(run(1) == run(23), "{method:?}");
    }
}

/// VGG19's sixteen layers at a quarter of their width, with He's weights.
fn sixteen_layers() -> Vec<Convolution> {
    let mut layers = Vec::new();
    let mut inputs = 3;
    for (count, outputs) in [(2, 16), (2, 32), (4, 64), (4, 128), (4, 128)] {
        for index in 1..=count {
            let pool = index == count;
            layers.push(Convolution::random(
                inputs,
                outputs,
                pool,
                layers.len() as u64,
            ));
            inputs = outputs;
        }
    }
    layers
}

#[test]
fn sixteen_layers_stay_close() {
    let layers = sixteen_layers();
    let first = Maps {
        pictures: 2,
        channels: 3,
        height: 64,
        width: 33,
    };
    let x = noise(first.planar_len(), 99);
    let (mut maps, mut expected) = (first, widened(&x));
    for layer in &layers {
        expected = relu(&sums(&expected, maps, &layer.weights, &layer.bias));
        maps = maps.with_channels(layer.bias.len());
        if layer.pool {
            expected = pooled(&expected, maps);
            maps = maps.pooled();
        }
    }
    for isa in Isa::available() {
        for method in METHODS {
            let (mut maps, mut found) = (first, x.clone());
            for Convolution {
                weights,
                bias,
                pool,
            } in &layers
            {
                found = convolve(isa, method, &found, maps, weights, bias, *pool);
                maps = maps.with_channels(bias.len());
                maps = if *pool { maps.pooled() } else { maps };
            }
            let error = relative_error(&found, &expected);
            assert!(error < 1e-4, "{isa:?} {method:?}: error {error:e}");
        }
        // Methods change from layer to layer, and with the batch they are chosen for.
        let run: Vec<Layer> = layers
            .iter()
            .map(|layer| Layer {
                weights: &layer.weights,
                bias: &layer.bias,
                pool: layer.pool,
                kept_as: None,
            })
            .collect();
        let mut chosen = HashSet::new();
        for batch in [1, 2, 8, 64] {
            let mut maps = first.of(batch);
            chosen.insert(
                layers
                    .iter()
                    .map(|layer| {
                        let method = Method::for_maps(maps, layer.bias.len());
                        maps = maps.with_channels(layer.bias.len());
                        maps = if layer.pool { maps.pooled() } else { maps };
                        method
                    })
                    .collect::<Vec<_>>(),
            );
            let (found, maps) = stack::run(isa, &run, &Prepared::default(), &x, first, batch);
            let error = relative_error(&planar(maps, &found), &expected);
            assert!(
                error < 1e-4,
                "{isa:?}, as for {batch} pictures: error {error:e}"
            );
        }
        assert!(chosen.len() > 1, "every batch takes the same methods");
    }
}
