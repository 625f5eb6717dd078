//! From pixels in [0, 255] to what a set of weights expects.

use std::fmt;
use std::str::FromStr;

use candle_core::Tensor;

use crate::error::{Error, Result};

/// What pixels must look like for a set of weights. Input is always RGB in [0, 255].
///
/// ```
/// use headstart::Preprocess;
///
/// let mut white = [255.0, 255.0, 255.0];
/// Preprocess::Unit.apply_pixel(&mut white);
/// assert_eq!(white, [1.0, 1.0, 1.0]);
///
/// assert_eq!("caffe".parse::<Preprocess>()?, Preprocess::Caffe);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preprocess {
    /// Divide by 255: RGB in [0, 1]. The default for fresh weights.
    #[default]
    Unit,
    /// torchvision's: divide by 255, subtract the ImageNet mean (0.485, 0.456, 0.406), divide by the
    /// standard deviation (0.229, 0.224, 0.225), RGB.
    Torch,
    /// Keras's `vgg19.preprocess_input` ("caffe"): BGR, minus the mean (103.939, 116.779, 123.68), unscaled.
    Caffe,
    /// Inception's, and that of TensorFlow's EfficientNets and MobileNets: divide by 255, subtract ½, divide by ½:
    /// RGB in [−1, 1].
    Half,
}

/// A row of the table: out = (in − mean) / std in grey levels, each in the order of the output's channels.
struct Row {
    name: &'static str,
    mean: [f32; 3],
    std: [f32; 3],
    bgr: bool,
}

impl Preprocess {
    pub(super) const ALL: [Self; 4] = [Self::Unit, Self::Torch, Self::Caffe, Self::Half];

    #[rustfmt::skip]
    const fn row(self) -> Row {
        match self {
            Self::Unit => Row { name: "unit", mean: [0.0; 3], std: [255.0; 3], bgr: false },
            Self::Torch => Row { name: "torch", mean: of_255([0.485, 0.456, 0.406]),
                                 std: of_255([0.229, 0.224, 0.225]), bgr: false },
            Self::Caffe => Row { name: "caffe", mean: [103.939, 116.779, 123.68], std: [1.0; 3], bgr: true },
            Self::Half => Row { name: "half", mean: [127.5; 3], std: [127.5; 3], bgr: false },
        }
    }

    /// Transforms one RGB pixel in [0, 255] in place.
    pub fn apply_pixel(self, rgb: &mut [f32; 3]) {
        let (mean, std) = self.mean_std();
        if self.is_bgr() {
            rgb.swap(0, 2);
        }
        for c in 0..3 {
            rgb[c] = (rgb[c] - mean[c]) / std[c];
        }
    }

    /// Transforms images (N, 3, H, W), RGB in [0, 255].
    ///
    /// # Errors
    /// [`Error::Shape`] unless the tensor is (N, 3, H, W).
    pub fn apply(self, images: &Tensor) -> Result<Tensor> {
        if images.rank() != 4 || images.dim(1)? != 3 {
            return Err(Error::Shape {
                what: "images to preprocess".into(),
                expected: "(N, 3, H, W)".into(),
                found: images.dims().to_vec(),
            });
        }
        let ordered = if self.is_bgr() {
            let bgr = Tensor::new(&[2u32, 1, 0], images.device())?;
            images.contiguous()?.index_select(&bgr, 1)?
        } else {
            images.clone()
        };
        let (mean, std) = self.mean_std();
        let per_channel = |values: [f32; 3]| -> Result<Tensor> {
            Ok(Tensor::new(&values, images.device())?
                .reshape((1, 3, 1, 1))?
                .to_dtype(images.dtype())?)
        };
        Ok(ordered
            .broadcast_sub(&per_channel(mean)?)?
            .broadcast_div(&per_channel(std)?)?)
    }

    /// Whether the channels are reversed, to blue, green, red.
    pub fn is_bgr(self) -> bool {
        self.row().bgr
    }

    /// Mean and standard deviation in grey levels, in the order of the output's channels:
    /// out = (in − mean) / std.
    pub fn mean_std(self) -> ([f32; 3], [f32; 3]) {
        let Row { mean, std, .. } = self.row();
        (mean, std)
    }
}

/// Fractions of white in grey levels.
const fn of_255([a, b, c]: [f32; 3]) -> [f32; 3] {
    [a * 255.0, b * 255.0, c * 255.0]
}

impl fmt::Display for Preprocess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().name)
    }
}

impl FromStr for Preprocess {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|known| known.row().name == name);
        known.ok_or_else(|| {
            let names = Self::ALL.map(|known| known.row().name);
            Error::option("preprocess", name, names.join(", "))
        })
    }
}
