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

/// A file of ours as formats without a checksum had it, with the classifier's description changed, if there is one.
pub fn unsealed(path: &Path, change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    let data = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..data]).unwrap();
    let entries = header["__metadata__"].as_object_mut().unwrap();
    entries.remove("blake3").unwrap();
    entries.remove("written_by").unwrap();
    if let Some(entry) = entries.get_mut("headstart") {
        let mut description: serde_json::Value =
            serde_json::from_str(entry.as_str().unwrap()).unwrap();
        description["format"] = 2.into();
        change(&mut description);
        *entry = description.to_string().into();
    }
    let header = header.to_string().into_bytes();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file.extend(&bytes[data..]);
    file
}

/// A pipe that nobody writes to.
#[cfg(unix)]
pub fn pipe(path: &Path) {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    assert!(made.unwrap().success());
}
