//! Pictures that a run skips: told once, known to every rank, and too many of them an error.

use super::Run;
use crate::data::Dataset;
use crate::error::Result;
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
            self.ranks.hear_of_skipped(dataset, self.told[index])?;
            let skipped = dataset.skipped().len();
            if skipped > self.told[index] {
                self.told[index] = skipped;
                self.warn(dataset.skipped_summary(what).as_slice());
            }
            dataset.check_usable()?;
        }
        Ok(())
    }

    pub(super) fn warn(&self, warnings: &[String]) {
        if self.ranks.is_first() {
            warnings.iter().for_each(|warning| progress::warn(warning));
        }
    }
}
