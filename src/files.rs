//! Opening files: regular ones alone, since a pipe or a device may keep whoever reads it waiting for ever.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// Opens a regular file for reading, through links.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_with(path, OpenOptions::new().read(true))
}

/// Reads a regular file of at most so many bytes.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let length = file.metadata()?.len();
    if length > most {
        return Err(io::Error::other(format!(
            "{length} bytes are too many: at most {most} are read"
        )));
    }
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(length as usize)?;
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a file with these options, if it is a regular one. One that does not exist yet may be made.
pub(crate) fn open_with(path: &Path, options: &OpenOptions) -> io::Result<File> {
    // Opening a pipe waits for its other end, so it is asked first what it is.
    match fs::metadata(path) {
        Ok(metadata) => require_regular(&metadata)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let file = unblocked(options, false).open(path)?;
    // It may have been exchanged meanwhile.
    require_regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens a file for reading and writing that may lie where others can write: it is made if it is not there, and one
/// that is there must be a file of its own, no link to another.
pub(crate) fn open_own(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    match unblocked(&options, true).create_new(true).open(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        outcome => return outcome,
    }
    require_own(&fs::symlink_metadata(path)?)?;
    let file = unblocked(&options, true).open(path)?;
    require_own(&file.metadata()?)?;
    Ok(file)
}

/// Options that neither wait for the other end of a pipe nor, where `own`, follow a link that took the file's place
/// since it was looked at.
fn unblocked(options: &OpenOptions, own: bool) -> OpenOptions {
    #[allow(unused_mut, reason = "elsewhere there are no flags")]
    let mut options = options.clone();
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let links = if own { libc::O_NOFOLLOW } else { 0 };
        options.custom_flags(libc::O_NONBLOCK | links);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = own;
    options
}

fn require_regular(metadata: &fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let found = if metadata.is_dir() {
        "a folder, not a file"
    } else {
        "not a regular file: a pipe or a device"
    };
    Err(io::Error::new(ErrorKind::InvalidInput, found))
}

fn require_own(metadata: &fs::Metadata) -> io::Result<()> {
    let refused = |found: &str| {
        let reason = format!("{found}: it is not written to, remove it");
        Err(io::Error::new(ErrorKind::InvalidInput, reason))
    };
    if metadata.is_symlink() {
        return refused("a link to another file");
    }
    require_regular(metadata)?;
    #[cfg(unix)]
    if std::os::unix::fs::MetadataExt::nlink(metadata) > 1 {
        return refused("a file that has another name too");
    }
    Ok(())
}

/// What a file is, by its first bytes, that was taken for a safetensors file. Only for a start that no such file has:
/// it begins with its header's length, and so with any two bytes.
pub(crate) fn kind(start: &[u8]) -> Option<&'static str> {
    let kinds: [(&[u8], &str); 8] = [
        (
            b"version https://git-lfs",
            "a Git LFS pointer, not the file it stands for: `git lfs pull` fetches that",
        ),
        (
            b"PK\x03\x04",
            "a zip archive, such as PyTorch's .pt and .pth: save it as safetensors first",
        ),
        (
            b"\x80\x02",
            "a Python pickle, such as PyTorch's .pt and .pth: save it as safetensors first",
        ),
        (
            b"\x89HDF",
            "an HDF5 file, such as Keras's .h5: save it as safetensors first",
        ),
        (b"\x1f\x8b", "a gzip archive: unpack it first"),
        (b"GGUF", "a GGUF file: save it as safetensors first"),
        (b"<!", "a page of HTML, not the file it was fetched for"),
        (b"<html", "a page of HTML, not the file it was fetched for"),
    ];
    let found = kinds
        .into_iter()
        .find(|(magic, _)| start.starts_with(magic));
    found.map(|(_, kind)| kind)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_regular_files_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"numbers").unwrap();
        assert_eq!(read(&path, 7).unwrap(), b"numbers");
        assert!(read(&path, 6).unwrap_err().to_string().contains("too many"));
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(read(&link, 7).unwrap(), b"numbers");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        for path in [pipe.as_path(), Path::new("/dev/zero"), folder.path()] {
            let error = open(path).unwrap_err().to_string();
            assert!(error.contains("not a"), "{}: {error}", path.display());
        }
    }

    #[test]
    fn a_file_of_ones_own_is_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        open_own(&own).unwrap();
        open_own(&own).unwrap();
        let victim = folder.path().join("victim");
        fs::write(&victim, b"precious").unwrap();
        let links = ["link", "dangling", "hard"].map(|name| folder.path().join(name));
        symlink(&victim, &links[0]).unwrap();
        symlink(folder.path().join("nowhere"), &links[1]).unwrap();
        fs::hard_link(&victim, &links[2]).unwrap();
        for link in links {
            let error = open_own(&link).unwrap_err().to_string();
            assert!(error.contains("remove it"), "{}: {error}", link.display());
        }
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert!(!folder.path().join("nowhere").exists());
    }
}
