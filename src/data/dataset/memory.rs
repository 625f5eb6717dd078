//! Images in memory as a dataset.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::DynamicImage;

use super::item::Source;
use super::scan::{Found, Scan, dataset_error};
use crate::data::decode::to_rgb;
use crate::error::{Error, Result};

/// What stands for a folder in errors.
const ROOT: &str = "<memory>";

/// Takes in images and their labels.
pub(super) fn scan(
    images: impl IntoIterator<Item = (DynamicImage, usize)>,
    class_names: Vec<String>,
) -> Result<Scan> {
    let mut pictures = Vec::new();
    for (number, (image, label)) in images.into_iter().enumerate() {
        let name = format!("image {number}");
        if label >= class_names.len() {
            return Err(Error::mismatch(
                format!("label of {name}"),
                label,
                format!("an index into the {} class names", class_names.len()),
            ));
        }
        pictures.push(Found {
            path: PathBuf::from(name),
            label,
            source: Source::Memory(Arc::new(to_rgb(image))),
        });
    }
    if pictures.is_empty() {
        return Err(dataset_error(Path::new(ROOT), "no images"));
    }
    Ok(Scan {
        root: PathBuf::from(ROOT),
        class_names,
        pictures,
        problems: BTreeMap::new(),
        left_out: Vec::new(),
        warnings: Vec::new(),
    })
}
