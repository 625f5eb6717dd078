//! Pictures that are there twice: within a part of the data, across classes, and across train, validation and test.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use rayon::prelude::*;

use super::features::Features;
use super::fingerprints::{Fingerprint, Fingerprints};
use super::groups::Groups;
use super::product::{direction, dot, mean};
use crate::error::{Error, Result};

/// Pairs are looked at closely whose thumbnails agree so well at 8 × 8, or less well if their features agree too
/// (cosine, after the mean picture's are taken away). Features see through cropping, thumbnails through a change of
/// size.
const CERTAIN: f32 = 0.9;
const COARSE: f32 = 0.7;
const FEATURES: f32 = 0.25;

/// Near-duplicates correlate so well at least where they lie on each other best.
const CLOSE: f32 = 0.93;

/// A named part of the data, such as train, validation or test.
#[derive(Clone, Copy, Debug)]
pub struct Split<'a> {
    /// Its name.
    pub name: &'a str,
    /// What the base makes of its pictures.
    pub features: &'a Features,
    /// What its files are.
    pub fingerprints: &'a Fingerprints,
}

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Place {
    /// Its path.
    #[serde(serialize_with = "crate::words::path")]
    pub path: PathBuf,
    /// Its class's name.
    pub class: String,
    /// The name of its split.
    pub split: String,
}

/// Two pictures that are one.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Duplicate {
    /// The first one, in the order of splits and pictures.
    pub first: Place,
    /// The other one.
    pub second: Place,
    /// Whether the files are the same to the last byte.
    pub is_exact: bool,
    /// How well they correlate where they lie on each other best: up to 1.
    pub similarity: f32,
}

impl Duplicate {
    /// Whether the two are in different splits: the leak that makes figures lie.
    pub fn leaks(&self) -> bool {
        self.first.split != self.second.split
    }

    /// Whether the two have different labels: one of them is wrong, or the picture is of both classes.
    pub fn contradicts(&self) -> bool {
        self.first.class != self.second.class
    }
}

impl fmt::Display for Duplicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = [&self.first, &self.second]
            .map(|place| format!("{} {} ({})", place.split, place.path.display(), place.class));
        let kind = if self.is_exact {
            "the same file"
        } else {
            "nearly the same"
        };
        write!(f, "{first} and {second}: {kind}")
    }
}

/// The pictures that are there twice: files with the same bytes, and pictures that are the same but for encoding, size,
/// mirroring or a border of up to a tenth that was cut off.
///
/// A pair is looked at closely where small thumbnails agree, or less so and features too; it is one picture if larger
/// thumbnails, laid on each other in every way that cropping and mirroring allow, correlate by 0.93 or more. All pairs
/// are compared, so the time grows with the square of the pictures: a second for 800 on two cores.
#[derive(Clone, Debug, Default)]
pub struct Duplicates {
    pairs: Vec<Duplicate>,
}

impl Duplicates {
    /// Those within and across these splits. Leaks come first, then contradictions, then the most alike.
    ///
    /// # Errors
    /// [`Error::Shape`] for features of different lengths: they are not of one base.
    pub fn of(splits: &[Split<'_>]) -> Result<Self> {
        let widths: Vec<usize> = splits.iter().map(|split| split.features.width()).collect();
        if widths.windows(2).any(|pair| pair[0] != pair[1]) {
            return Err(Error::Shape {
                what: "features of splits".into(),
                expected: "one length".into(),
                found: widths,
            });
        }
        let looks = looks(splits);
        let pairs: Vec<(usize, usize, bool, f32)> = (0..looks.len())
            .into_par_iter()
            .flat_map_iter(|i| {
                let looks = &looks;
                let later = (i + 1)..looks.len();
                later.filter_map(move |j| {
                    let similarity = looks[i].compare(&looks[j])?;
                    Some((i, j, looks[i].print.hash == looks[j].print.hash, similarity))
                })
            })
            .collect();
        let duplicate = |(i, j, is_exact, similarity): (usize, usize, bool, f32)| Duplicate {
            first: looks[i].place(splits),
            second: looks[j].place(splits),
            is_exact,
            similarity,
        };
        let mut pairs: Vec<Duplicate> = pairs.into_iter().map(duplicate).collect();
        let order = |pair: &Duplicate| (!pair.leaks(), !pair.contradicts(), !pair.is_exact);
        pairs.sort_by(|a, b| {
            order(a)
                .cmp(&order(b))
                .then(b.similarity.total_cmp(&a.similarity))
        });
        Ok(Self { pairs })
    }

    /// The pairs.
    pub fn pairs(&self) -> &[Duplicate] {
        &self.pairs
    }

    /// Groups of pictures that are one, for [`CrossValidation::groups`](super::CrossValidation::groups).
    pub fn groups(&self) -> Groups {
        let mut numbers: HashMap<PathBuf, usize> = HashMap::new();
        for (number, pair) in self.pairs.iter().enumerate() {
            let known =
                [&pair.first.path, &pair.second.path].map(|path| numbers.get(path).copied());
            let own = known[0].or(known[1]).unwrap_or(number);
            if let [Some(first), Some(second)] = known {
                numbers
                    .values_mut()
                    .filter(|n| **n == second)
                    .for_each(|n| *n = first);
            }
            numbers.insert(pair.first.path.clone(), own);
            numbers.insert(pair.second.path.clone(), own);
        }
        Groups::numbered(numbers)
    }
}

/// A picture as others are compared with it.
struct Look<'a> {
    split: usize,
    index: usize,
    print: &'a Fingerprint,
    /// Without the mean picture's, and of length 1.
    features: Vec<f32>,
}

impl Look<'_> {
    fn place(&self, splits: &[Split<'_>]) -> Place {
        let Split { name, features, .. } = splits[self.split];
        Place {
            path: features.paths()[self.index].clone(),
            class: features.class_names()[features.labels()[self.index]].clone(),
            split: name.to_owned(),
        }
    }

    /// How alike two pictures are, if they are one.
    fn compare(&self, other: &Self) -> Option<f32> {
        if self.print.hash == other.print.hash {
            return Some(1.0);
        }
        if self.print.is_blank() || other.print.is_blank() {
            return None;
        }
        let (a, b) = (&self.print.thumbnail, &other.print.thumbnail);
        let coarsely = a.coarsely(b);
        let is_candidate = coarsely >= CERTAIN
            || coarsely >= COARSE && dot(&self.features, &other.features) >= FEATURES;
        let similarity = if is_candidate { a.closely(b) } else { 0.0 };
        (similarity >= CLOSE).then_some(similarity)
    }
}

fn looks<'a>(splits: &'a [Split<'a>]) -> Vec<Look<'a>> {
    let width = splits.first().map_or(0, |split| split.features.width());
    let rows = |split: &'a Split<'a>| split.features.rows().chunks_exact(width);
    let mean = mean(splits.iter().flat_map(rows), width);
    let mut looks = Vec::new();
    for (number, split) in splits.iter().enumerate() {
        for (index, path) in split.features.paths().iter().enumerate() {
            let Some(print) = split.fingerprints.get(path) else {
                continue;
            };
            looks.push(Look {
                split: number,
                index,
                print,
                features: direction(split.features.row(index), &mean),
            });
        }
    }
    looks
}
