//! A study as a page of text.

use std::fmt;

use super::study::{PartReport, Study};
use crate::words::count;

/// How many pictures of a list are printed.
const PRINTED: usize = 10;

impl<B> fmt::Display for Study<B> {
    /// What is there, how good a head gets and how sure that is, which pictures to look at first, what leaks, whether more
    /// pictures would help, and what to try next.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "What is there")?;
        for part in &self.parts {
            writeln!(f, "  {}", line(part))?;
        }
        writeln!(f, "\nHow good a linear head on frozen features gets")?;
        self.write_figures(f)?;
        writeln!(f, "\nPictures to look at first")?;
        self.write_pictures(f)?;
        writeln!(f, "\nPictures that are there twice")?;
        let pairs = self.duplicates.pairs();
        let leaks = pairs.iter().filter(|pair| pair.leaks()).count();
        let contradictions = pairs.iter().filter(|pair| pair.contradicts()).count();
        match pairs.len() {
            0 => writeln!(f, "  none was found")?,
            n => writeln!(
                f,
                "  {}: {leaks} across parts, {contradictions} with different labels",
                count(n, "pair")
            )?,
        }
        list(f, pairs.iter().map(|pair| pair.to_string()))?;
        writeln!(f, "\nWhat to try next")?;
        for advice in &self.advice {
            writeln!(f, "  - {advice}")?;
        }
        Ok(())
    }
}

impl<B> Study<B> {
    fn write_figures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.estimate {
            None => writeln!(
                f,
                "  no estimate: a class has a single picture, so none can be held out"
            )?,
            Some(estimate) => {
                let folds = estimate.folds.len();
                writeln!(
                    f,
                    "  on pictures it has not seen, by {folds}-fold cross-validation:"
                )?;
                let text = estimate.to_string();
                text.lines().try_for_each(|line| writeln!(f, "  {line}"))?;
            }
        }
        for part in &self.parts {
            if let Some(accuracy) = &part.accuracy {
                writeln!(f, "  on {}: {accuracy}", part.name)?;
            }
        }
        if let Some(calibration) = &self.calibration {
            writeln!(f, "  {calibration}")?;
        }
        if let Some(doubt) = &self.doubt {
            writeln!(f, "  {doubt}")?;
        }
        for point in &self.curve {
            let pictures = count(point.pictures, "training picture");
            writeln!(f, "  with {pictures}: {}", point.accuracy)?;
        }
        Ok(())
    }

    fn write_pictures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let likely: Vec<_> = self.suspects.likely().collect();
        writeln!(
            f,
            "  {} whose label is likely wrong",
            count(likely.len(), "picture")
        )?;
        list(
            f,
            likely.iter().map(|suspect| {
                let (path, class) = (suspect.path.display(), &suspect.class);
                format!(
                    "{path}: labelled {class}, looks like {}",
                    suspect.looks_like
                )
            }),
        )?;
        writeln!(
            f,
            "  {} unlike the others of their class",
            count(self.outliers.len(), "picture")
        )?;
        list(
            f,
            self.outliers
                .iter()
                .map(|outlier| format!("{} ({})", outlier.path.display(), outlier.class)),
        )?;
        let unfit = self.parts.iter().flat_map(|part| &part.unfit);
        let unfit: Vec<_> = unfit.collect();
        writeln!(
            f,
            "  {} broken, tiny or blank",
            count(unfit.len(), "picture")
        )?;
        list(
            f,
            unfit
                .iter()
                .map(|unfit| format!("{}: {}", unfit.path.display(), unfit.reason)),
        )
    }
}

/// A part of the data in one line.
fn line(part: &PartReport) -> String {
    let classes: Vec<String> = part
        .counts
        .iter()
        .take(PRINTED)
        .map(|(class, number)| format!("{class} {number}"))
        .collect();
    let more = match part.counts.len().saturating_sub(PRINTED) {
        0 => String::new(),
        more => format!(", … and {more} classes more"),
    };
    format!(
        "{}: {} ({}{more})",
        part.name,
        count(part.pictures, "picture"),
        classes.join(", ")
    )
}

/// The first of some lines, and how many there are more.
fn list(f: &mut fmt::Formatter<'_>, lines: impl ExactSizeIterator<Item = String>) -> fmt::Result {
    let more = lines.len().saturating_sub(PRINTED);
    for line in lines.take(PRINTED) {
        writeln!(f, "    {line}")?;
    }
    match more {
        0 => Ok(()),
        more => writeln!(f, "    … and {more} more"),
    }
}
