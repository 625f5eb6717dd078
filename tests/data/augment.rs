//! Augmentation against Keras's in compat mode, against an independent f64 warp otherwise, and by its laws.

use headstart::Augmenter;
use headstart::data::{AugmentParams, FillMode};
use image::{Rgb, Rgb32FImage, RgbImage, imageops};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::numbers::numbers;

const CASES: &str = include_str!("../fixtures/augment/cases.json");

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .fold(0.0, |most, (a, b)| most.max((a - b).abs()))
}

#[test]
fn compat_mode_is_keras_to_a_thousandth_of_a_level() {
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    assert!(cases.len() >= 40);
    for case in cases {
        let (height, width): (u32, u32) = serde_json::from_value(case["size"].clone()).unwrap();
        let picture = Rgb32FImage::from_raw(width, height, numbers(&case["image"])).unwrap();
        let p = &case["parameters"];
        let number = |name: &str| p[name].as_f64().unwrap();
        let params = AugmentParams {
            rotation: number("theta"),
            height_shift: number("tx"),
            width_shift: number("ty"),
            shear: number("shear"),
            zoom_x: number("zx"),
            zoom_y: number("zy"),
            flip_horizontal: p["flip_horizontal"].as_bool().unwrap(),
            flip_vertical: p["flip_vertical"].as_bool().unwrap(),
            channel_shift: p["channel_shift_intensity"].as_f64(),
            brightness: p["brightness"].as_f64(),
        };
        let fill = match case["fill"].as_str().unwrap() {
            "nearest" => FillMode::Nearest,
            "constant" => FillMode::Constant(case["level"].as_f64().unwrap() as f32),
            "reflect" => FillMode::Reflect,
            _ => FillMode::Wrap,
        };
        let augmenter = Augmenter::new().keras_compat(true).fill_mode(fill);
        let found = augmenter.apply(&picture, &params);
        let difference = largest_difference(found.as_raw(), &numbers(&case["expected"]));
        assert!(
            difference < 1e-3,
            "{fill:?} {height}×{width} {params:?}: off by {difference}"
        );
    }
}

/// A 4×4 ramp through keras 3.16's apply_transform: theta 30, tx 1, ty 0.5, shear 20, zx 1.2, zy 0.8.
#[test]
fn the_golden_ramp() {
    let picture = Rgb32FImage::from_fn(4, 4, |x, y| Rgb([(4 * y + x) as f32; 3]));
    let params = AugmentParams {
        rotation: 30.0,
        height_shift: 1.0,
        width_shift: 0.5,
        shear: 20.0,
        zoom_x: 1.2,
        zoom_y: 0.8,
        ..AugmentParams::default()
    };
    let found = Augmenter::new().keras_compat(true).apply(&picture, &params);
    let expected = [
        [4.5231, 7.9623, 10.8467, 13.2467],
        [5.9672, 9.4064, 12.8456, 15.0],
        [7.4113, 10.8505, 14.2897, 15.0],
        [9.2174, 12.2946, 13.7164, 14.7556],
    ];
    let found: Vec<f32> = found.pixels().map(|pixel| pixel.0[1]).collect();
    assert!(
        largest_difference(&found, expected.as_flattened()) < 1e-3,
        "{found:?}"
    );
}

/// The warp written another way: 3×3 matrices in (x, y, 1) multiplied one by one, and each fill mode by a rule on
/// whole indices.
fn independent_warp(picture: &Rgb32FImage, p: &AugmentParams, fill: FillMode) -> Vec<f32> {
    type Matrix = [[f64; 3]; 3];
    let product = |a: Matrix, b: Matrix| -> Matrix {
        std::array::from_fn(|i| std::array::from_fn(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
    };
    let (width, height) = picture.dimensions();
    let (cx, cy) = (
        (f64::from(width) - 1.0) / 2.0,
        (f64::from(height) - 1.0) / 2.0,
    );
    let (sin, cos) = p.rotation.to_radians().sin_cos();
    let (shear_sin, shear_cos) = p.shear.to_radians().sin_cos();
    // Output to input, applied from the right: to the centre, zoom, shear, shift, rotate, and back.
    let steps: [Matrix; 6] = [
        [[1.0, 0.0, cx], [0.0, 1.0, cy], [0.0, 0.0, 1.0]],
        [[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]],
        [
            [1.0, 0.0, p.width_shift],
            [0.0, 1.0, p.height_shift],
            [0.0, 0.0, 1.0],
        ],
        [
            [1.0, -shear_sin, 0.0],
            [0.0, shear_cos, 0.0],
            [0.0, 0.0, 1.0],
        ],
        [[p.zoom_x, 0.0, 0.0], [0.0, p.zoom_y, 0.0], [0.0, 0.0, 1.0]],
        [[1.0, 0.0, -cx], [0.0, 1.0, -cy], [0.0, 0.0, 1.0]],
    ];
    let m = steps.into_iter().reduce(product).unwrap();
    let index = |i: i64, n: i64| match fill {
        FillMode::Nearest | FillMode::Constant(_) => i.max(0).min(n - 1),
        FillMode::Wrap => ((i % n) + n) % n,
        FillMode::Reflect => {
            let mut i = i;
            while i < 0 || i >= n {
                i = if i < 0 { -i - 1 } else { 2 * n - 1 - i };
            }
            i
        }
    };
    let mut out = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let at = |row: usize| m[row][0] * f64::from(x) + m[row][1] * f64::from(y) + m[row][2];
            let (sx, sy) = (at(0), at(1));
            let (w, h) = (i64::from(width), i64::from(height));
            for channel in 0..3 {
                let outside = sx < 0.0 || sy < 0.0 || sx > (w - 1) as f64 || sy > (h - 1) as f64;
                let value = match fill {
                    FillMode::Constant(level) if outside => f64::from(level),
                    _ => {
                        let mut sum = 0.0;
                        for (i, wx) in [(0, 1.0 - (sx - sx.floor())), (1, sx - sx.floor())] {
                            for (j, wy) in [(0, 1.0 - (sy - sy.floor())), (1, sy - sy.floor())] {
                                let px = index(sx.floor() as i64 + i, w) as u32;
                                let py = index(sy.floor() as i64 + j, h) as u32;
                                sum += wx * wy * f64::from(picture.get_pixel(px, py).0[channel]);
                            }
                        }
                        sum
                    }
                };
                out.push(value as f32);
            }
        }
    }
    out
}

fn noise(width: u32, height: u32, seed: u64) -> Rgb32FImage {
    let mut state = seed | 1;
    Rgb32FImage::from_fn(width, height, |_, _| {
        Rgb([(); 3].map(|()| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / 65_793.0
        }))
    })
}

fn fill_mode() -> impl Strategy<Value = FillMode> {
    prop_oneof![
        Just(FillMode::Nearest),
        (0f32..255.0).prop_map(FillMode::Constant),
        Just(FillMode::Reflect),
        Just(FillMode::Wrap),
    ]
}

fn warp() -> impl Strategy<Value = AugmentParams> {
    (
        -180f64..180.0,
        -9f64..9.0,
        -9f64..9.0,
        -60f64..60.0,
        0.3f64..2.0,
        0.3f64..2.0,
    )
        .prop_map(
            |(rotation, height_shift, width_shift, shear, zoom_x, zoom_y)| AugmentParams {
                rotation,
                height_shift,
                width_shift,
                shear,
                zoom_x,
                zoom_y,
                ..AugmentParams::default()
            },
        )
}

proptest! {
    #[test]
    fn the_warp_is_the_product_of_its_steps(
        width in 1u32..14, height in 1u32..14, seed in any::<u64>(), params in warp(), fill in fill_mode(),
    ) {
        let picture = noise(width, height, seed);
        let found = Augmenter::new().fill_mode(fill).apply(&picture, &params);
        let expected = independent_warp(&picture, &params, fill);
        // A coordinate within rounding of the edge may fall on either side of `Constant`'s.
        let off = found.as_raw().iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > 1e-2).count();
        let allowed = if matches!(fill, FillMode::Constant(_)) { 3 } else { 0 };
        prop_assert!(off <= allowed, "{} numbers off, of {}", off, expected.len());
    }

    #[test]
    fn flips_undo_themselves(width in 1u32..9, height in 1u32..9, seed in any::<u64>()) {
        let picture = noise(width, height, seed);
        for params in [
            AugmentParams { flip_horizontal: true, ..AugmentParams::default() },
            AugmentParams { flip_vertical: true, ..AugmentParams::default() },
        ] {
            let augmenter = Augmenter::new();
            let twice = augmenter.apply(&augmenter.apply(&picture, &params), &params);
            prop_assert_eq!(twice.as_raw(), picture.as_raw());
        }
    }

    #[test]
    fn samples_stay_in_their_ranges(seed in any::<u64>(), height in 1usize..300, width in 1usize..300) {
        let augmenter = Augmenter::new()
            .rotation(30.0)
            .shift(0.3, 0.1)
            .shear(10.0)
            .zoom(0.25)
            .horizontal_flip(true)
            .channel_shift(20.0)
            .brightness(0.5..=1.5);
        let sample = || augmenter.sample(height, width, &mut ChaCha8Rng::seed_from_u64(seed));
        let p = sample();
        prop_assert_eq!(p, sample());
        prop_assert!(p.rotation.abs() <= 30.0 && p.shear.abs() <= 10.0);
        prop_assert!(p.width_shift.abs() <= 0.1 * width as f64 && p.height_shift.abs() <= 0.3 * height as f64);
        prop_assert!((0.75..1.25).contains(&p.zoom_x) && (0.75..1.25).contains(&p.zoom_y));
        prop_assert!(!p.flip_vertical && p.channel_shift.unwrap().abs() <= 20.0);
        prop_assert!((0.5..1.5).contains(&p.brightness.unwrap()));
    }
}

#[test]
fn width_means_width() {
    let picture = noise(9, 5, 3);
    let shifted = |width_shift, height_shift| {
        let params = AugmentParams {
            width_shift,
            height_shift,
            ..AugmentParams::default()
        };
        Augmenter::new()
            .fill_mode(FillMode::Wrap)
            .apply(&picture, &params)
    };
    for (x, y, pixel) in shifted(2.0, 0.0).enumerate_pixels() {
        assert_eq!(
            pixel,
            picture.get_pixel((x + 2) % 9, y),
            "the content moves left"
        );
    }
    for (x, y, pixel) in shifted(0.0, 2.0).enumerate_pixels() {
        assert_eq!(
            pixel,
            picture.get_pixel(x, (y + 2) % 5),
            "the content moves up"
        );
    }
}

#[test]
fn half_and_quarter_turns_are_exact() {
    let turned = |picture: &Rgb32FImage, rotation| {
        let params = AugmentParams {
            rotation,
            ..AugmentParams::default()
        };
        Augmenter::new().apply(picture, &params)
    };
    let wide = noise(10, 4, 5);
    let half = turned(&wide, 180.0);
    assert!(largest_difference(half.as_raw(), imageops::rotate180(&wide).as_raw()) < 1e-3);
    let square = noise(6, 6, 7);
    let quarter = turned(&square, 90.0);
    // Counter-clockwise.
    assert!(largest_difference(quarter.as_raw(), imageops::rotate270(&square).as_raw()) < 1e-3);
}

#[test]
fn the_ranges_are_filled_and_flips_are_even() {
    let augmenter = Augmenter::notebook();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let samples: Vec<_> = (0..4000)
        .map(|_| augmenter.sample(64, 64, &mut rng))
        .collect();
    let flipped = samples.iter().filter(|p| p.flip_horizontal).count();
    assert!((1850..2150).contains(&flipped), "{flipped} of 4000");
    let mean: f64 = samples.iter().map(|p| p.rotation).sum::<f64>() / 4000.0;
    // The mean of 4000 uniform numbers in ±40 has a deviation of 40 / √3 / √4000 = 0.37.
    assert!(mean.abs() < 1.5, "{mean}");
    assert!(
        samples.iter().any(|p| p.rotation > 39.0) && samples.iter().any(|p| p.rotation < -39.0)
    );
}

#[test]
fn nonsense_is_named() {
    let named = |augmenter: Augmenter, option: &str| {
        let error = augmenter.check().unwrap_err().to_string();
        assert!(error.contains(option), "{error}");
    };
    named(Augmenter::new().rotation(181.0), "rotation");
    named(Augmenter::new().rotation(f64::NAN), "rotation");
    named(Augmenter::new().shift(0.0, 1.5), "width");
    named(Augmenter::new().shift(-0.1, 0.0), "height");
    named(Augmenter::new().shear(90.0), "shear");
    named(Augmenter::new().zoom(1.0), "zoom");
    named(Augmenter::new().zoom_range(1.5..=0.5), "zoom");
    named(Augmenter::new().channel_shift(300.0), "channel_shift");
    named(Augmenter::new().brightness(-0.5..=1.0), "brightness");
    named(
        Augmenter::new().fill_mode(FillMode::Constant(f32::NAN)),
        "fill_mode",
    );
    Augmenter::notebook().check().unwrap();
}

#[test]
fn a_preview_shows_as_many_as_asked() {
    let picture = RgbImage::from_pixel(8, 6, Rgb([10, 20, 30]));
    let sheet = Augmenter::notebook().preview(&picture, 5, 1).unwrap();
    assert_eq!(sheet.dimensions(), (3 * 8 + 2 * 2, 2 * 6 + 2));
    let filled = sheet
        .pixels()
        .filter(|pixel| pixel.0 == [10, 20, 30])
        .count();
    assert_eq!(
        filled,
        5 * 8 * 6,
        "a plain picture stays plain under the notebook's variations"
    );
    assert!(Augmenter::new().preview(&picture, 0, 1).is_err());
    assert!(
        Augmenter::new()
            .rotation(-1.0)
            .preview(&picture, 1, 1)
            .is_err()
    );
}

/// Any number there is.
fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        prop::sample::select(vec![
            0.0,
            -0.0,
            1.0,
            1e9,
            -1e18,
            1e308,
            f64::MAX,
            f64::MIN,
            f64::MIN_POSITIVE,
            5e-324,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ]),
    ]
}

fn any_fill() -> impl Strategy<Value = FillMode> {
    prop_oneof![
        Just(FillMode::Nearest),
        Just(FillMode::Reflect),
        Just(FillMode::Wrap),
        (0f32..=255.0).prop_map(FillMode::Constant),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever the parameters, a picture is made, of the same size and of finite grey levels.
    #[test]
    fn no_parameters_are_too_much(
        (height, width) in (1u32..9, 1u32..9),
        numbers in prop::array::uniform6(any_number()),
        levels in (any_number(), any_number()),
        fill in any_fill(),
        (keras, flip) in (any::<bool>(), any::<bool>()),
    ) {
        let picture = Rgb32FImage::from_fn(width, height, |x, y| Rgb([x, y, 255].map(|v| v as f32)));
        let [rotation, height_shift, width_shift, shear, zoom_x, zoom_y] = numbers;
        let params = AugmentParams {
            rotation,
            height_shift,
            width_shift,
            shear,
            zoom_x,
            zoom_y,
            flip_horizontal: flip,
            flip_vertical: !flip,
            channel_shift: Some(levels.0),
            brightness: Some(levels.1),
        };
        let augmenter = Augmenter::new().fill_mode(fill).keras_compat(keras);
        let varied = augmenter.apply(&picture, &params);
        prop_assert_eq!(varied.dimensions(), picture.dimensions());
        prop_assert!(varied.iter().all(|level| (0.0..=255.0).contains(level)), "{:?}", params);
    }

    /// Options that are accepted give finite pictures; others are refused by name.
    #[test]
    fn accepted_options_vary_pictures(
        numbers in prop::array::uniform5(any_number()),
        zoom in (any_number(), any_number()),
        brightness in (any_number(), any_number()),
        level in any_number(),
    ) {
        let [rotation, height, width, shear, channels] = numbers;
        let augmenter = Augmenter::new()
            .rotation(rotation)
            .shift(height, width)
            .shear(shear)
            .channel_shift(channels)
            .zoom_range(zoom.0..=zoom.1)
            .brightness(brightness.0..=brightness.1)
            .fill_mode(FillMode::Constant(level as f32));
        let picture = RgbImage::from_pixel(5, 4, Rgb([7, 80, 200]));
        if augmenter.check().is_ok() {
            prop_assert!(augmenter.preview(&picture, 3, 1).is_ok());
        }
    }
}

#[test]
fn the_bounds_are_what_the_documentation_says() {
    let accepted = |augmenter: Augmenter| augmenter.check().is_ok();
    let new = Augmenter::new;
    assert!(accepted(new().zoom_range(0.01..=100.0)) && accepted(new().brightness(0.0..=255.0)));
    assert!(!accepted(new().zoom_range(0.009..=1.0)) && !accepted(new().zoom_range(1.0..=1e308)));
    assert!(!accepted(new().brightness(0.0..=f64::MAX)) && !accepted(new().zoom(1.0)));
    assert!(!accepted(new().fill_mode(FillMode::Constant(256.0))));
    assert!(!accepted(new().rotation(f64::NAN)) && !accepted(new().shift(f64::INFINITY, 0.0)));
    let picture = RgbImage::new(30, 20);
    for count in [0, 10_001, 1 << 32, usize::MAX] {
        assert!(
            new()
                .preview(&picture, count, 1)
                .unwrap_err()
                .to_string()
                .contains("`count`")
        );
    }
    let large = RgbImage::new(4000, 4000);
    assert!(
        new()
            .preview(&large, 100, 1)
            .unwrap_err()
            .to_string()
            .contains("pixels")
    );
}
