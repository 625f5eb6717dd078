//! What may be handed in to be classified.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use image::{DynamicImage, RgbImage};

use crate::data::{self, Decoder, Item};
use crate::error::Result;

/// A picture to classify; made by `From` from a path, encoded bytes or a decoded image.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Picture<'a> {
    /// A file.
    Path(PathBuf),
    /// An encoded file in memory.
    Bytes(&'a [u8]),
    /// A decoded picture.
    Image(Cow<'a, DynamicImage>),
    /// A picture of a dataset or an archive.
    Item(Item),
}

impl Picture<'_> {
    pub(crate) fn decode(self, decoder: &Decoder) -> Result<RgbImage> {
        match self {
            Self::Path(path) => decoder.decode_file(path),
            Self::Bytes(bytes) => decoder.decode_bytes(bytes),
            Self::Item(item) => item.decode_by(decoder),
            Self::Image(image) => {
                decoder.image(Path::new("<image>"), &data::to_rgb(image.into_owned()))
            }
        }
    }
}

impl From<&Path> for Picture<'_> {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl From<&PathBuf> for Picture<'_> {
    fn from(path: &PathBuf) -> Self {
        Self::Path(path.clone())
    }
}

impl From<PathBuf> for Picture<'_> {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

impl From<&str> for Picture<'_> {
    /// A path.
    fn from(path: &str) -> Self {
        Self::Path(path.into())
    }
}

impl From<Item> for Picture<'_> {
    fn from(item: Item) -> Self {
        Self::Item(item)
    }
}

impl From<&Item> for Picture<'_> {
    fn from(item: &Item) -> Self {
        Self::Item(item.clone())
    }
}

impl<'a> From<&'a [u8]> for Picture<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Picture<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<DynamicImage> for Picture<'_> {
    fn from(image: DynamicImage) -> Self {
        Self::Image(Cow::Owned(image))
    }
}

impl<'a> From<&'a DynamicImage> for Picture<'a> {
    fn from(image: &'a DynamicImage) -> Self {
        Self::Image(Cow::Borrowed(image))
    }
}
