//! Which pictures belong together, so that none of them says what another's label is.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What pictures of one origin have in common.
type Key = dyn Fn(&Path) -> Option<String> + Send + Sync;

/// Which pictures are of one origin: a burst, a video, a patient, one picture and its copies. Cross-validation keeps them
/// in one fold: else a picture that is nearly known already counts as a new one.
///
/// ```
/// use headstart::study::Groups;
/// use std::path::Path;
///
/// // cat/tom_01.jpg and cat/tom_02.jpg are pictures of Tom.
/// let groups = Groups::pattern("{}_*.jpg");
/// assert_eq!(groups.of(Path::new("cat/tom_01.jpg")).as_deref(), Some("tom"));
/// assert_eq!(groups.of(Path::new("cat/other.jpg")), None);
/// ```
#[derive(Clone)]
pub struct Groups(Arc<Key>);

impl Groups {
    /// Each picture is a group of its own.
    pub fn none() -> Self {
        Self::by(|_| None)
    }

    /// Pictures in one folder are a group: for class folders with a folder for each origin, `cat/tom/1.jpg`.
    pub fn folders() -> Self {
        Self::by(|path| Some(path.parent()?.to_string_lossy().into_owned()))
    }

    /// Pictures whose file names have the same text where the pattern has `{}` are a group; `*` stands for any text, and
    /// either is as short as it can be. A name that does not fit is a group of its own.
    pub fn pattern(pattern: impl Into<String>) -> Self {
        let pattern = pattern.into();
        Self::by(move |path| captured(&pattern, &path.file_name()?.to_string_lossy()))
    }

    /// Pictures for whose path the function gives the same text are a group; one without a text is a group of its own.
    pub fn by(key: impl Fn(&Path) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(key))
    }

    /// Pictures with the same number are a group, those that are not named one of their own.
    pub(super) fn numbered(numbers: HashMap<PathBuf, usize>) -> Self {
        Self::by(move |path| numbers.get(path).map(usize::to_string))
    }

    /// What a picture has in common with those of its group; none for one that stands alone.
    pub fn of(&self, path: &Path) -> Option<String> {
        (self.0)(path)
    }

    /// A number for each path, equal within groups.
    pub(super) fn numbers(&self, paths: &[PathBuf]) -> Vec<usize> {
        let mut known: HashMap<String, usize> = HashMap::new();
        let number = |(index, path): (usize, &PathBuf)| match self.of(path) {
            None => index,
            Some(key) => *known.entry(key).or_insert(index),
        };
        paths.iter().enumerate().map(number).collect()
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Groups")
    }
}

/// What a name has where the pattern has `{}`; none where it does not fit.
fn captured(pattern: &str, name: &str) -> Option<String> {
    let (before, after) = pattern.split_once("{}")?;
    let starts = (0..=name.len()).filter(|at| name.is_char_boundary(*at));
    for start in starts.filter(|at| fits(before, &name[..*at])) {
        let ends = (start..=name.len()).filter(|at| name.is_char_boundary(*at));
        for end in ends {
            if fits(after, &name[end..]) {
                return Some(name[start..end].to_owned());
            }
        }
    }
    None
}

/// Whether a text is what a pattern says, `*` standing for any text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((literal, rest)) => text.strip_prefix(literal).is_some_and(|text| {
            let mut places = (0..=text.len()).filter(|at| text.is_char_boundary(*at));
            places.any(|at| fits(rest, &text[at..]))
        }),
    }
}
