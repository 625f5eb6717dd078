//! Tables of text as CSV (RFC 4180).

use std::path::Path;

use crate::atomic_file;
use crate::error::Result;

/// Writes a table, whole or not at all.
pub(super) fn write(
    path: &Path,
    header: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
) -> Result<()> {
    let mut text = header.join(",") + "\n";
    for row in rows {
        let fields: Vec<String> = row.into_iter().map(field).collect();
        text.push_str(&(fields.join(",") + "\n"));
    }
    atomic_file::write(path, |file| file.write_all(text.as_bytes()))
}

fn field(text: String) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}
