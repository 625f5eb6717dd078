//! What a study found, with pictures: labels that are likely wrong, and pictures that are there twice.

use std::collections::HashMap;

use rayon::prelude::*;

use super::page::{PairRow, PlacedPicture, StudySection, SuspectRow};
use super::pictures::thumbnail_of;
use crate::data::{Dataset, Item};
use crate::study::{Duplicate, Oddities, Place, Suspect};

/// How many of each are shown.
const SUSPECTS: usize = 18;
const PAIRS: usize = 16;

/// A picture of the report's, the part of the data that it is in, and that part's pictures.
type Found<'a> = (&'a Item, &'static str, &'a Dataset);

/// Finds pictures by where they lie, among the report's own: a study's file may name any others.
pub(super) struct Known<'a> {
    by_path: HashMap<String, Found<'a>>,
    size: (usize, usize),
}

impl<'a> Known<'a> {
    /// The pictures of some parts, which are shown in the proportions of this size.
    pub(super) fn new(parts: &[(&'static str, &'a Dataset)], size: (usize, usize)) -> Self {
        let mut by_path = HashMap::new();
        for (name, dataset) in parts {
            for item in dataset.items() {
                // As a study writes them.
                let path = item.path.display().to_string();
                by_path.entry(path).or_insert((item, *name, *dataset));
            }
        }
        Self { by_path, size }
    }

    /// What is shown of a study.
    pub(super) fn section(&self, oddities: &Oddities) -> StudySection {
        let (suspects, pairs) = (&oddities.suspects, &oddities.duplicates);
        let shown = &suspects[..suspects.len().min(SUSPECTS)];
        let shown_pairs = &pairs[..pairs.len().min(PAIRS)];
        StudySection {
            suspects: shown.par_iter().map(|s| self.suspect(s)).collect(),
            more_suspects: suspects.len() - shown.len(),
            pairs: shown_pairs.par_iter().map(|p| self.pair(p)).collect(),
            more_pairs: pairs.len() - shown_pairs.len(),
        }
    }

    fn suspect(&self, suspect: &Suspect) -> SuspectRow {
        let percent = |share: f32| format!("{:.1}", 100.0 * share);
        let (source, name, _) = self.look(&suspect.path.display().to_string());
        SuspectRow {
            source,
            name,
            class: suspect.class.clone(),
            confidence: percent(suspect.confidence),
            looks_like: suspect.looks_like.clone(),
            probability: percent(suspect.probability),
        }
    }

    fn pair(&self, pair: &Duplicate) -> PairRow {
        let pictures = [self.placed(&pair.first), self.placed(&pair.second)];
        PairRow {
            kind: match pair.is_exact {
                true => "the same file".to_owned(),
                false => format!("nearly the same: {:.2}", pair.similarity),
            },
            is_in_two_parts: pictures[0].part != pictures[1].part,
            is_of_two_classes: pair.contradicts(),
            pictures,
        }
    }

    /// A picture and the part of the run's data that it is in, or else of the study's.
    fn placed(&self, place: &Place) -> PlacedPicture {
        let (source, name, part) = self.look(&place.path.display().to_string());
        PlacedPicture {
            source,
            name,
            class: place.class.clone(),
            part: part.map_or_else(|| place.split.clone(), ToOwned::to_owned),
        }
    }

    /// A thumbnail, which is empty for a picture that is not known or cannot be read, with a name, and its part.
    fn look(&self, path: &str) -> (String, String, Option<&'static str>) {
        let Some((item, part, dataset)) = self.by_path.get(path) else {
            return (String::new(), path.to_owned(), None);
        };
        let source = thumbnail_of(item, self.size).unwrap_or_default();
        let name = item.path.strip_prefix(dataset.root());
        let name = name.unwrap_or(&item.path).display().to_string();
        (source, name, Some(part))
    }
}
