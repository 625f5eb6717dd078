//! How many pictures of a dataset can be used, and how many have to be.

use super::Dataset;
use super::problem::Problem;
use super::scan::dataset_error;
use crate::error::{Error, Result};
use crate::words::some;

/// The share of pictures that can be used by default.
pub(super) const LEAST: f64 = 0.5;

/// How many are named in a message.
const NAMED: usize = 3;

impl Dataset {
    /// Sets the share of pictures, from 0 to 1, that must be usable under [`Policy::Skip`](super::Policy::Skip): with
    /// fewer, [`fit`](crate::Trainer::fit) and [`evaluate`](crate::Classifier::evaluate) end with an error. So they do,
    /// whatever the share, when a class loses all of its pictures. The default is half.
    pub fn least_usable(mut self, share: f64) -> Self {
        self.least_usable = share;
        self
    }

    /// What was skipped of this dataset so far: its own pictures, and what was found beside them that looks like one.
    pub(crate) fn skipped(&self) -> Vec<Problem> {
        let problems = self.problems();
        if problems.is_empty() {
            return problems;
        }
        let own: std::collections::HashSet<_> =
            self.items.iter().map(|item| item.path.as_path()).collect();
        let mut skipped = problems;
        skipped.retain(|problem| {
            own.contains(problem.path.as_path()) || self.unlisted.contains(&problem.path)
        });
        skipped
    }

    /// The same in a line that begins with what the dataset is for; none when nothing was skipped.
    pub(crate) fn skipped_summary(&self, what: &str) -> Option<String> {
        let skipped = self.skipped();
        if skipped.is_empty() {
            return None;
        }
        let all = self.items.len() + self.unlisted.len();
        let named = self.named(&skipped);
        let count = skipped.len();
        Some(format!(
            "{what}: {count} of {all} pictures skipped: {named}"
        ))
    }

    fn named(&self, problems: &[Problem]) -> String {
        let named: Vec<String> = problems
            .iter()
            .map(|Problem { path, reason }| {
                let path = path.strip_prefix(&self.root).unwrap_or(path);
                format!("{} ({reason})", path.display())
            })
            .collect();
        some(&named, NAMED)
    }

    /// Refuses a dataset that has lost too many of its pictures, or all of a class.
    pub(crate) fn check_usable(&self) -> Result<()> {
        let least = self.least_usable;
        if !(0.0..=1.0).contains(&least) {
            return Err(Error::option("least_usable", least, "0 to 1"));
        }
        let skipped = self.skipped();
        if skipped.is_empty() {
            return Ok(());
        }
        let lost: std::collections::HashSet<_> = skipped
            .iter()
            .map(|problem| problem.path.as_path())
            .collect();
        let mut usable = vec![0; self.class_names.len()];
        for item in self.items.iter() {
            if !lost.contains(item.path.as_path()) {
                usable[item.label] += 1;
            }
        }
        let counts = self
            .counts()
            .into_iter()
            .zip(&usable)
            .zip(&self.class_names);
        for ((count, usable), name) in counts {
            if count > 0 && *usable == 0 {
                let named = self.named(&skipped);
                let reason =
                    format!("none of the {count} pictures of class `{name}` can be used: {named}");
                return Err(dataset_error(&self.root, reason));
            }
        }
        // What was found beside the pictures belongs to the whole dataset, not to a part of it.
        let is_whole = self.items.len() + self.unlisted.len() == self.found;
        let all = self.items.len() + if is_whole { self.unlisted.len() } else { 0 };
        let usable: usize = usable.into_iter().sum();
        if (usable as f64) < least * all as f64 {
            let named = self.named(&skipped);
            let reason = format!(
                "{usable} of {all} pictures can be used, less than the share of {least} that `least_usable` asks for: {named}"
            );
            return Err(dataset_error(&self.root, reason));
        }
        Ok(())
    }
}
