//! Activations against their formulas, and PyTorch at their kinks and ends.

use super::super::activation::Activation;

const ALL: [Activation; 8] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Relu6,
    Activation::Silu,
    Activation::HardSwish,
    Activation::HardSigmoid,
    Activation::Sigmoid,
    Activation::Gelu,
];

/// The textbook's formulas.
fn value(activation: Activation, x: f64) -> f64 {
    let sigmoid = 1.0 / (1.0 + (-x).exp());
    match activation {
        Activation::Identity => x,
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Silu => x * sigmoid,
        Activation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::HardSigmoid => (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::Sigmoid => sigmoid,
        Activation::Gelu => 0.5 * x * (1.0 + candle_core::cpu::erf::erf_f64(x / 2f64.sqrt())),
    }
}

#[test]
fn activations_are_their_formulas_and_slopes_their_differences() {
    for activation in ALL {
        for step in -120_000..=120_000 {
            let x = step as f32 / 1000.0 + 1.3e-4;
            let exact = value(activation, x.into());
            let found = f64::from(activation.value(x));
            assert!(
                (found - exact).abs() <= 4e-7 * exact.abs() + 3e-7,
                "{activation:?}({x}) is {exact}, not {found}"
            );
            let h = 1e-5;
            let x64 = f64::from(x);
            let slope = (value(activation, x64 + h) - value(activation, x64 - h)) / (2.0 * h);
            let found = f64::from(activation.slope(x));
            assert!(
                (found - slope).abs() <= 1e-6 + 1e-6 * f64::from(x.abs()),
                "{activation:?}'({x}) is {slope}, not {found}"
            );
        }
    }
}

/// PyTorch 2.15: `y.sum().backward()` of `torch.nn.functional`'s functions at these places.
#[test]
fn activations_at_kinks_and_at_the_ends_are_pytorchs() {
    const NAN: f32 = f32::NAN;
    const INF: f32 = f32::INFINITY;
    let x = [-INF, -3.0, 0.0, 3.0, 6.0, INF, NAN];
    let expected: [(Activation, [f32; 7], [f32; 7]); 7] = [
        (
            Activation::Relu,
            [0.0, 0.0, 0.0, 3.0, 6.0, INF, NAN],
            [0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0],
        ),
        (
            Activation::Relu6,
            [0.0, 0.0, 0.0, 3.0, 6.0, 6.0, NAN],
            [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0],
        ),
        (
            Activation::Silu,
            [NAN, -0.142_277_61, 0.0, 2.857_722_5, 5.985_164_6, INF, NAN],
            [NAN, -0.088_104_11, 0.5, 1.088_104_1, 1.012_326_2, NAN, NAN],
        ),
        // PyTorch has 1 for the slope at NaN.
        (
            Activation::HardSwish,
            [NAN, 0.0, 0.0, 3.0, 6.0, INF, NAN],
            [0.0, 0.0, 0.5, 1.0, 1.0, 1.0, NAN],
        ),
        // PyTorch has 0 for the slope at NaN.
        (
            Activation::HardSigmoid,
            [0.0, 0.0, 0.5, 1.0, 1.0, 1.0, NAN],
            [0.0, 0.0, 1.0 / 6.0, 0.0, 0.0, 0.0, 1.0 / 6.0],
        ),
        (
            Activation::Sigmoid,
            [0.0, 0.047_425_874, 0.5, 0.952_574_13, 0.997_527_4, 1.0, NAN],
            [
                0.0,
                0.045_176_66,
                0.25,
                0.045_176_655,
                0.002_466_466,
                0.0,
                NAN,
            ],
        ),
        (
            Activation::Gelu,
            [NAN, -0.004_050_225, 0.0, 2.995_949_7, 6.0, INF, NAN],
            [NAN, -0.011_945_605, 0.5, 1.011_945_6, 1.0, NAN, NAN],
        ),
    ];
    for (activation, y, slopes) in expected {
        for (at, x) in x.into_iter().enumerate() {
            for (found, expected) in [
                (activation.value(x), y[at]),
                (activation.slope(x), slopes[at]),
            ] {
                let same = found == expected || found.is_nan() && expected.is_nan();
                assert!(
                    same || (found - expected).abs() < 1e-6,
                    "{activation:?} at {x}: {found} instead of {expected}"
                );
            }
        }
    }
}
