//! A view's features in a safetensors file.
//!
//! Three tensors: `features` (N, C, h, w), `usable` (N), 1 for a picture that could be used, and `digest` (32), the
//! BLAKE3 hash of all that comes before it. The header follows from the key and the shape alone, so a file is the one
//! that is asked for if it begins with the very bytes it would be written with, and whole if the digest agrees.
//!
//! Rows are read from their positions as they are asked for. A memory map would save the copy, but is undefined
//! behaviour where another process changes the file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::{Error, Result};
use crate::{atomic_file, files};

/// Bytes of a BLAKE3 hash.
const DIGEST: usize = 32;

/// A file that was found to be whole.
#[derive(Debug)]
pub(super) struct FeatureFile {
    path: PathBuf,
    file: File,
    /// Where the first row begins.
    start: u64,
}

impl FeatureFile {
    /// The file of this key and shape and which pictures could be used; `None` when there is none, or it is another's
    /// or damaged.
    pub(super) fn open(
        path: &Path,
        key: &str,
        pictures: usize,
        shape: [usize; 3],
    ) -> Option<(Self, Vec<bool>)> {
        let file = files::open(path).ok()?;
        let header = header(key, pictures, shape);
        let features = pictures * shape.iter().product::<usize>() * size_of::<f32>();
        let usable = verify(&file, &header, features, pictures).ok()??;
        let file = Self {
            path: path.to_owned(),
            file,
            start: header.len() as u64,
        };
        Some((file, usable))
    }

    /// Writes a file, whole or not at all: `fill` is given what takes the rows, one by one in the dataset's order, and
    /// says which pictures could be used, or nothing when it was to stop. Returns whether the file was written.
    pub(super) fn write(
        path: &Path,
        key: &str,
        pictures: usize,
        shape: [usize; 3],
        fill: impl FnOnce(&mut dyn FnMut(&[f32]) -> Result<()>) -> Result<Option<Vec<bool>>>,
    ) -> Result<bool> {
        let (mut failure, mut stopped) = (None, false);
        let written = atomic_file::write(path, |file| {
            let mut hasher = blake3::Hasher::new();
            let mut put = |bytes: &[u8]| {
                hasher.update(bytes);
                file.write_all(bytes)
            };
            put(&header(key, pictures, shape))?;
            let mut bytes = Vec::new();
            let filled = fill(&mut |row| {
                bytes.clear();
                bytes.extend(row.iter().flat_map(|number| number.to_le_bytes()));
                put(&bytes).map_err(Error::io(path))
            });
            let usable = filled.map_err(|error| {
                failure = Some(error);
                io::Error::other("the features could not be computed")
            })?;
            let Some(usable) = usable else {
                stopped = true;
                return Err(io::Error::other("the features were not to be computed"));
            };
            put(&usable.into_iter().map(u8::from).collect::<Vec<_>>())?;
            file.write_all(hasher.finalize().as_bytes())
        });
        match failure {
            Some(error) => Err(error),
            None if stopped => Ok(false),
            None => written.map(|()| true),
        }
    }

    /// Reads the row at an index of the dataset.
    pub(super) fn read(&self, index: usize, row: &mut [f32]) -> Result<()> {
        let mut bytes = vec![0; size_of_val(row)];
        let position = self.start + index as u64 * bytes.len() as u64;
        let mut file = &self.file;
        file.seek(SeekFrom::Start(position))
            .and_then(|_| file.read_exact(&mut bytes))
            .map_err(Error::io(&self.path))?;
        for (number, bytes) in row.iter_mut().zip(bytes.as_chunks().0) {
            *number = f32::from_le_bytes(*bytes);
        }
        Ok(())
    }
}

/// Length and JSON, padded so that the features are aligned.
fn header(key: &str, pictures: usize, [c, h, w]: [usize; 3]) -> Vec<u8> {
    let features = pictures * c * h * w * size_of::<f32>();
    let usable = features + pictures;
    let tensor = |dtype: &str, shape: &[usize], from: usize, to: usize| json!({"dtype": dtype, "shape": shape, "data_offsets": [from, to]});
    let json = json!({
        "__metadata__": {"headstart_features": key},
        "features": tensor("F32", &[pictures, c, h, w], 0, features),
        "usable": tensor("U8", &[pictures], features, usable),
        "digest": tensor("U8", &[DIGEST], usable, usable + DIGEST),
    });
    let mut json = json.to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    header
}

/// Reads a file through and returns which pictures could be used, if it is the one asked for and whole.
fn verify(
    file: &File,
    header: &[u8],
    features: usize,
    pictures: usize,
) -> io::Result<Option<Vec<bool>>> {
    let length = header.len() + features + pictures + DIGEST;
    if file.metadata()?.len() != length as u64 {
        return Ok(None);
    }
    let mut reader = file;
    let mut found = vec![0; header.len()];
    reader.read_exact(&mut found)?;
    if found != header {
        return Ok(None);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(header);
    hasher.update_reader(reader.take(features as u64))?;
    let mut usable = vec![0; pictures];
    reader.read_exact(&mut usable)?;
    hasher.update(&usable);
    let mut digest = [0; DIGEST];
    reader.read_exact(&mut digest)?;
    let is_whole = hasher.finalize() == digest;
    Ok(is_whole.then(|| usable.into_iter().map(|byte| byte == 1).collect()))
}
