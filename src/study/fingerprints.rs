//! What each picture file is, apart from its class: its bytes' hash, its size, a thumbnail.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use image::RgbImage;
use rayon::prelude::*;

use super::thumbnail::{LEVELS, Thumbnail};
use crate::data::{Dataset, Item};
use crate::error::{Error, Result};
use crate::train::{Ranks, in_turn};
use crate::words::count;
use crate::{bounds, progress};

/// A picture whose shorter side is below this, in pixels, has little to learn from.
const TINY: u32 = 32;

/// A picture whose grey levels deviate less than this from their mean shows nothing.
const BLANK: f32 = 2.0;

/// What a picture's file is.
#[derive(Clone, Debug)]
pub(super) struct Fingerprint {
    /// BLAKE3 of the bytes.
    pub(super) hash: [u8; 32],
    pub(super) width: u32,
    pub(super) height: u32,
    /// How much grey levels, 0 to 255, deviate from their mean.
    pub(super) deviation: f32,
    pub(super) thumbnail: Thumbnail,
}

/// Hashes, sizes and thumbnails of a dataset's pictures, by path: what [`Duplicates`](super::Duplicates) compares, and
/// which pictures are broken, tiny or blank.
#[derive(Clone, Debug)]
pub struct Fingerprints {
    by_path: HashMap<PathBuf, Fingerprint>,
    unfit: Vec<Unfit>,
}

/// A picture that says little or nothing.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Unfit {
    /// The picture's path.
    #[serde(serialize_with = "crate::words::path")]
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl Fingerprints {
    /// Reads every picture of a dataset, with a progress bar. Nothing is written.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for more than 2³² pictures. A picture that cannot be read
    /// is no error but [`unfit`](Self::unfit).
    pub fn of(dataset: &Dataset) -> Result<Self> {
        Self::of_together(dataset, &Ranks::alone())
    }

    /// The same on every rank, where each reads pictures in turn.
    pub(super) fn of_together(dataset: &Dataset, ranks: &Ranks) -> Result<Self> {
        bounds::within("pictures", dataset.len(), 0..=u32::MAX as usize)?;
        let bar = progress::bar(
            dataset.len() as u64,
            "{prefix} {bar:24} {pos}/{len} {eta} left",
        );
        bar.set_prefix("fingerprints");
        progress::line(&format!(
            "fingerprints: {}",
            count(dataset.len(), "picture")
        ));
        let own = dataset.items().iter().skip(ranks.rank());
        let own: Vec<&Item> = own.step_by(ranks.size()).collect();
        let prints = own
            .into_par_iter()
            .map(|item| {
                let bytes = item.read().map_err(|error| error.to_string());
                let picture = item.decode().map_err(|error| reason(&error));
                bar.inc(1);
                Ok(Fingerprint::new(&bytes?, &picture?))
            })
            .collect();
        bar.finish_and_clear();
        let prints = share(prints, ranks)?;
        let mut unfit: Vec<Unfit> = Vec::new();
        for problem in dataset.problems() {
            let (path, reason) = (problem.path, problem.reason);
            unfit.push(Unfit { path, reason });
        }
        let known: HashSet<PathBuf> = unfit.iter().map(|unfit| unfit.path.clone()).collect();
        let mut by_path = HashMap::with_capacity(prints.len());
        for (item, print) in dataset.items().iter().zip(prints) {
            let reason = match &print {
                Ok(print) => print.complaint(),
                Err(reason) => Some(reason.clone()),
            };
            let is_known = known.contains(&item.path);
            if let Some(reason) = reason.filter(|_| !is_known) {
                let path = item.path.clone();
                unfit.push(Unfit { path, reason });
            }
            if let Ok(print) = print {
                by_path.insert(item.path.clone(), print);
            }
        }
        Ok(Self { by_path, unfit })
    }

    /// The pictures that cannot be read, that are smaller than 32 pixels, or that are of one colour, with the reason.
    pub fn unfit(&self) -> &[Unfit] {
        &self.unfit
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Fingerprint> {
        self.by_path.get(path)
    }
}

/// A picture's fingerprint, or why there is none.
type Print = std::result::Result<Fingerprint, String>;

/// The same without the thumbnail, as one rank tells another: the hash, then width, height and the deviation's bits.
type Facts = std::result::Result<([u8; 32], [u32; 3]), String>;

/// What every rank found, in the order of the pictures.
fn share(own: Vec<Print>, ranks: &Ranks) -> Result<Vec<Print>> {
    if ranks.is_alone() {
        return Ok(own);
    }
    let levels = own.iter().flatten().map(|print| print.thumbnail.levels());
    let levels = ranks.gather_bytes(&levels.collect::<Vec<_>>().concat())?;
    let facts = own.into_iter().map(|print| {
        let bits = |print: Fingerprint| {
            let numbers = [print.width, print.height, print.deviation.to_bits()];
            (print.hash, numbers)
        };
        print.map(bits)
    });
    let facts: Vec<Vec<Facts>> = ranks.gather(Ok(facts.collect()))?;
    for (rank, (facts, levels)) in facts.iter().zip(&levels).enumerate() {
        if levels.len() != facts.iter().flatten().count() * LEVELS {
            let reason = "its thumbnails are not as many as its pictures".into();
            let rank = Some(rank);
            return Err(Error::Rank { rank, reason });
        }
    }
    let parts = facts.into_iter().zip(&levels).map(|(facts, levels)| {
        let mut levels = levels.chunks_exact(LEVELS);
        let mut whole = |(hash, [width, height, deviation]): ([u8; 32], [u32; 3])| Fingerprint {
            hash,
            width,
            height,
            deviation: f32::from_bits(deviation),
            thumbnail: Thumbnail::of_levels(levels.next().expect("one for each").to_vec()),
        };
        facts
            .into_iter()
            .map(|facts| facts.map(&mut whole))
            .collect()
    });
    Ok(in_turn(parts))
}

impl Fingerprint {
    fn new(bytes: &[u8], picture: &RgbImage) -> Self {
        let grey = image::imageops::grayscale(picture);
        let n = grey.len().max(1) as f64;
        let mean = grey.iter().map(|level| f64::from(*level)).sum::<f64>() / n;
        let squares: f64 = grey
            .iter()
            .map(|level| (f64::from(*level) - mean).powi(2))
            .sum();
        Self {
            hash: *blake3::hash(bytes).as_bytes(),
            width: picture.width(),
            height: picture.height(),
            deviation: (squares / n).sqrt() as f32,
            thumbnail: Thumbnail::of(&grey),
        }
    }

    /// What is wrong with a picture that can be read.
    fn complaint(&self) -> Option<String> {
        let (width, height) = (self.width, self.height);
        if self.is_blank() {
            return Some("blank: of one colour".to_owned());
        }
        let is_tiny = width.min(height) < TINY;
        is_tiny.then(|| format!("tiny: {width} × {height} pixels"))
    }

    /// Whether it shows nothing, so that it is like any other that shows nothing.
    pub(super) fn is_blank(&self) -> bool {
        self.deviation < BLANK
    }
}

/// Why a picture cannot be read, without its name.
fn reason(error: &crate::Error) -> String {
    match error {
        crate::Error::Picture { source, .. } => source.to_string(),
        crate::Error::Io { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}
