//! Pictures on a page: small, few, and in the page itself.

use std::collections::HashMap;
use std::io::Cursor;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder, RgbImage};
use rayon::prelude::*;

use crate::data::{self, Augmenter, Dataset, Decoder, Item, Resize};
use crate::error::Result;
use crate::model::Classifier;
use crate::train::metrics::PictureScore;

/// The longer side of a thumbnail in pixels, and how well its pixels are kept.
const SIDE: u32 = 112;
const QUALITY: u8 = 72;

/// The most bytes of a thumbnail, and how well its pixels are kept where that takes more.
const MOST: usize = 5_000;
const WORSE: [u8; 3] = [50, 30, 12];

/// The contact sheet: variations, and the longer side of each.
const VARIATIONS: usize = 24;
const VARIATION_SIDE: u32 = 96;

/// A picture on the page, with what was said of it.
pub(super) struct Thumbnail {
    /// `data:image/jpeg;base64,…`
    pub(super) source: String,
    /// The same with the map of Grad-CAM over it; empty without.
    pub(super) explained: String,
    /// The class that the map is of.
    pub(super) name: String,
    pub(super) class: String,
    pub(super) called: String,
    /// In percent.
    pub(super) confidence: String,
}

/// Makes thumbnails of a dataset's pictures as the model sees them.
pub(super) struct Thumbnails<'a> {
    model: &'a Classifier,
    dataset: &'a Dataset,
    by_id: HashMap<u64, &'a Item>,
}

impl<'a> Thumbnails<'a> {
    pub(super) fn new(model: &'a Classifier, dataset: &'a Dataset) -> Self {
        Self {
            model,
            dataset,
            by_id: dataset.items().iter().map(|item| (item.id, item)).collect(),
        }
    }

    /// Thumbnails of these pictures; one that cannot be read any more is left out.
    pub(super) fn of(&self, pictures: &[PictureScore], explain: bool) -> Vec<Thumbnail> {
        // A map takes all threads already.
        let made: Vec<_> = match explain {
            true => pictures
                .iter()
                .map(|score| self.thumbnail(score, true))
                .collect(),
            false => pictures
                .par_iter()
                .map(|score| self.thumbnail(score, false))
                .collect(),
        };
        made.into_iter().flatten().collect()
    }

    fn thumbnail(&self, score: &PictureScore, explain: bool) -> Option<Thumbnail> {
        let item = self.by_id.get(&score.id)?;
        let image = small(item, self.model.size())?;
        let names = self.model.class_names();
        let called = names.get(score.called as usize)?;
        let explained = match explain {
            true => {
                let cam = self.model.grad_cam(*item, Some(called), None).ok()?;
                light_url(&cam.overlay(&image))?
            }
            false => String::new(),
        };
        let name = item
            .path
            .strip_prefix(self.dataset.root())
            .unwrap_or(&item.path);
        Some(Thumbnail {
            source: light_url(&image)?,
            explained,
            name: name.display().to_string(),
            class: names.get(score.label as usize)?.clone(),
            called: called.clone(),
            confidence: format!("{:.1}", 100.0 * score.confidence),
        })
    }
}

/// Variations of a dataset's first picture that can be read, as one picture.
pub(super) fn contact_sheet(
    dataset: &Dataset,
    model: &Classifier,
    augmenter: &Augmenter,
    seed: u64,
) -> Result<Option<String>> {
    let (height, width) = model.size();
    let decoder = Decoder::new().resized(height as u32, width as u32, model.resize_filter());
    let Some(picture) = dataset
        .items()
        .iter()
        .find_map(|item| item.decode_by(&decoder).ok())
    else {
        return Ok(None);
    };
    let (height, width) = scaled(model.size(), VARIATION_SIDE);
    let picture = data::resize(&picture, height, width, Resize::Bilinear);
    let sheet = augmenter.preview(&picture, VARIATIONS, seed)?;
    Ok(jpeg(&sheet, QUALITY).map(|bytes| data_url(&bytes)))
}

/// A picture alone, as a thumbnail in the proportions of a size; none where it cannot be read any more.
pub(super) fn thumbnail_of(item: &Item, size: (usize, usize)) -> Option<String> {
    light_url(&small(item, size)?)
}

fn small(item: &Item, size: (usize, usize)) -> Option<RgbImage> {
    let (height, width) = scaled(size, SIDE);
    let decoder = Decoder::new().resized(height, width, Resize::Bilinear);
    item.decode_by(&decoder).ok()
}

/// A size of the same proportions whose longer side is this.
fn scaled((height, width): (usize, usize), side: u32) -> (u32, u32) {
    let longer = height.max(width).max(1) as f64;
    let to = |length: usize| ((length as f64 / longer * f64::from(side)).round() as u32).max(1);
    (to(height), to(width))
}

/// A thumbnail within the page, of few bytes whatever is in it.
fn light_url(image: &RgbImage) -> Option<String> {
    let qualities = [QUALITY].into_iter().chain(WORSE);
    let mut tries = qualities.filter_map(|quality| jpeg(image, quality));
    let bytes = tries.find(|bytes| bytes.len() <= MOST)?;
    Some(data_url(&bytes))
}

fn jpeg(image: &RgbImage, quality: u8) -> Option<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut bytes, quality);
    let (width, height) = image.dimensions();
    let written = encoder.write_image(image.as_raw(), width, height, ExtendedColorType::Rgb8);
    // Nothing is written but to memory.
    written.ok()?;
    Some(bytes.into_inner())
}

fn data_url(jpeg: &[u8]) -> String {
    let encoded = BASE64_STANDARD.encode(jpeg);
    format!("data:image/jpeg;base64,{encoded}")
}
