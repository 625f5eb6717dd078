//! One variation of a picture, in numbers.

/// One variation of a picture: what [`Augmenter::sample`](super::Augmenter::sample) draws and
/// [`Augmenter::apply`](super::Augmenter::apply) applies. The default changes nothing.
///
/// ```
/// use headstart::Augmenter;
/// use headstart::data::AugmentParams;
/// use image::{Rgb, Rgb32FImage};
///
/// let picture = Rgb32FImage::from_fn(2, 1, |x, _| Rgb([x as f32; 3]));
/// let mirrored = AugmentParams { flip_horizontal: true, ..AugmentParams::default() };
/// assert_eq!(Augmenter::new().apply(&picture, &mirrored).get_pixel(0, 0), &Rgb([1.0; 3]));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AugmentParams {
    /// Degrees counter-clockwise.
    pub rotation: f64,
    /// Pixels the content moves up (in Keras compat mode, left).
    pub height_shift: f64,
    /// Pixels the content moves left (in Keras compat mode, up).
    pub width_shift: f64,
    /// Shear angle in degrees.
    pub shear: f64,
    /// Source columns per output column: below 1 magnifies.
    pub zoom_x: f64,
    /// Source rows per output row: below 1 magnifies.
    pub zoom_y: f64,
    /// Whether left and right are swapped.
    pub flip_horizontal: bool,
    /// Whether top and bottom are swapped.
    pub flip_vertical: bool,
    /// Grey levels added to every channel, if enabled.
    pub channel_shift: Option<f64>,
    /// Factor on the grey levels, if enabled.
    pub brightness: Option<f64>,
}

impl Default for AugmentParams {
    fn default() -> Self {
        Self {
            rotation: 0.0,
            height_shift: 0.0,
            width_shift: 0.0,
            shear: 0.0,
            zoom_x: 1.0,
            zoom_y: 1.0,
            flip_horizontal: false,
            flip_vertical: false,
            channel_shift: None,
            brightness: None,
        }
    }
}
