//! What a classifier says of a picture.

use std::fmt;

/// The classes of a picture, the most probable first, and whether it is like those the classifier was trained on.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Prediction {
    /// Class names with their probabilities, in descending order; they sum to 1.
    pub ranked: Vec<(String, f32)>,
    /// Whether the picture is like those the classifier was trained on. Probabilities say nothing of a picture that is not:
    /// one of the classes has to be the most probable. Always true for a classifier that was not
    /// [taught](crate::study::Doubt) to doubt.
    pub familiar: bool,
    /// How familiar it is: 1 at the threshold, more above. None for a classifier that was not taught to doubt.
    pub familiarity: Option<f32>,
}

impl Prediction {
    pub(super) fn new(
        class_names: &[String],
        probabilities: &[f32],
        familiarity: Option<f32>,
    ) -> Self {
        let mut ranked: Vec<_> = class_names
            .iter()
            .cloned()
            .zip(probabilities.iter().copied())
            .collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        Self {
            ranked,
            familiar: familiarity.is_none_or(|score| score >= 1.0),
            familiarity,
        }
    }

    /// The most probable class.
    pub fn class(&self) -> &str {
        &self.ranked[0].0
    }

    /// The most probable class, or `otherwise` for a picture unlike those the classifier was trained on.
    pub fn class_or<'a>(&'a self, otherwise: &'a str) -> &'a str {
        if self.familiar {
            self.class()
        } else {
            otherwise
        }
    }

    /// The probability of a class; none for a name the classifier does not know.
    pub fn probability(&self, class: &str) -> Option<f32> {
        self.ranked
            .iter()
            .find(|(name, _)| name == class)
            .map(|(_, probability)| *probability)
    }
}

impl fmt::Display for Prediction {
    /// Such as `santa 97.3 %, not_santa 2.7 %`: the first ten classes; before them `unlike anything it was trained on:` for
    /// a picture that is not familiar.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const PRINTED: usize = 10;
        if !self.familiar {
            write!(f, "unlike anything it was trained on: ")?;
        }
        for (index, (name, probability)) in self.ranked.iter().take(PRINTED).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{name} {:.1} %", 100.0 * probability)?;
        }
        match self.ranked.len().saturating_sub(PRINTED) {
            0 => Ok(()),
            more => write!(f, ", … and {more} classes more"),
        }
    }
}
