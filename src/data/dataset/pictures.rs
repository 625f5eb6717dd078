//! Pictures without labels: all those below a folder, or in a tar archive.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use walkdir::{DirEntry, WalkDir};

use super::archive::{Contents, Kind};
use super::item::{Item, Source};
use super::options::DatasetOptions;
use super::scan::{LeftOut, require_picture};
use crate::data::decode::HEAD;
use crate::error::{Cause, Error, Result};

/// The pictures below a folder, by name, folder by folder; those in an uncompressed tar archive, in its order; or one
/// file. Labels are 0. What is found beside pictures, and cannot be one, comes as an error; hidden files and what
/// systems put beside pictures are [left out](DatasetOptions::LEFT_OUT), and so are WebDataset's labels.
///
/// A folder of any size takes no memory; an archive's headers are read first, 200 bytes a member.
///
/// ```
/// # let folder = tempfile::tempdir().unwrap();
/// # for name in ["2.jpg", "1.jpg", "notes.txt"] {
/// #     std::fs::write(folder.path().join(name), "some text").unwrap();
/// # }
/// // 1.jpg, 2.jpg, notes.txt
/// let found: Vec<_> = headstart::data::pictures(folder.path())?.collect();
/// assert_eq!(found[0].as_ref().unwrap().path, folder.path().join("1.jpg"));
/// assert!(found[2].as_ref().unwrap_err().to_string().contains("notes.txt"));
/// # Ok::<(), headstart::Error>(())
/// ```
///
/// # Errors
/// [`Error::Io`] where there is nothing of that name; those of [`Dataset::open_tar`](super::Dataset::open_tar) for an
/// archive that cannot be read.
pub fn pictures(path: impl AsRef<Path>) -> Result<Box<dyn Iterator<Item = Result<Item>> + Send>> {
    let path = path.as_ref();
    let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
    if metadata.is_dir() {
        std::fs::read_dir(path).map_err(Error::io(path))?;
        return Ok(Box::new(below(path)));
    }
    let is_tar = |name: &std::ffi::OsStr| name.eq_ignore_ascii_case("tar");
    if path.extension().is_some_and(is_tar) {
        return Ok(Box::new(members(path)?));
    }
    Ok(Box::new(std::iter::once(Ok(item(
        path.to_owned(),
        0,
        Source::File,
    )))))
}

fn item(path: PathBuf, id: u64, source: Source) -> Item {
    Item {
        path,
        label: 0,
        id,
        source,
    }
}

fn below(folder: &Path) -> impl Iterator<Item = Result<Item>> + Send + use<> {
    let left_out = LeftOut(DatasetOptions::LEFT_OUT.map(ToOwned::to_owned).to_vec());
    let walk = WalkDir::new(folder).follow_links(true).sort_by_file_name();
    let entries = walk.into_iter().filter_entry(move |entry| {
        entry.depth() == 0 || !left_out.contains(entry.file_name().as_encoded_bytes())
    });
    let files =
        entries.filter(|entry| !entry.as_ref().is_ok_and(|entry| entry.file_type().is_dir()));
    let folder = folder.to_owned();
    files.zip(0..).map(move |(entry, id)| {
        let unusable = |path: &Path, source: Cause| Error::Picture {
            path: path.to_owned(),
            source,
        };
        let entry = entry.map_err(|error| {
            let path = error.path().unwrap_or(&folder).to_owned();
            unusable(&path, error.into())
        })?;
        judge(&entry).map_err(|reason| unusable(entry.path(), reason))?;
        Ok(item(entry.into_path(), id, Source::File))
    })
}

/// Whether a file may be a picture.
fn judge(entry: &DirEntry) -> Result<(), Cause> {
    if !entry.file_type().is_file() {
        return Err("neither a file nor a folder".into());
    }
    require_picture(entry.path(), || {
        let mut head = Vec::new();
        File::open(entry.path())?
            .take(HEAD as u64)
            .read_to_end(&mut head)?;
        Ok(head)
    })
}

fn members(archive: &Path) -> Result<impl Iterator<Item = Result<Item>> + Send + use<>> {
    let archive: Arc<Path> = Arc::from(archive);
    let left_out = LeftOut(DatasetOptions::LEFT_OUT.map(ToOwned::to_owned).to_vec());
    let contents = Contents::read(&archive, &left_out)?;
    let unusable = |path: PathBuf, reason: String| Error::Picture {
        path,
        source: reason.into(),
    };
    let of_archive = archive.clone();
    let problems = contents.problems.into_iter();
    let problems = problems.map(move |(name, reason)| {
        Err(unusable(
            super::tar::member_path(&of_archive, &name),
            reason,
        ))
    });
    let members = contents.members.into_iter().zip(0..);
    let members = members.filter_map(move |(content, id)| {
        let path = archive.join(content.name);
        match content.kind {
            Kind::Picture(member) => Some(Ok(item(path, id, Source::Member(member)))),
            Kind::Label(_) => None,
            Kind::Other(reason) => Some(Err(unusable(path, reason))),
        }
    });
    Ok(members.chain(problems))
}
