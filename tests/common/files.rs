//! Files for a test, and where the fixtures are.
#![allow(dead_code, reason = "no test binary asks for all of them")]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A file or folder below `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fixtures.join(name)
}

/// A temporary folder with these (empty) files; a name ending in `/` makes a folder.
pub fn tree<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for name in names {
        let path = root.path().join(name.as_ref());
        if name.as_ref().ends_with('/') {
            fs::create_dir_all(path).unwrap();
        } else {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
    }
    root
}

/// What an error says.
pub fn message<T: std::fmt::Debug>(result: headstart::Result<T>) -> String {
    result.unwrap_err().to_string()
}
