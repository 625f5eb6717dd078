//! Thumbnails, and how alike two are: mirrored, scaled, re-encoded and cropped pictures are alike.

use image::GrayImage;
use image::imageops::{FilterType, resize};

/// The side of a thumbnail, of what is compared closely, and of what is compared at first.
const SIDE: usize = 48;
const CLOSE: usize = 24;
const COARSE: usize = 8;

/// The parts of one picture that the other may be: a tenth may be cut off each way, in steps of a fortieth.
const SHARES: [f32; 5] = [1.0, 0.975, 0.95, 0.925, 0.9];
const STEP: f32 = 0.025;

/// Grey levels of a picture at 48 × 48, and at 8 × 8 with mean 0 and length 1, as it is and mirrored.
#[derive(Clone, Debug)]
pub(super) struct Thumbnail {
    levels: Vec<u8>,
    coarse: [[f32; COARSE * COARSE]; 2],
}

impl Thumbnail {
    pub(super) fn of(grey: &GrayImage) -> Self {
        let side = SIDE as u32;
        let levels = resize(grey, side, side, FilterType::Triangle).into_raw();
        let whole = Window {
            left: 0.0,
            top: 0.0,
            share: 1.0,
        };
        let coarse = [false, true].map(|is_mirrored| {
            let mut numbers = [0.0; COARSE * COARSE];
            sample(&levels, whole, COARSE, is_mirrored, &mut numbers);
            normalise(&mut numbers);
            numbers
        });
        Self { levels, coarse }
    }

    /// The correlation at 8 × 8, −1 to 1, of the better of as it is and mirrored.
    pub(super) fn coarsely(&self, other: &Self) -> f32 {
        let plain = product(&self.coarse[0], &other.coarse[0]);
        plain.max(product(&self.coarse[1], &other.coarse[0]))
    }

    /// The correlation at 24 × 24, −1 to 1, at the best of those windows, mirrored or not, by which one picture may be a
    /// part of the other.
    pub(super) fn closely(&self, other: &Self) -> f32 {
        self.as_part(other).max(other.as_part(self))
    }

    /// The same where this one is the whole or a part of the other.
    fn as_part(&self, whole: &Self) -> f32 {
        let full = Window {
            left: 0.0,
            top: 0.0,
            share: 1.0,
        };
        let own = [false, true].map(|is_mirrored| {
            let mut own = [0.0; CLOSE * CLOSE];
            sample(&self.levels, full, CLOSE, is_mirrored, &mut own);
            normalise(&mut own);
            own
        });
        let mut part = [0.0; CLOSE * CLOSE];
        let mut best = -1f32;
        for window in windows() {
            sample(&whole.levels, window, CLOSE, false, &mut part);
            normalise(&mut part);
            best = best
                .max(product(&own[0], &part))
                .max(product(&own[1], &part));
        }
        best
    }
}

/// A square part of a thumbnail, in shares of its side.
#[derive(Clone, Copy)]
struct Window {
    left: f32,
    top: f32,
    share: f32,
}

fn windows() -> impl Iterator<Item = Window> {
    SHARES.into_iter().flat_map(|share| {
        let steps = ((1.0 - share) / STEP).round() as usize;
        let places = (0..=steps).flat_map(move |x| (0..=steps).map(move |y| (x, y)));
        places.map(move |(x, y)| Window {
            left: x as f32 * STEP,
            top: y as f32 * STEP,
            share,
        })
    })
}

/// The means of a window's n × n equal parts, as far as bilinear samples at two places each way tell them.
fn sample(levels: &[u8], window: Window, n: usize, is_mirrored: bool, into: &mut [f32]) {
    let taps = if n == COARSE { 6 } else { 2 };
    let places = |start: f32| -> Vec<(usize, f32)> {
        let at = |i: usize| {
            let inside = (i as f32 + 0.5) / (n * taps) as f32;
            let place =
                ((start + window.share * inside) * SIDE as f32 - 0.5).clamp(0.0, (SIDE - 1) as f32);
            let first = (place as usize).min(SIDE - 2);
            (first, place - first as f32)
        };
        (0..n * taps).map(at).collect()
    };
    let (columns, rows) = (places(window.left), places(window.top));
    into.fill(0.0);
    for (i, (row, down)) in rows.iter().enumerate() {
        let upper = &levels[row * SIDE..][..SIDE];
        let lower = &levels[(row + 1) * SIDE..][..SIDE];
        for (j, (column, right)) in columns.iter().enumerate() {
            let mix = |row: &[u8]| {
                f32::from(row[*column]) * (1.0 - right) + f32::from(row[column + 1]) * right
            };
            let level = mix(upper) * (1.0 - down) + mix(lower) * down;
            let x = if is_mirrored {
                n - 1 - j / taps
            } else {
                j / taps
            };
            into[i / taps * n + x] += level;
        }
    }
}

/// Mean 0 and length 1; all zeros of equal numbers.
fn normalise(numbers: &mut [f32]) {
    let n = numbers.len() as f32;
    let mean = numbers.iter().sum::<f32>() / n;
    numbers.iter_mut().for_each(|x| *x -= mean);
    let length = product(numbers, numbers).sqrt();
    let factor = if length > 1e-3 { 1.0 / length } else { 0.0 };
    numbers.iter_mut().for_each(|x| *x *= factor);
}

fn product(a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let mut sums = [0.0; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}
