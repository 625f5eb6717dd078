//! Whether there is enough to train on, and to validate on.

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::words::some;

/// Refuses pictures that nothing can be learnt from: none, or those of one class.
pub(super) fn check(train: &Dataset) -> Result<()> {
    let counts = train.counts();
    let mut present = counts.iter().zip(train.class_names());
    let present: Vec<&String> = present
        .by_ref()
        .filter(|(count, _)| **count > 0)
        .map(|(_, name)| name)
        .collect();
    let reason = match present.as_slice() {
        [] => "no pictures to train on".to_owned(),
        [only] => {
            format!("pictures of class `{only}` alone: two classes or more are needed to train")
        }
        _ => return Ok(()),
    };
    Err(Error::Dataset {
        path: train.root().to_owned(),
        source: reason.into(),
    })
}

/// What there is too little of.
pub(super) fn warnings(train: &Dataset, validation: &Dataset) -> Vec<String> {
    let with = |dataset: &Dataset, wanted: usize| -> Vec<String> {
        let counts = dataset.counts().into_iter().zip(dataset.class_names());
        let found = counts.filter(|(count, _)| *count == wanted);
        found.map(|(_, name)| format!("`{name}`")).collect()
    };
    let mut warnings = Vec::new();
    let mut warn = |classes: Vec<String>, what: &str| {
        if !classes.is_empty() {
            warnings.push(format!("{what}: {}", some(&classes, 5)));
        }
    };
    warn(with(train, 0), "training: no picture of class");
    warn(with(train, 1), "training: one picture alone of class");
    if validation.is_empty() {
        let absent = "validation: no pictures, so its figures are absent and early stopping has nothing to go by";
        warnings.push(absent.to_owned());
    } else {
        warn(with(validation, 0), "validation: no picture of class");
    }
    warnings
}
