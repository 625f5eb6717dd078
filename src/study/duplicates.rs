//! Pictures that are there twice: within a part of the data, across classes, and across train, validation and test.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::alike::{self, Alike, Look};
use super::features::Features;
use super::fingerprints::Fingerprints;
use super::groups::Groups;
use super::product::{direction, mean};
use crate::error::{Error, Result};

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
/// thumbnails, laid on each other in every way that cropping and mirroring allow, correlate by 0.93 or more. Every two
/// pictures are compared, and what their lowest frequencies alone rule out is not looked at: the time still grows with
/// the square of the pictures, and with the number of those that are much alike.
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
        let (looks, places) = looks(splits);
        let place = |position: usize| place(splits, places[position]);
        let duplicate = |pair: Alike| Duplicate {
            first: place(pair.first),
            second: place(pair.second),
            is_exact: pair.is_exact,
            similarity: pair.similarity,
        };
        let pairs = alike::pairs(&looks).into_iter();
        let mut pairs: Vec<Duplicate> = pairs.map(duplicate).collect();
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
        let mut numbers = HashMap::<&Path, usize>::new();
        // Of each picture, one that it is in a group with; the last one of a group is its own.
        let mut next: Vec<usize> = Vec::new();
        for pair in &self.pairs {
            let [first, second] = [&pair.first.path, &pair.second.path].map(|path| {
                let number = *numbers.entry(path).or_insert(next.len());
                if number == next.len() {
                    next.push(number);
                }
                last(&mut next, number)
            });
            next[first] = second;
        }
        let numbers = numbers.into_iter();
        let numbers = numbers.map(|(path, number)| (path.to_owned(), last(&mut next, number)));
        Groups::numbered(numbers.collect())
    }
}

/// The last of a group; the way there gets shorter.
fn last(next: &mut [usize], mut number: usize) -> usize {
    while next[number] != number {
        next[number] = next[next[number]];
        number = next[number];
    }
    number
}

/// A split's number, and a picture's position in it.
type Position = (usize, usize);

fn place(splits: &[Split<'_>], (split, index): Position) -> Place {
    let Split { name, features, .. } = splits[split];
    Place {
        path: features.paths()[index].clone(),
        class: features.class_names()[features.labels()[index]].clone(),
        split: name.to_owned(),
    }
}

/// The pictures of all splits as they are compared, and where they are.
fn looks<'a>(splits: &'a [Split<'a>]) -> (Vec<Look<'a>>, Vec<Position>) {
    let width = splits.first().map_or(0, |split| split.features.width());
    let rows = |split: &'a Split<'a>| split.features.rows().chunks_exact(width);
    let mean = mean(splits.iter().flat_map(rows), width);
    let (mut looks, mut places) = (Vec::new(), Vec::new());
    for (number, split) in splits.iter().enumerate() {
        for (index, path) in split.features.paths().iter().enumerate() {
            let Some(print) = split.fingerprints.get(path) else {
                continue;
            };
            places.push((number, index));
            looks.push(Look {
                print,
                features: direction(split.features.row(index), &mean),
            });
        }
    }
    (looks, places)
}
