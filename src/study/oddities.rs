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
        Ok(oddities)
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
