//! What a study found that someone should look at, apart from the study: it can be kept, and shown in a report.

use std::path::Path;

use super::duplicates::Duplicate;
use super::study::Study;
use super::suspects::Suspect;
use crate::error::{Error, Result};
use crate::{bounds, files};

/// Pictures that someone should look at, of a study or of the JSON that it wrote.
///
/// ```no_run
/// use headstart::study::{Oddities, Study};
/// use headstart::{ConvBase, Dataset, Device};
///
/// let study = Study::of(&ConvBase::compact(&Device::Cpu)?, &Dataset::open("pictures")?)?;
/// study.write_json("study.json")?;
/// assert_eq!(study.oddities().duplicates, Oddities::load("study.json")?.duplicates);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
pub struct Oddities {
    /// Training pictures whose labels are likely wrong, the least believed first.
    pub suspects: Vec<Suspect>,
    /// Pictures that are there twice: leaks first, then contradictions.
    pub duplicates: Vec<Duplicate>,
}

impl Oddities {
    /// Those in the JSON that [`Study::write_json`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = files::read(path, bounds::FILE).map_err(Error::io(path))?;
        let mut oddities: Self =
            serde_json::from_slice(&bytes).map_err(Error::format("a study as JSON", path))?;
        oddities.suspects.retain(|suspect| suspect.is_likely);
        oddities
            .check()
            .map_err(Error::format("a study as JSON", path))?;
        Ok(oddities)
    }

    /// Refuses figures that no study writes.
    fn check(&self) -> Result<(), String> {
        let suspects = self.suspects.iter();
        let shares = suspects.flat_map(|suspect| [suspect.confidence, suspect.probability]);
        let pairs = self.duplicates.iter().map(|pair| pair.similarity);
        // Rounding may leave a correlation a little above 1.
        let bad = shares
            .map(|share| (share, 0.0..=1.0))
            .chain(pairs.map(|similarity| (similarity, -1.01..=1.01)))
            .find(|(figure, range)| !range.contains(figure));
        match bad {
            Some((figure, _)) => Err(format!("{figure} is no probability or correlation")),
            None => Ok(()),
        }
    }
}

impl<B> Study<B> {
    /// The pictures that someone should look at.
    pub fn oddities(&self) -> Oddities {
        Oddities {
            suspects: self.suspects.likely().cloned().collect(),
            duplicates: self.duplicates.pairs().to_vec(),
        }
    }
}
