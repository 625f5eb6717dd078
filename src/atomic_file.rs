//! Files that are whole or not there.

use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// What the names of files begin with that are not whole yet.
const PREFIX: &str = ".headstart-";

/// Writes a file beside `path`, flushes it to the disk, then renames it into place and flushes the folder:
/// whoever looks sees the old file or the new one, never a part, whenever the machine stops.
pub(crate) fn write(
    path: &Path,
    content: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let attempt = || {
        require_replaceable(path)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        // A temporary file is the owner's alone by default; a saved one follows the umask like any other.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        let mut buffered = BufWriter::new(file.as_file_mut());
        content(&mut buffered)?;
        buffered.flush()?;
        drop(buffered);
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        // Elsewhere a folder cannot be opened as a file.
        #[cfg(unix)]
        std::fs::File::open(folder)?.sync_all()?;
        Ok(())
    };
    attempt().map_err(Error::io(path))
}

/// Refuses to put a file in the place of what is none, such as a pipe or `/dev/null`, or of a link of the system's,
/// such as `/dev/stdout`. Another link is replaced, never written through.
fn require_replaceable(path: &Path) -> std::io::Result<()> {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if is_link
        && ["/dev", "/proc", "/sys"]
            .iter()
            .any(|system| path.starts_with(system))
    {
        return Err(std::io::Error::other(
            "a link of the system's is there, which is not written over",
        ));
    }
    match std::fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let found = if metadata.is_dir() {
                "a folder is there, not a file"
            } else {
                "a pipe or a device is there, which is not written over"
            };
            Err(std::io::Error::other(found))
        }
        _ => Ok(()),
    }
}

/// Removes what a killed process left unfinished in a folder that is this one's alone.
pub(crate) fn clear_leftovers(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && entry.file_name().to_string_lossy().starts_with(PREFIX) {
            std::fs::remove_file(entry.path()).map_err(Error::io(entry.path()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model");
        write(&path, |file| file.write_all(b"old")).unwrap();
        let failed = write(&path, |file| {
            file.write_all(b"half of the new")?;
            Err(std::io::Error::other("disk full"))
        });
        assert!(failed.unwrap_err().to_string().contains("disk full"));
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    #[cfg(unix)]
    fn pipes_folders_and_devices_are_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        std::fs::create_dir(place("folder")).unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(place("pipe"))
            .status();
        assert!(made.unwrap().success());
        std::os::unix::fs::symlink("/dev/null", place("link")).unwrap();
        for name in ["folder", "pipe", "link"] {
            let error = write(&place(name), |file| file.write_all(b"new")).unwrap_err();
            assert!(error.to_string().contains("is there"), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        // To whatever the output was led.
        assert!(require_replaceable(Path::new("/dev/stdout")).is_err());
    }

    #[test]
    fn a_missing_folder_is_named() {
        let path = Path::new("no/such/folder/model");
        let error = write(path, |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("no/such/folder"), "{error}");
    }
}
