//! Changes of grey levels, channel shift and brightness, by Keras's rules.

use image::Rgb32FImage;

/// Adds the same number of grey levels to all channels, clipped to the picture's own darkest and brightest
/// levels.
pub(super) fn shift_channels(picture: &mut Rgb32FImage, levels: f32) {
    let (darkest, brightest) = range(picture);
    for level in picture.iter_mut() {
        *level = bounded(*level + levels, darkest, brightest);
    }
}

/// Multiplies by a factor as Pillow does: on whole grey levels, cut off below and at 255.
///
/// A picture that leaves [0, 255] is stretched to it first and back afterwards.
pub(super) fn brighten(picture: &mut Rgb32FImage, factor: f32) {
    let (darkest, brightest) = range(picture);
    let outside = darkest < 0.0 || brightest > 255.0;
    let spread = brightest - darkest;
    for level in picture.iter_mut() {
        let mut whole = *level;
        if outside {
            whole -= darkest;
            if spread != 0.0 {
                whole = whole / spread * 255.0;
            }
        }
        let brighter = bounded(factor * whole.trunc(), 0.0, 255.0).trunc();
        *level = if outside {
            brighter / 255.0 * spread + darkest
        } else {
            brighter
        };
    }
}

/// The number brought into a range; its lower end for NaN. Unlike `clamp` it takes any range.
fn bounded(value: f32, low: f32, high: f32) -> f32 {
    value.max(low).min(high)
}

fn range(picture: &Rgb32FImage) -> (f32, f32) {
    picture
        .iter()
        .fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), level| {
            (low.min(*level), high.max(*level))
        })
}
