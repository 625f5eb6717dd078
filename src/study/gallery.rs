//! The pictures most like a picture: exact search among many.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use super::features::Features;
use super::product::{direction, dot, mean};
use crate::error::{Error, Result, While};
use crate::tensor_file::{self, TensorFile};

/// The metadata entry that says what the file is, and the only format there is.
const ENTRY: &str = "headstart_gallery";
const FORMAT: &str = "1";

/// Rounding of f32 in a product of two vectors of length 1.
const ROUNDING: f32 = 1e-5;

/// Pictures to look for others among: which of them is most like a given one.
///
/// Likeness is the cosine of [embeddings](crate::Classifier::embed) without the mean of all. The search is exact:
/// vectors are compared in bytes first, each with a bound on what rounding may hide, and those that could be among the
/// nearest in f32.
///
/// ```
/// use headstart::study::{Features, Gallery};
///
/// let rows = vec![1.0, 0.0, 0.9, 0.1, 0.0, 1.0];
/// let gallery = Gallery::of(&Features::from_rows(rows, 2, &[0, 0, 1], &["cat", "dog"])?);
/// let nearest = gallery.nearest(&[0.1, 0.9], 1)?;
/// assert_eq!(nearest[0].class, "dog");
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Gallery {
    mean: Vec<f32>,
    /// N rows of length 1, and what tells them coarsely.
    rows: Vec<f32>,
    coarse: Coarse,
    labels: Vec<u32>,
    paths: Vec<PathBuf>,
    class_names: Vec<String>,
}

/// Rows in bytes: a row is about `scales` times `bytes`, and off by a vector no longer than `errors`.
#[derive(Clone, Debug, PartialEq)]
struct Coarse {
    bytes: Vec<i8>,
    scales: Vec<f32>,
    errors: Vec<f32>,
}

/// A picture of a gallery, and how like it is.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Neighbour {
    /// Its path.
    #[serde(serialize_with = "crate::words::path")]
    pub path: PathBuf,
    /// Its class.
    pub class: String,
    /// The cosine, −1 to 1.
    pub similarity: f32,
}

impl Gallery {
    /// Of pictures' features.
    pub fn of(features: &Features) -> Self {
        let width = features.width();
        let mean = mean(features.rows().chunks_exact(width), width);
        let rows = features.rows().par_chunks_exact(width);
        let rows: Vec<f32> = rows.flat_map_iter(|row| direction(row, &mean)).collect();
        Self {
            coarse: Coarse::of(&rows, width),
            mean,
            rows,
            labels: features
                .labels()
                .iter()
                .map(|label| *label as u32)
                .collect(),
            paths: features.paths().to_vec(),
            class_names: features.class_names().to_vec(),
        }
    }

    /// How many pictures there are.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there is no picture.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// The k pictures, or as many as there are, most like an [embedding](crate::Classifier::embed) of the same base,
    /// the most alike first, of equal ones the first of the gallery.
    ///
    /// # Errors
    /// [`Error::Shape`] for a vector of another length, [`Error::NotFinite`] for one with NaN or infinity.
    pub fn nearest(&self, embedding: &[f32], k: usize) -> Result<Vec<Neighbour>> {
        if embedding.len() != self.mean.len() {
            return Err(Error::Shape {
                what: "the embedding".into(),
                expected: format!("({})", self.mean.len()),
                found: vec![embedding.len()],
            });
        }
        if let Some(value) = crate::finite::first_not(embedding) {
            let what = "the embedding".into();
            return Err(Error::NotFinite { what, value });
        }
        let query = direction(embedding, &self.mean);
        let width = query.len();
        let mut found: Vec<(f32, usize)> = self
            .candidates(&query, k)
            .into_par_iter()
            .map(|i| (dot(&query, &self.rows[i * width..][..width]), i))
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let nearest = found.into_iter().take(k);
        Ok(nearest
            .map(|(similarity, i)| Neighbour {
                path: self.paths[i].clone(),
                class: self.class_names[self.labels[i] as usize].clone(),
                similarity,
            })
            .collect())
    }

    /// The rows that may be among the k nearest.
    fn candidates(&self, query: &[f32], k: usize) -> Vec<usize> {
        if k == 0 || self.is_empty() {
            return Vec::new();
        }
        let (coarse, query_error) = coarse_query(query);
        let (query_scale, query_numbers) = coarse;
        let rows = self.coarse.bytes.par_chunks_exact(query.len());
        let both = rows.zip(self.coarse.scales.par_iter().zip(&self.coarse.errors));
        let ranges: Vec<(f32, f32)> = both
            .with_min_len(256)
            .map(|(row, (scale, error))| {
                let about = whole_product(row, &query_numbers) as f32 * scale * query_scale;
                let off = error + query_error * (1.0 + error) + ROUNDING;
                (about - off, about + off)
            })
            .collect();
        let mut least: Vec<f32> = ranges.iter().map(|range| range.0).collect();
        let kth = k.min(least.len()) - 1;
        let (_, bar, _) = least.select_nth_unstable_by(kth, |a, b| b.total_cmp(a));
        let bar = *bar;
        let may = |(i, range): (usize, &(f32, f32))| (range.1 >= bar).then_some(i);
        ranges.iter().enumerate().filter_map(may).collect()
    }

    /// Writes the gallery to a file, whole or not at all, with a checksum.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let paths: Vec<String> = self
            .paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let names = serde_json::to_vec(&(paths, &self.class_names));
        let names = names.map_err(Error::format("a gallery's names as JSON", path))?;
        let (n, width, bytes) = (self.len(), self.mean.len(), names.len());
        let tensors = [
            (
                "rows",
                Tensor::from_slice(&self.rows, (n, width), &Device::Cpu)?,
            ),
            ("mean", Tensor::from_slice(&self.mean, width, &Device::Cpu)?),
            ("labels", Tensor::from_slice(&self.labels, n, &Device::Cpu)?),
            ("names", Tensor::from_vec(names, bytes, &Device::Cpu)?),
        ];
        let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor));
        let metadata = BTreeMap::from([(ENTRY.to_owned(), FORMAT.to_owned())]);
        tensor_file::write(path, tensors.into(), metadata)
    }

    /// Reads a gallery that [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`Error::Io`] for a file that cannot be read; [`Error::Format`] for one that is no gallery, of a newer format,
    /// or damaged.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bad = Error::format::<crate::error::Cause>("a gallery", path);
        match Self::read(path) {
            Ok(gallery) => Ok(gallery),
            Err(cause) => Err(match cause.downcast::<std::io::Error>() {
                Ok(error) => Error::io(path)(*error),
                Err(cause) => bad(cause),
            }),
        }
    }

    fn read(path: &Path) -> Result<Self, crate::error::Cause> {
        let mut file = TensorFile::open(path)?;
        match file.entry(ENTRY) {
            Some(FORMAT) => {}
            Some(_) => return Err("of a newer format: update headstart".into()),
            None => return Err("a safetensors file, but not a gallery saved by headstart".into()),
        }
        let mut tensor = |name: &str, dtype: DType| -> Result<Tensor, crate::error::Cause> {
            let info = file.info(name).cloned();
            let info = info.ok_or_else(|| format!("tensor `{name}` is missing"))?;
            if DType::try_from(info.dtype)? != dtype {
                return Err(format!("tensor `{name}` is of another type").into());
            }
            let bytes = file.bytes(&info)?;
            Ok(Tensor::from_raw_buffer(
                &bytes,
                dtype,
                &info.shape,
                &Device::Cpu,
            )?)
        };
        let (rows, mean) = (tensor("rows", DType::F32)?, tensor("mean", DType::F32)?);
        let (n, width) = rows.dims2()?;
        let labels: Vec<u32> = tensor("labels", DType::U32)?.to_vec1()?;
        let names: Vec<u8> = tensor("names", DType::U8)?.to_vec1()?;
        let names: (Vec<PathBuf>, Vec<String>) =
            serde_json::from_slice(&names).map_err(|error| While::new("damaged names", error))?;
        let (paths, class_names) = names;
        let is_named = labels
            .iter()
            .all(|label| (*label as usize) < class_names.len());
        if mean.dims() != [width]
            || labels.len() != n
            || paths.len() != n
            || !is_named
            || width == 0
        {
            return Err("its parts do not fit each other".into());
        }
        let rows: Vec<f32> = rows.flatten_all()?.to_vec1()?;
        let mean: Vec<f32> = mean.to_vec1()?;
        if !crate::finite::all(&rows) || !crate::finite::all(&mean) {
            return Err("it holds NaN or infinity".into());
        }
        // Whoever wrote longer rows was not us, and their products could be no numbers.
        if rows.chunks_exact(width).any(|row| dot(row, row) > 1.01) {
            return Err("a row is longer than 1".into());
        }
        Ok(Self {
            coarse: Coarse::of(&rows, width),
            mean,
            rows,
            labels,
            paths,
            class_names,
        })
    }
}

impl Coarse {
    fn of(rows: &[f32], width: usize) -> Self {
        let rounded = |row: &[f32]| {
            let largest = row.iter().fold(0f32, |largest, x| largest.max(x.abs()));
            let scale = largest.max(f32::MIN_POSITIVE) / 127.0;
            let bytes: Vec<i8> = row.iter().map(|x| (x / scale).round() as i8).collect();
            let both = row.iter().zip(&bytes);
            let off = both.map(|(x, byte)| (x - scale * f32::from(*byte)).powi(2));
            let error = off.sum::<f32>().sqrt();
            (bytes, scale, error)
        };
        let rounded: Vec<(Vec<i8>, f32, f32)> = rows.par_chunks_exact(width).map(rounded).collect();
        let mut coarse = Self {
            bytes: Vec::with_capacity(rows.len()),
            scales: Vec::with_capacity(rounded.len()),
            errors: Vec::with_capacity(rounded.len()),
        };
        for (bytes, scale, error) in rounded {
            coarse.bytes.extend(bytes);
            coarse.scales.push(scale);
            coarse.errors.push(error);
        }
        coarse
    }
}

/// A query as a scale and whole numbers, small enough that no product overflows, and the length of what rounding took.
fn coarse_query(query: &[f32]) -> ((f32, Vec<i16>), f32) {
    let room = f64::from(i32::MAX) / (127.0 * query.len() as f64);
    let most = room.min(f64::from(i16::MAX)).floor() as f32;
    let largest = query.iter().fold(0f32, |largest, x| largest.max(x.abs()));
    let scale = largest.max(f32::MIN_POSITIVE) / most.max(1.0);
    let numbers: Vec<i16> = query.iter().map(|x| (x / scale).round() as i16).collect();
    let off = query
        .iter()
        .zip(&numbers)
        .map(|(x, n)| (x - scale * f32::from(*n)).powi(2));
    let off = off.sum::<f32>().sqrt();
    ((scale, numbers), off)
}

fn whole_product(a: &[i8], b: &[i16]) -> i32 {
    let products = a
        .iter()
        .zip(b)
        .map(|(a, b)| i32::from(i16::from(*a)) * i32::from(*b));
    products.sum()
}
