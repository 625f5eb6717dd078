//! The kernels against a direct convolution in f64.

mod activations;
mod depthwise;
mod devices;
mod extremes;
mod gradients;
mod graphs;
mod network;
mod pools;
mod reference;
mod squeeze;
mod strided;
mod team;
mod windows;

use std::collections::HashSet;

use proptest::prelude::*;

use super::activation::Activation;
use super::epilogue::{Epilogue, pad_bias};
use super::isa::Isa;
use super::method::Method;
use super::network::{self as nodes, PackedWeights};
use super::node::{Conv, Node, Operation};
use super::shape::Shape;
use super::weights::Weights;
use super::window::Window;
use network::Convolution;
use reference::*;

/// The same random cases in every run: a sum that cancels to next to nothing is rare but would fail a run that has
/// nothing to do with it. `PROPTEST_CASES`, as elsewhere, asks for another number: a sanitizer is slow.
fn cases(count: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig {
        cases: asked.and_then(|cases| cases.parse().ok()).unwrap_or(count),
        failure_persistence: None,
        // A failure among large shape is told now, not smaller in an hour.
        max_shrink_time: 10_000,
        rng_seed: proptest::test_runner::RngSeed::Fixed(1),
        ..ProptestConfig::default()
    }
}

/// A height, a width or a number of channels: half of them so small that most tiles and blocks stick out.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![1usize..=9, 1usize..=70]
}

fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (1usize..=5, size(), size(), size());
    sizes.prop_map(|(batch, channels, height, width)| Shape {
        batch,
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

fn blocked(shape: Shape, planar: &[f32]) -> Vec<f32> {
    let mut blocked = vec![f32::NAN; shape.blocked_len()];
    shape.to_blocked(planar, &mut blocked);
    blocked
}

fn planar(shape: Shape, blocked: &[f32]) -> Vec<f32> {
    let mut planar = vec![f32::NAN; shape.planar_len()];
    shape.to_planar(blocked, &mut planar);
    planar
}

fn activation(relu: bool) -> Activation {
    if relu {
        Activation::Relu
    } else {
        Activation::Identity
    }
}

#[expect(clippy::too_many_arguments, reason = "a layer's operands")]
fn convolve(
    isa: Isa,
    method: Method,
    x: &[f32],
    shape: Shape,
    weights: &[f32],
    bias: &[f32],
    relu: bool,
    pool: bool,
) -> Vec<f32> {
    let weights = Weights {
        values: weights,
        out_channels: bias.len(),
        in_channels: shape.channels,
        size: 3,
        scale: None,
        transposed: false,
    };
    let mut blocked = vec![f32::NAN; shape.blocked_len()];
    let input = if method == Method::DirectPlanar {
        x
    } else {
        shape.to_blocked(x, &mut blocked);
        &blocked
    };
    let whole = shape.with_channels(bias.len());
    let output = if pool { whole.pooled() } else { whole };
    let mut y = vec![f32::NAN; output.blocked_len()];
    let bias = pad_bias(bias);
    let epilogue = Epilogue {
        bias: Some(&bias),
        activation: activation(relu),
        pool,
        ..Epilogue::default()
    };
    let packed = method.pack(isa, &weights);
    let run = |packed: Option<&[f32]>, y: &mut [f32]| {
        method.convolve(
            isa,
            input,
            shape,
            Window::SAME_3X3,
            &weights,
            packed,
            &epilogue,
            y,
        );
    };
    run(Some(&packed), &mut y);
    // Weights that are used once may go another way, to the same bits.
    let mut once = vec![f32::NAN; output.blocked_len()];
    run(None, &mut once);
    assert!(
        y.iter()
            .map(|y| y.to_bits())
            .eq(once.iter().map(|y| y.to_bits()))
    );
    let mut planar = vec![f32::NAN; output.planar_len()];
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
        shape in shapes(),
        outputs in size(),
        seed in any::<u64>(),
        with_relu in any::<bool>(),
        pool in any::<bool>(),
    ) {
        let x = noise(shape.planar_len(), seed);
        let weights = noise(outputs * shape.channels * 9, seed ^ 1);
        let bias = noise(outputs, seed ^ 2);
        let mut expected = sums(&widened(&x), shape, &weights, &bias);
        if with_relu {
            expected = relu(&expected);
        }
        if pool {
            expected = pooled(&expected, shape);
        }
        for method in METHODS {
            let run = |isa| convolve(isa, method, &x, shape, &weights, &bias, with_relu, pool);
            let portable = widened(&run(Isa::portable()));
            for isa in Isa::available() {
                let found = run(isa);
                let error = relative_error(&found, &expected);
                prop_assert!(error < 1e-5, "{isa:?} {method:?} {shape:?} → {outputs}: error {error:e}");
                // The same sums, some of them rounded less often.
                let error = relative_error(&found, &portable);
                prop_assert!(error < 5e-6, "{isa:?} {method:?} {shape:?} → {outputs}: {error:e} from portable");
            }
        }
    }

}

#[test]
fn wide_layers_take_both_schedules() {
    // Enough tiles and channels for schedules by chunk and by panel, and for several chunks.
    for (channels, outputs, side) in [(48, 64, 64), (272, 288, 16), (512, 48, 13)] {
        let shape = Shape {
            batch: 2,
            channels,
            height: side,
            width: side + 1,
        };
        let x = noise(2 * channels * side * (side + 1), 5);
        let weights = noise(outputs * channels * 9, 6);
        let bias = noise(outputs, 7);
        let expected = pooled(&reference(&x, shape, &weights, &bias), shape);
        for method in METHODS
            .into_iter()
            .filter(|method| *method != Method::DirectPlanar)
        {
            let found = convolve(Isa::best(), method, &x, shape, &weights, &bias, true, true);
            let error = relative_error(&found, &expected);
            assert!(error < 1e-5, "{method:?} {shape:?}: error {error:e}");
        }
    }
}

#[test]
fn more_threads_than_panels_change_no_bit() {
    let shape = Shape {
        batch: 2,
        channels: 272,
        height: 16,
        width: 17,
    };
    let x = noise(shape.planar_len(), 5);
    let (weights, bias) = (noise(160 * 272 * 9, 6), noise(160, 7));
    for method in METHODS {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let isa = Isa::best();
            let found = pool
                .build()
                .unwrap()
                .install(|| convolve(isa, method, &x, shape, &weights, &bias, true, false));
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
            // Some have no ReLU, pooled or not.
            let relu = layers.len() % 5 != 3;
            layers.push(Convolution::random(
                inputs,
                outputs,
                relu,
                pool,
                layers.len() as u64,
            ));
            inputs = outputs;
        }
    }
    layers
}

/// What sixteen layers read, and make of it in f64.
const SIXTEEN_LAYERS_READ: Shape = Shape {
    batch: 2,
    channels: 3,
    height: 64,
    width: 33,
};

fn expected_of_layers(layers: &[Convolution], x: &[f32]) -> Vec<f64> {
    let (mut shape, mut expected) = (SIXTEEN_LAYERS_READ, widened(x));
    for layer in layers {
        expected = sums(&expected, shape, &layer.weights, &layer.bias);
        if layer.relu {
            expected = relu(&expected);
        }
        shape = shape.with_channels(layer.bias.len());
        if layer.pool {
            expected = pooled(&expected, shape);
            shape = shape.pooled();
        }
    }
    expected
}

#[test]
fn sixteen_layers_stay_close() {
    let layers = sixteen_layers();
    let x = noise(SIXTEEN_LAYERS_READ.planar_len(), 99);
    let expected = expected_of_layers(&layers, &x);
    for isa in Isa::available() {
        for method in METHODS {
            let (mut shape, mut found) = (SIXTEEN_LAYERS_READ, x.clone());
            for Convolution {
                weights,
                bias,
                relu,
                pool,
            } in &layers
            {
                found = convolve(isa, method, &found, shape, weights, bias, *relu, *pool);
                shape = shape.with_channels(bias.len());
                shape = if *pool { shape.pooled() } else { shape };
            }
            let error = relative_error(&found, &expected);
            assert!(error < 1e-4, "{isa:?} {method:?}: error {error:e}");
        }
    }
}

/// Methods change from layer to layer, and with the batch they are chosen for.
#[test]
fn sixteen_layers_stay_close_with_any_batchs_methods() {
    let layers = sixteen_layers();
    let x = noise(SIXTEEN_LAYERS_READ.planar_len(), 99);
    let expected = expected_of_layers(&layers, &x);
    let run = layers.iter().enumerate().map(|(input, layer)| Node {
        input,
        operation: Operation::Conv(Conv {
            weights: &layer.weights[..],
            bias: &layer.bias[..],
            window: Window::SAME_3X3,
            depthwise: false,
            residual: None,
            activation: activation(layer.relu),
            pool: layer.pool,
            scale: None,
            kept_as: None,
        }),
    });
    let run: Vec<_> = run.collect();
    let mut chosen = HashSet::new();
    for batch in [1, 2, 8, 64] {
        let mut shape = SIXTEEN_LAYERS_READ.with_batch(batch);
        let methods = layers.iter().map(|layer| {
            let method = Method::cheapest(shape, layer.bias.len());
            shape = shape.with_channels(layer.bias.len());
            shape = if layer.pool { shape.pooled() } else { shape };
            method
        });
        chosen.insert(methods.collect::<Vec<_>>());
        for isa in Isa::available() {
            let packed = PackedWeights::default();
            let (found, shape) = nodes::run(isa, &run, &packed, &x, SIXTEEN_LAYERS_READ, batch);
            let error = relative_error(&planar(shape, &found), &expected);
            assert!(error < 1e-4, "{isa:?}, as for {batch}: error {error:e}");
        }
    }
    assert!(chosen.len() > 1, "every batch takes the same methods");
}

#[test]
fn the_switch_takes_the_names_of_what_there_is() {
    assert_eq!(Isa::named(""), Ok(Some(Isa::best())));
    assert_eq!(Isa::named("candle"), Ok(None));
    for isa in Isa::available() {
        assert_eq!(Isa::named(isa.name()), Ok(Some(isa)));
    }
    // Instructions of another processor, a misspelling, and names are exact.
    let other = if cfg!(target_arch = "aarch64") {
        "avx2"
    } else {
        "neon"
    };
    for name in [other, "avx-512", "Portable", " "] {
        let unknown = Isa::named(name).unwrap_err();
        let said = unknown.to_string();
        for part in ["HEADSTART_KERNELS", name, "portable", "candle"] {
            assert!(said.contains(part), "{said}");
        }
    }
}
