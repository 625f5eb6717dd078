//! A dataset in two parts, or in another order, fixed by a seed.

use std::collections::HashSet;
use std::sync::Arc;

use rand::seq::SliceRandom;

use super::Dataset;
use crate::error::{Error, Result};
use crate::random::{Purpose, stream};

impl Dataset {
    /// Splits off `fraction` of each class at random, for validation: returns (the rest, the fraction), both in
    /// the present order. Of a class with two pictures or more, each side gets at least one; a single picture stays
    /// in the rest.
    ///
    /// Which pictures are chosen depends on the seed and their [ids](super::Item::id), not on the present order.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless 0 < `fraction` < 1.
    ///
    /// ```
    /// use headstart::DirectoryDataset;
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let pictures = folder.path();
    /// # for (class, count) in [("not_santa", 10), ("santa", 5)] {
    /// #     std::fs::create_dir(pictures.join(class)).unwrap();
    /// #     for number in 0..count {
    /// #         std::fs::write(pictures.join(class).join(format!("{number}.jpg")), "").unwrap();
    /// #     }
    /// # }
    /// // 10 pictures in pictures/not_santa, 5 in pictures/santa
    /// let (train, validation) = DirectoryDataset::open(pictures)?.split(0.2, 1)?;
    /// assert_eq!(train.counts(), [8, 4]);
    /// assert_eq!(validation.counts(), [2, 1]);
    ///
    /// let (_, again) = DirectoryDataset::open(pictures)?.split(0.2, 1)?;
    /// assert_eq!(again.items(), validation.items());
    /// # Ok::<(), headstart::Error>(())
    /// ```
    pub fn split(&self, fraction: f64, seed: u64) -> Result<(Self, Self)> {
        if !(fraction > 0.0 && fraction < 1.0) {
            return Err(Error::option("fraction", fraction, "over 0 and under 1"));
        }
        let mut chosen: HashSet<u64> = HashSet::new();
        for (label, mut ids) in self.ids_by_class().into_iter().enumerate() {
            ids.sort_unstable();
            ids.shuffle(&mut stream(seed, Purpose::Split, 0, label as u64));
            let share = (fraction * ids.len() as f64).round() as usize;
            let share = match ids.len() {
                0 | 1 => 0,
                n => share.clamp(1, n - 1),
            };
            chosen.extend(&ids[..share]);
        }
        let items = self.items.iter().cloned();
        let (part, rest) = items.partition(|item| chosen.contains(&item.id));
        Ok((self.with_items(rest), self.with_items(part)))
    }

    /// Puts the pictures in a random order, once and for all; a loader that shuffles does so anew each epoch.
    pub fn shuffle(mut self, seed: u64) -> Self {
        Arc::make_mut(&mut self.items).shuffle(&mut stream(seed, Purpose::Shuffle, 0, 0));
        self
    }

    fn ids_by_class(&self) -> Vec<Vec<u64>> {
        let mut ids = vec![Vec::new(); self.class_names.len()];
        for item in self.items.iter() {
            ids[item.label].push(item.id);
        }
        ids
    }
}
