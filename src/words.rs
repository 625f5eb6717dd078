//! Words that several messages share.

use std::path::Path;

/// A number of things: `1 epoch`, `2 epochs`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}

/// The first few of a list, and how many more there are.
pub(crate) fn some(items: &[String], shown: usize) -> String {
    let mut text = items[..items.len().min(shown)].join("; ");
    if items.len() > shown {
        text.push_str(&format!("; and {} more", items.len() - shown));
    }
    text
}

/// A figure that may be absent, with so many decimals: a dash stands for none.
pub(crate) fn figure(value: Option<f64>, decimals: usize) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.decimals$}"))
}

/// Writes a path as text. JSON has no other, while a name may have bytes that are none: a mark stands for these.
pub(crate) fn path<P: AsRef<Path>, S: serde::Serializer>(
    path: &P,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.as_ref().display())
}
