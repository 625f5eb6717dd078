//! Grad-CAM: where in a picture a classifier sees a class (Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from
//! Deep Networks via Gradient-based Localization").

use candle_core::{D, DType, Tensor, Var};
use image::{Rgb, RgbImage};

use super::backbone::{Backbone, Mode, block_position};
use super::classifier::Classifier;
use super::picture::Picture;
use crate::data::{self, Decoder, Resize};
use crate::error::{Error, Result};

/// The smallest side of a block's map that says where something is: the default block has one of it at least.
const LEAST_SIDE: usize = 4;

/// How much of the picture shows through the warmest colour of an overlay.
const OPACITY: f32 = 0.6;

/// Where in a picture a classifier sees a class.
#[derive(Clone, Debug, PartialEq)]
pub struct GradCam {
    /// The class.
    pub class: String,
    /// The block whose output was looked at.
    pub block: String,
    /// How much each place speaks for the class, 0 or more: rows of the block's map.
    pub map: Vec<Vec<f32>>,
}

impl<B: Backbone> Classifier<B> {
    /// Where preprocessed images (N, 3, H, W) speak for a class: (N, h, w), numbers of 0 or more, on the map of a
    /// block's output.
    ///
    /// It is ReLU(Σₖ αₖ Aₖ) over the channels Aₖ of the block's output, αₖ the mean over the map of the gradient of the
    /// class's logit with respect to Aₖ (equations 1 and 2). One sigmoid unit's logit speaks for the second class, and
    /// with the other sign for the first.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a class or a block that there is not, [`Error::Shape`] for images of another shape.
    pub fn grad_cam_tensor(&self, images: &Tensor, class: &str, block: &str) -> Result<Tensor> {
        let label = self.label(class)?;
        let block = block_position(self.base(), block)?;
        let blocks = self.base().blocks().len();
        let features = self
            .base()
            .forward_blocks(images, 0..block + 1, Mode::Infer)?;
        // The blocks before keep nothing; from here on there is a graph, though nothing is trained.
        let features = Var::from_tensor(&features.detach())?;
        let rest = block + 1..blocks;
        let last = self
            .base()
            .forward_blocks(features.as_tensor(), rest, Mode::Infer)?;
        let logits = self.head().forward(&last, Mode::Infer, None)?;
        let logits = match (self.head().config().is_sigmoid(), label) {
            (true, 0) => logits.neg()?,
            (true, _) => logits,
            (false, label) => logits.narrow(1, label, 1)?,
        };
        // A picture's logit depends on its own features alone, so that of the sum is the gradient of each.
        let gradients = self.base().backward(&logits.sum_all()?, &mut Vec::new())?;
        let map = features.as_detached_tensor();
        let Some(gradient) = gradients.get(features.as_tensor()) else {
            // Nothing that the block gives reaches the logit.
            return Ok(map.sum(1)?.zeros_like()?);
        };
        let weights = gradient.mean_keepdim((D::Minus2, D::Minus1))?;
        Ok(map.broadcast_mul(&weights)?.sum(1)?.relu()?)
    }

    /// Where a picture speaks for a class: by default the one it is called, on the last block whose map has four rows
    /// and columns or more.
    ///
    /// ```no_run
    /// # let model = headstart::Classifier::load("model.safetensors", &headstart::Device::Cpu)?;
    /// let picture = headstart::data::decode_file("photo.jpg")?;
    /// let cam = model.grad_cam("photo.jpg", Some("santa"), None)?;
    /// cam.overlay(&picture).save("santa.png").unwrap();
    /// # Ok::<(), headstart::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`predict`](Self::predict); [`Error::InvalidOption`] for a class or a block that there is not.
    pub fn grad_cam<'a>(
        &self,
        picture: impl Into<Picture<'a>>,
        class: Option<&str>,
        block: Option<&str>,
    ) -> Result<GradCam> {
        let (height, width) = self.size();
        let decoder = Decoder::new().resized(height as u32, width as u32, self.resize_filter());
        let image = picture.into().decode(&decoder)?;
        let images = data::to_batch(&[&image], self.preprocess(), &self.base().device())?;
        let class = match class {
            Some(class) => class.to_owned(),
            None => self.predict_tensor(&images)?.remove(0).class().to_owned(),
        };
        let block = match block {
            Some(block) => block.to_owned(),
            None => self.explained_block()?,
        };
        let map = self.grad_cam_tensor(&images, &class, &block)?.squeeze(0)?;
        let map = map.to_dtype(DType::F32)?.to_vec2()?;
        Ok(GradCam { class, block, map })
    }

    fn label(&self, class: &str) -> Result<usize> {
        let names = self.class_names();
        let label = names.iter().position(|name| name == class);
        label.ok_or_else(|| Error::option("class", format!("`{class}`"), names.join(", ")))
    }

    /// The last block whose map is not too coarse, or the last.
    fn explained_block(&self) -> Result<String> {
        let (height, width) = self.size();
        let blocks = self.base().blocks();
        let pixel = Tensor::zeros((1, 3, height, width), DType::F32, &self.base().device())?;
        let mut chosen = blocks.len() - 1;
        let mut x = pixel;
        for block in 0..blocks.len() {
            x = self
                .base()
                .forward_blocks(&x, block..block + 1, Mode::Infer)?;
            let (_, _, h, w) = x.dims4()?;
            if h.min(w) >= LEAST_SIDE {
                chosen = block;
            }
        }
        // Where not even the first has as many, the last says most.
        Ok(blocks[chosen].name.clone())
    }
}

impl GradCam {
    /// The picture with the map over it, from blue, where nothing speaks for the class, over green to red: the map is
    /// scaled to its own highest, and drawn out smoothly.
    pub fn overlay(&self, picture: &RgbImage) -> RgbImage {
        let (rows, columns) = (
            self.map.len() as u32,
            self.map.first().map_or(0, Vec::len) as u32,
        );
        let highest = self.map.iter().flatten().copied().fold(0.0, f32::max);
        let level = |value: f32| match highest > 0.0 {
            true => (255.0 * value / highest).round() as u8,
            false => 0,
        };
        let grey = |x: u32, y: u32| Rgb([level(self.map[y as usize][x as usize]); 3]);
        let small = RgbImage::from_fn(columns, rows, grey);
        let heat = data::resize(&small, picture.height(), picture.width(), Resize::Bicubic);
        RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
            let share = f32::from(heat.get_pixel(x, y).0[0]) / 255.0;
            let (colour, pixel) = (colour(share), picture.get_pixel(x, y).0);
            let opacity = OPACITY * (0.35 + 0.65 * share);
            let mixed = |c: usize| opacity * colour[c] + (1.0 - opacity) * f32::from(pixel[c]);
            Rgb([0, 1, 2].map(|c| mixed(c).round() as u8))
        })
    }
}

/// From blue over cyan, green and yellow to red, as the paper draws it.
fn colour(share: f32) -> [f32; 3] {
    let ramp = |centre: f32| (1.5 - (4.0 * share - centre).abs()).clamp(0.0, 1.0) * 255.0;
    [ramp(3.0), ramp(2.0), ramp(1.0)]
}
