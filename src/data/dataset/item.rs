//! One picture of a dataset: its name, its label, and where its pixels come from.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::RgbImage;

use crate::data::decode::Decoder;
use crate::error::Result;
use crate::{bounds, files};

/// One picture of a dataset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The picture's file; in an archive, the archive's path and the member's name, as in `train.tar/santa/1.jpg`, and
    /// where a sample's name comes again, `train.tar/1.jpg (2)`; of an image in memory a name such as `image 17`, where
    /// 17 is its [`id`](Self::id).
    pub path: PathBuf,
    /// Its class, as an index into [`Dataset::class_names`](super::Dataset::class_names).
    pub label: usize,
    /// Its position in the freshly opened dataset. Splitting and shuffling keep it, so that (seed, epoch, id)
    /// fixes its augmentation.
    pub id: u64,
    pub(super) source: Source,
}

/// Where the pixels of a picture come from.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// The file at the item's path.
    File,
    /// A member of a tar archive.
    Member(Member),
    /// An image in memory.
    Memory(Arc<RgbImage>),
}

/// Bytes of a tar archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) archive: Arc<Path>,
    pub(super) offset: u64,
    pub(super) len: u64,
}

impl Item {
    /// Decodes the picture from its file or its archive, as [`decode_file`](crate::data::decode_file) does, or
    /// copies it if it is in memory.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when it cannot be read, [`Error::Picture`](crate::Error::Picture) when it
    /// cannot be decoded, is too large, or has no pixels.
    pub fn decode(&self) -> Result<RgbImage> {
        self.decode_by(&Decoder::new())
    }

    /// Decodes the picture by a decoder with its own budget.
    pub(crate) fn decode_by(&self, decoder: &Decoder) -> Result<RgbImage> {
        match &self.source {
            Source::File => decoder.decode_file(&self.path),
            Source::Member(member) => {
                decoder.decode_named(&self.path, member.len, || member.read())
            }
            Source::Memory(image) => decoder.image(&self.path, image),
        }
    }

    /// The bytes the picture comes from, as they are stored: what tells it from any other. Of an image in memory,
    /// its height and width and then its pixels.
    pub(crate) fn read(&self) -> io::Result<Vec<u8>> {
        match &self.source {
            Source::File => files::read(&self.path, bounds::FILE),
            Source::Member(member) => member.read(),
            Source::Memory(image) => {
                let [height, width] = [image.height(), image.width()].map(u32::to_le_bytes);
                Ok([&height, &width, image.as_raw().as_slice()].concat())
            }
        }
    }
}

impl Member {
    /// Opens the archive anew: that costs little beside decoding, and a dataset may have more archives than a
    /// process may have open files.
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut archive = files::open(&self.archive)?;
        archive.seek(SeekFrom::Start(self.offset))?;
        let mut bytes = Vec::with_capacity(self.len as usize);
        archive.take(self.len).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("File"),
            Self::Member(member) => member.fmt(f),
            // Not its pixels.
            Self::Memory(image) => write!(f, "Memory({} × {})", image.height(), image.width()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The feature cache tells pictures apart by their bytes.
    #[test]
    fn images_in_memory_are_told_apart_by_size_and_pixels() {
        let read = |image: RgbImage| {
            let item = Item {
                path: "image 0".into(),
                label: 0,
                id: 0,
                source: Source::Memory(Arc::new(image)),
            };
            item.read().unwrap()
        };
        let wide = read(RgbImage::new(6, 1));
        assert_eq!(wide, read(RgbImage::new(6, 1)));
        assert_ne!(wide, read(RgbImage::new(3, 2)));
        let grey = RgbImage::from_pixel(6, 1, image::Rgb([1; 3]));
        assert_ne!(wide, read(grey));
    }
}
