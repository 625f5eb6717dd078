//! Thumbnails, and how alike two are: mirrored, scaled, re-encoded and cropped pictures are alike.

use image::GrayImage;
use image::imageops::{FilterType, resize};

/// The side of a thumbnail, of what is compared closely, and of what is compared at first.
const SIDE: usize = 48;
const CLOSE: usize = 24;
const COARSE: usize = 8;

/// The grey levels of a thumbnail.
pub(super) const LEVELS: usize = SIDE * SIDE;

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
        Self::of_levels(resize(grey, side, side, FilterType::Triangle).into_raw())
    }

    /// That of these grey levels, [`LEVELS`] of them.
    pub(super) fn of_levels(levels: Vec<u8>) -> Self {
        let coarse = [false, true].map(|is_mirrored| {
            let mut numbers = [0.0; COARSE * COARSE];
            sample(&levels, WHOLE, COARSE, is_mirrored, &mut numbers);
            normalise(&mut numbers);
            numbers
        });
        Self { levels, coarse }
    }

    pub(super) fn levels(&self) -> &[u8] {
        &self.levels
    }

    /// The correlation at 8 × 8, −1 to 1, of the better of as it is and mirrored.
    pub(super) fn coarsely(&self, other: &Self) -> f32 {
        let plain = product(&self.coarse[0], &other.coarse[0]);
        plain.max(product(&self.coarse[1], &other.coarse[0]))
    }

    /// The lowest frequencies of what is compared at first.
    pub(super) fn low(&self) -> Low {
        Low::of::<COARSE>(&self.coarse[0])
    }

    /// The lowest frequencies of what is compared closely.
    pub(super) fn close_low(&self) -> Low {
        Low::of::<CLOSE>(&self.close(WHOLE))
    }

    /// Every part of it that another picture may be, at 24 × 24, with mean 0 and length 1.
    pub(super) fn windows(&self) -> Vec<Part> {
        let part = |window| {
            let numbers = self.close(window);
            let low = Low::of::<CLOSE>(&numbers);
            Part { numbers, low }
        };
        windows().map(part).collect()
    }

    /// The correlation, as it is or mirrored, with the best of another's windows, if that is as much as `least`; −1 if
    /// it is not. `low` are its own lowest frequencies, which rule most windows out.
    pub(super) fn best_of(&self, low: &Low, windows: &[Part], least: f32) -> f32 {
        let mut own = None;
        let mut best = -1f32;
        for window in windows
            .iter()
            .filter(|window| low.bound(&window.low) >= least)
        {
            let [own, mirrored] = own.get_or_insert_with(|| {
                let own = self.close(WHOLE);
                let mut mirrored = own;
                mirrored.chunks_exact_mut(CLOSE).for_each(<[f32]>::reverse);
                [own, mirrored]
            });
            best = best
                .max(product(own, &window.numbers))
                .max(product(mirrored, &window.numbers));
        }
        if best >= least { best } else { -1.0 }
    }

    fn close(&self, window: Window) -> Close {
        let mut numbers = [0.0; CLOSE * CLOSE];
        sample(&self.levels, window, CLOSE, false, &mut numbers);
        normalise(&mut numbers);
        numbers
    }
}

/// What is compared closely.
pub(super) type Close = [f32; CLOSE * CLOSE];

/// A part of a picture that another one may be.
pub(super) struct Part {
    numbers: Close,
    low: Low,
}

/// Rounding may be off by less than this.
const SLACK: f32 = 1e-4;

/// The four lowest frequencies each way of n × n numbers, by the cosine transform that keeps lengths. Apart are those
/// that are even across, which mirroring keeps, and those that are odd, whose signs it turns.
pub(super) struct Low {
    pub(super) even: [f32; 8],
    pub(super) odd: [f32; 8],
    /// The length of what the other frequencies are.
    pub(super) rest: f32,
}

impl Low {
    fn of<const N: usize>(numbers: &[f32]) -> Self {
        let n = N as f64;
        let wave = |frequency: usize, place: usize| {
            let size = if frequency == 0 { 1.0 } else { 2.0 };
            let angle = std::f64::consts::PI * (place as f64 + 0.5) * frequency as f64 / n;
            ((size / n).sqrt() * angle.cos()) as f32
        };
        let waves: [[f32; N]; 4] =
            std::array::from_fn(|frequency| std::array::from_fn(|place| wave(frequency, place)));
        // Rows first, then what they come to.
        let mut across = [[0f32; N]; 4];
        for (row, numbers) in numbers.chunks_exact(N).enumerate() {
            for (frequency, wave) in waves.iter().enumerate() {
                across[frequency][row] = numbers.iter().zip(wave).map(|(x, w)| x * w).sum();
            }
        }
        let (mut even, mut odd) = ([0.0; 8], [0.0; 8]);
        let mut left: f64 = numbers.iter().map(|x| f64::from(*x).powi(2)).sum();
        for (down, wave) in waves.iter().enumerate() {
            for (frequency, column) in across.iter().enumerate() {
                let share: f32 = column.iter().zip(wave).map(|(x, w)| x * w).sum();
                left -= f64::from(share).powi(2);
                let part = if frequency % 2 == 0 {
                    &mut even
                } else {
                    &mut odd
                };
                part[2 * down + frequency / 2] = share;
            }
        }
        // What rounding may have taken away.
        let rest = left.max(0.0) + 1e-6;
        Self {
            even,
            odd,
            rest: rest.sqrt() as f32,
        }
    }

    /// Above what a correlation cannot be, as it is or mirrored: with these frequencies as vectors a and b, and what is
    /// left of the length 1 as r and s, a·b + r·s (Cauchy and Schwarz).
    fn bound(&self, other: &Self) -> f32 {
        let (even, odd) = (
            product(&self.even, &other.even),
            product(&self.odd, &other.odd),
        );
        even + odd.abs() + self.rest * other.rest + SLACK
    }
}

/// A square part of a thumbnail, in shares of its side.
#[derive(Clone, Copy)]
struct Window {
    left: f32,
    top: f32,
    share: f32,
}

const WHOLE: Window = Window {
    left: 0.0,
    top: 0.0,
    share: 1.0,
};

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
