//! One affine resampling of a picture.

use image::{Rgb, Rgb32FImage};

use super::params::AugmentParams;

/// Coordinates further away are taken for this, in pixels: far beyond any picture, and safe to count with.
const FAR: f64 = 1e9;

/// How far outside, in pixels, a coordinate still counts as on the edge.
const ON_EDGE: f64 = 1e-9;

/// What a coordinate outside the picture reads.
///
/// For a row `a b c d`:
///
/// ```
/// use headstart::data::FillMode;
///
/// // Nearest        a a a | a b c d | d d d
/// // Constant(0.0)  0 0 0 | a b c d | 0 0 0
/// // Reflect        c b a | a b c d | d c b
/// // Wrap           b c d | a b c d | a b c
/// assert_eq!(FillMode::default(), FillMode::Nearest);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FillMode {
    /// The nearest pixel of the edge.
    #[default]
    Nearest,
    /// This grey level, in [0, 255], in every channel.
    Constant(f32),
    /// The picture mirrored at its edge, the edge pixel repeated.
    Reflect,
    /// The picture repeated, with a period of its length (of its length − 1 in Keras).
    Wrap,
}

/// in = matrix · out + offset, in (row, column).
#[derive(Clone, Copy, Debug)]
pub(super) struct Affine {
    matrix: [[f64; 2]; 2],
    offset: [f64; 2],
}

impl Affine {
    /// The map from output to input pixels, about the picture's centre; none for the identity, and for what is no map
    /// because a number is not finite.
    ///
    /// Source: `get_random_transform` and `apply_affine_transform` of Keras's `ImageDataGenerator`, multiplied
    /// out. There the x axis is meant to be rows and ends up as columns: the height shift moves columns, and height
    /// and width are swapped in the centre. `keras_compat` keeps both faults; otherwise each is put right.
    pub(super) fn new(
        params: &AugmentParams,
        height: usize,
        width: usize,
        keras_compat: bool,
    ) -> Option<Self> {
        let AugmentParams {
            rotation,
            height_shift,
            width_shift,
            shear,
            zoom_x,
            zoom_y,
            ..
        } = *params;
        if (rotation, height_shift, width_shift, shear) == (0.0, 0.0, 0.0, 0.0)
            && (zoom_x, zoom_y) == (1.0, 1.0)
        {
            return None;
        }
        let (theta, shear) = (rotation.to_radians(), shear.to_radians());
        let (sin, cos) = theta.sin_cos();
        let matrix = [
            [zoom_y * (shear + theta).cos(), zoom_x * sin],
            [-zoom_y * (shear + theta).sin(), zoom_x * cos],
        ];
        let middle = |length: usize| (length as f64 - 1.0) / 2.0;
        let (rows, columns, centre) = if keras_compat {
            (width_shift, height_shift, [middle(width), middle(height)])
        } else {
            (height_shift, width_shift, [middle(height), middle(width)])
        };
        let shift = [cos * rows + sin * columns, cos * columns - sin * rows];
        let offset = [0, 1].map(|axis| {
            centre[axis] + shift[axis] - matrix[axis][0] * centre[0] - matrix[axis][1] * centre[1]
        });
        let numbers = matrix.iter().flatten().chain(&offset);
        let is_map = numbers.into_iter().all(|number| number.is_finite());
        is_map.then_some(Self { matrix, offset })
    }

    /// Resamples bilinearly.
    pub(super) fn apply(
        &self,
        picture: &Rgb32FImage,
        fill: FillMode,
        keras_compat: bool,
    ) -> Rgb32FImage {
        let (width, height) = picture.dimensions();
        let source = Source {
            pixels: picture.as_raw(),
            height: height as usize,
            width: width as usize,
            fill,
            keras_compat,
        };
        let [[rr, rc], [cr, cc]] = self.matrix;
        let [r0, c0] = self.offset;
        Rgb32FImage::from_fn(width, height, |x, y| {
            let (row, column) = (f64::from(y), f64::from(x));
            Rgb(source.sample(rr * row + rc * column + r0, cr * row + cc * column + c0))
        })
    }
}

/// A picture that can be read anywhere.
struct Source<'a> {
    /// Interleaved RGB.
    pixels: &'a [f32],
    height: usize,
    width: usize,
    fill: FillMode,
    keras_compat: bool,
}

impl Source<'_> {
    fn sample(&self, row: f64, column: f64) -> [f32; 3] {
        // Rounding may put a coordinate that is on the edge just beside it.
        let inside = |at: f64, length: usize| at >= -ON_EDGE && at <= (length - 1) as f64 + ON_EDGE;
        if let FillMode::Constant(level) = self.fill {
            // scipy's rule: no blending with the edge.
            if !inside(row, self.height) || !inside(column, self.width) {
                return [level; 3];
            }
        }
        let (top, bottom, down) = self.neighbours(row, self.height);
        let (left, right, across) = self.neighbours(column, self.width);
        let pixel =
            |row: usize, column: usize| &self.pixels[3 * (row * self.width + column)..][..3];
        let corners = [
            pixel(top, left),
            pixel(top, right),
            pixel(bottom, left),
            pixel(bottom, right),
        ];
        [0, 1, 2].map(|channel| {
            let [a, b, c, d] = corners.map(|corner| corner[channel]);
            let upper = a + (b - a) * across;
            let lower = c + (d - c) * across;
            upper + (lower - upper) * down
        })
    }

    /// The two pixels a coordinate lies between, and how far it is from the first to the second.
    fn neighbours(&self, at: f64, length: usize) -> (usize, usize, f32) {
        let last = (length - 1) as f64;
        // Sums of huge numbers may be infinite, or none at all.
        let at = if at.is_nan() {
            0.0
        } else {
            at.clamp(-FAR, FAR)
        };
        let at = match self.fill {
            FillMode::Nearest | FillMode::Constant(_) => at.clamp(0.0, last),
            FillMode::Wrap if self.keras_compat && length > 1 => keras_wrap(at, last),
            FillMode::Reflect | FillMode::Wrap => at,
        };
        let floor = at.floor();
        let index = |position: i64| {
            let n = length as i64;
            let within = match self.fill {
                FillMode::Reflect => {
                    let position = position.rem_euclid(2 * n);
                    position.min(2 * n - 1 - position)
                }
                FillMode::Wrap if !self.keras_compat => position.rem_euclid(n),
                _ => position.clamp(0, n - 1),
            };
            within as usize
        };
        (
            index(floor as i64),
            index(floor as i64 + 1),
            (at - floor) as f32,
        )
    }
}

/// scipy's `wrap`, whose ends overlap: the period is the length − 1.
fn keras_wrap(at: f64, period: f64) -> f64 {
    if at < 0.0 {
        at + period * ((-at / period).trunc() + 1.0)
    } else if at > period {
        at - period * (at / period).trunc()
    } else {
        at
    }
}
