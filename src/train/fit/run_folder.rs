//! A folder that belongs to one run at a time.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files;

/// The file that is locked while a run goes on, with the number of its process.
const LOCK: &str = "run.lock";

/// A folder that belongs to this run until it is dropped: two runs in one folder would overwrite each other's files.
/// A trainer that keeps [`Checkpoints`](crate::Checkpoints) takes their folder so; a program that writes more into one
/// can take it itself.
///
/// It is a file, `run.lock`, that is locked. The lock ends with its process, however that ends: what a killed run left
/// is taken over.
///
/// ```
/// use headstart::train::RunFolder;
///
/// let folder = tempfile::tempdir().unwrap();
/// let mine = RunFolder::take(folder.path())?;
/// let refused = RunFolder::take(folder.path()).unwrap_err().to_string();
/// assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
/// drop(mine);
/// RunFolder::take(folder.path())?;
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Locked while it is open.
    file: File,
}

impl RunFolder {
    /// Takes a folder, which is made if need be.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] when another run has it, with the number of its process; [`Error::Io`] when it cannot be
    /// written to.
    pub fn take(folder: impl AsRef<Path>) -> Result<Self> {
        let folder = folder.as_ref();
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(LOCK);
        loop {
            let mut file = files::open_own(&path).map_err(Error::io(&path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut owner = String::new();
                    // Only for the message.
                    let _ = file.take(64).read_to_string(&mut owner);
                    let owner = owner.trim();
                    let reason = format!(
                        "another run ({owner}) works in this folder: wait for its end, or choose another folder"
                    );
                    return Err(Error::Checkpoint {
                        path: folder.to_owned(),
                        source: reason.into(),
                    });
                }
                Err(TryLockError::Error(error)) => return Err(Error::io(path)(error)),
            }
            // Whoever had it before may have removed the file between opening and locking.
            if !is_at(&file, &path) {
                continue;
            }
            let process = format!("process {}\n", std::process::id());
            file.set_len(0)
                .and_then(|()| file.rewind())
                .and_then(|()| file.write_all(process.as_bytes()))
                .map_err(Error::io(&path))?;
            return Ok(Self { path, file });
        }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // While it is locked still, so that nobody else's file is removed.
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Whether a path still leads to an open file.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let open = file.metadata().map(place).ok();
        open.is_some() && open == fs::symlink_metadata(path).map(place).ok()
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}
