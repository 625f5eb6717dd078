//! Pictures' rows and columns → others of another length: each number a weighted sum of those around it, with Pillow's
//! numbers (libImaging/Resample.c): weights in fixed point, rounded to bytes after each pass.

use image::RgbImage;

/// What one output pixel takes from the pixels around it.
pub(super) struct Filter {
    /// How far it reaches, in pixels of the output when shrinking and of the input when enlarging.
    support: f64,
    /// The weight of a pixel at a distance, before the weights are scaled to a sum of 1.
    weight: fn(f64) -> f64,
}

/// Bilinear.
pub(super) const TRIANGLE: Filter = Filter {
    support: 1.0,
    weight: |distance| (1.0 - distance.abs()).max(0.0),
};

/// Bicubic: Keys's cubic convolution with a = −½ (Keys, "Cubic Convolution Interpolation for Digital Image
/// Processing", 1981).
pub(super) const CUBIC: Filter = Filter {
    support: 2.0,
    weight: |distance| {
        const A: f64 = -0.5;
        let x = distance.abs();
        if x < 1.0 {
            ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
        } else if x < 2.0 {
            (((x - 5.0) * x + 8.0) * x - 4.0) * A
        } else {
            0.0
        }
    },
};

/// The source pixels that one output pixel is made of: the first one, and the weight of each.
struct Window {
    start: usize,
    weights: Vec<i32>,
}

/// The windows of `n_out` pixels over `extent` of `n_in`.
fn windows(n_in: u32, extent: f64, n_out: u32, filter: &Filter) -> Vec<Window> {
    let scale = extent / f64::from(n_out);
    // Shrinking widens the filter: that is the antialiasing.
    let stretch = scale.max(1.0);
    let (reach, shrink) = (filter.support * stretch, 1.0 / stretch);
    (0..n_out)
        .map(|out| {
            let centre = (f64::from(out) + 0.5) * scale;
            // `as` rounds towards zero, and negative values up to zero.
            let start = (centre - reach + 0.5) as u32;
            let end = ((centre + reach + 0.5) as u32).min(n_in);
            let weights: Vec<f64> = (start..end)
                .map(|at| (filter.weight)((f64::from(at) - centre + 0.5) * shrink))
                .collect();
            let sum: f64 = weights.iter().sum();
            Window {
                start: start as usize,
                weights: weights
                    .iter()
                    .map(|weight| to_fixed(weight / sum))
                    .collect(),
            }
        })
        .collect()
}

/// The binary places of a fixed-point weight. Sums stay within i32: the absolute weights of a window add up to less
/// than 2, and 2 · 255 · 2²² < 2³¹.
const PRECISION: u32 = 22;

/// Rounds half away from zero.
fn to_fixed(weight: f64) -> i32 {
    (weight * f64::from(1 << PRECISION)).round() as i32
}

/// Half of the last place, so that cutting off rounds.
const HALF: i32 = 1 << (PRECISION - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// A weight as a floating-point number, without rounding: it has no more than 24 binary digits.
fn to_float(weight: i32) -> f32 {
    weight as f32 / (1 << PRECISION) as f32
}

/// Adds up in floating point, which processors do many at a time, and in fixed point where that may round to another
/// byte: the bytes are those of the fixed-point sums.
struct Rounding {
    /// How far a floating-point sum of this many weights may be from the sum without rounding, with half for what it is
    /// rounded by: each addition is off by 2⁻²⁴ of what was added up, at most 510.
    near: f32,
}

impl Rounding {
    fn of(weights: usize) -> Self {
        Self {
            near: 0.5 - (weights + 4) as f32 * 510.0 / (1 << 24) as f32,
        }
    }

    /// The byte of a sum; none where the sum is too near to the middle between two.
    fn byte(&self, sum: f32) -> Option<u8> {
        let sum = sum.clamp(-1.0, 256.0);
        // Rounds to the nearest integer, halves up; the sum is −1 or more.
        let rounded = (sum + 1.5) as i32 - 1;
        let is_sure = (sum - rounded as f32).abs() < self.near;
        is_sure.then_some(rounded.clamp(0, 255) as u8)
    }
}

/// Numbers of a row that are added up side by side: four pixels.
const LANES: usize = 12;

/// A window over a row, as weights of single numbers: each three times, and zeros up to a multiple of [`LANES`].
struct Expanded {
    /// The first number, so that all lie within the row.
    start: usize,
    weights: Vec<[f32; LANES]>,
    rounding: Rounding,
}

impl Expanded {
    /// None where the row has too few pixels.
    fn new(window: &Window, width: usize) -> Option<Self> {
        let pixels = window.weights.len().next_multiple_of(LANES / 3);
        let start = window.start.min(width.checked_sub(pixels)?);
        let mut weights = vec![0.0; 3 * pixels];
        let own = weights[3 * (window.start - start)..].chunks_exact_mut(3);
        for (weight, triple) in window.weights.iter().zip(own) {
            triple.fill(to_float(*weight));
        }
        Some(Self {
            start: 3 * start,
            weights: weights.as_chunks().0.to_vec(),
            rounding: Rounding::of(window.weights.len()),
        })
    }

    fn pixel(&self, row: &[u8]) -> Option<[u8; 3]> {
        let mut sums = [0f32; LANES];
        let groups = row[self.start..].as_chunks::<LANES>().0;
        for (weights, bytes) in self.weights.iter().zip(groups) {
            for lane in 0..LANES {
                sums[lane] += weights[lane] * f32::from(bytes[lane]);
            }
        }
        let mut pixel = [0; 3];
        for (c, byte) in pixel.iter_mut().enumerate() {
            let sum = (sums[c] + sums[c + 3]) + (sums[c + 6] + sums[c + 9]);
            *byte = self.rounding.byte(sum)?;
        }
        Some(pixel)
    }
}

pub(super) fn resample_rows(
    picture: &RgbImage,
    extent: f64,
    width: u32,
    filter: &Filter,
) -> RgbImage {
    if extent == f64::from(width) && picture.width() == width {
        return picture.clone();
    }
    let windows = windows(picture.width(), extent, width, filter);
    let expanded = windows
        .iter()
        .map(|window| Expanded::new(window, picture.width() as usize));
    let windows: Vec<_> = expanded.zip(&windows).collect();
    let mut out = RgbImage::new(width, picture.height());
    let in_rows = picture.as_raw().chunks_exact(3 * picture.width() as usize);
    let out_rows = out.chunks_exact_mut(3 * width as usize);
    for (from, to) in in_rows.zip(out_rows) {
        for ((expanded, window), pixel) in windows.iter().zip(to.chunks_exact_mut(3)) {
            let sure = expanded.as_ref().and_then(|expanded| expanded.pixel(from));
            pixel.copy_from_slice(&sure.unwrap_or_else(|| window.pixel(from)));
        }
    }
    out
}

pub(super) fn resample_columns(
    picture: &RgbImage,
    extent: f64,
    height: u32,
    filter: &Filter,
) -> RgbImage {
    if extent == f64::from(height) && picture.height() == height {
        return picture.clone();
    }
    let row_len = 3 * picture.width() as usize;
    let mut out = RgbImage::new(picture.width(), height);
    let mut sums = vec![0f32; row_len];
    let windows = windows(picture.height(), extent, height, filter);
    for (window, to) in windows.iter().zip(out.chunks_exact_mut(row_len)) {
        sums.fill(0.0);
        let rows = picture.as_raw()[window.start * row_len..].chunks_exact(row_len);
        for (weight, row) in window.weights.iter().zip(rows) {
            let weight = to_float(*weight);
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += weight * f32::from(*value);
            }
        }
        let rounding = Rounding::of(window.weights.len());
        for (at, (to, sum)) in to.iter_mut().zip(&sums).enumerate() {
            let sure = rounding.byte(*sum);
            *to = sure.unwrap_or_else(|| window.number(picture.as_raw(), at, row_len));
        }
    }
    out
}

/// In fixed point.
impl Window {
    /// The pixel of a row.
    fn pixel(&self, row: &[u8]) -> [u8; 3] {
        [0, 1, 2].map(|c| self.sum(&row[3 * self.start + c..], 3))
    }

    /// The number of a column.
    fn number(&self, picture: &[u8], column: usize, row_len: usize) -> u8 {
        self.sum(&picture[self.start * row_len + column..], row_len)
    }

    /// Of every `step`-th number.
    fn sum(&self, numbers: &[u8], step: usize) -> u8 {
        let products = self.weights.iter().zip(numbers.iter().step_by(step));
        let products = products.map(|(weight, number)| weight * i32::from(*number));
        to_byte(HALF + products.sum::<i32>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels of all kinds: noise, and halves between two levels, where rounding shows.
    fn picture(height: u32, width: u32) -> RgbImage {
        let mut state = 7u32;
        RgbImage::from_fn(width, height, |x, y| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (state >> 24) as u8;
            image::Rgb([noise, ((x + y) % 2) as u8, 255 * ((x / 3) % 2) as u8])
        })
    }

    #[test]
    fn sums_in_floating_point_give_the_bytes_of_those_in_fixed_point() {
        for filter in [&TRIANGLE, &CUBIC] {
            for (from, to) in [
                (7, 3),
                (8, 4),
                (640, 150),
                (1000, 7),
                (33, 64),
                (5000, 2),
                (2, 90),
            ] {
                let rows = picture(3, from);
                let found = resample_rows(&rows, f64::from(from), to, filter);
                let exact = windows(from, f64::from(from), to, filter);
                for (from, to) in rows.rows().zip(found.rows()) {
                    let from: Vec<u8> = from.flat_map(|pixel| pixel.0).collect();
                    for (pixel, window) in to.zip(&exact) {
                        assert_eq!(pixel.0, window.pixel(&from));
                    }
                }
                let columns = picture(from, 3);
                let found = resample_columns(&columns, f64::from(from), to, filter);
                for (y, window) in exact.iter().enumerate() {
                    for at in 0..9 {
                        let number = window.number(columns.as_raw(), at, 9);
                        assert_eq!(found.as_raw()[9 * y + at], number);
                    }
                }
            }
        }
    }
}
