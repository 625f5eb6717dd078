//! Pictures that a run skips: told once, known to every rank, and too many of them an error.

use std::collections::HashMap;
use std::path::PathBuf;

use super::Run;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::Backbone;
use crate::progress;

/// What the two datasets are for.
pub(super) const PARTS: [&str; 2] = ["training", "validation"];

impl<'a, B: Backbone> Run<'a, B> {
    /// The training pictures or those of validation.
    pub(super) fn part(&self, index: usize) -> &'a Dataset {
        [self.train, self.validation][index]
    }

    /// Tells the user of pictures that were skipped since the last time, and ends a run that has too few left.
    pub(super) fn tell_skipped(&mut self) -> Result<()> {
        for (index, what) in PARTS.into_iter().enumerate() {
            let dataset = self.part(index);
            self.hear_of_skipped(dataset, self.told[index])?;
            let skipped = dataset.skipped().len();
            if skipped > self.told[index] {
                self.told[index] = skipped;
                self.warn(dataset.skipped_summary(what).as_slice());
            }
            dataset.check_usable()?;
        }
        Ok(())
    }

    /// Notes what other ranks skipped of a dataset, if this or another one skipped more than `known`. Pictures go by
    /// their ids: their folder may be another on each machine, and a path need not be text.
    fn hear_of_skipped(&self, dataset: &Dataset, known: usize) -> Result<()> {
        if self.ranks.is_alone() {
            return Ok(());
        }
        let mut skipped = dataset.skipped();
        if skipped.len() <= known {
            skipped.clear();
        }
        let skipped = skipped.into_iter();
        let reasons: HashMap<PathBuf, String> = skipped
            .map(|problem| (problem.path, problem.reason))
            .collect();
        let own = dataset.items().iter();
        let own = own.filter_map(|item| Some((item.id, reasons.get(&item.path)?.clone())));
        let all: Vec<Vec<(u64, String)>> = self.ranks.gather(Ok(own.collect()))?;
        let lost: HashMap<u64, String> = all.into_iter().flatten().collect();
        for item in dataset.items() {
            if let Some(reason) = lost.get(&item.id) {
                let (path, source) = (item.path.clone(), reason.clone().into());
                dataset.handle(&item.path, Error::Picture { path, source })?;
            }
        }
        Ok(())
    }

    pub(super) fn warn(&self, warnings: &[String]) {
        if self.ranks.is_first() {
            warnings.iter().for_each(|warning| progress::warn(warning));
        }
    }
}
