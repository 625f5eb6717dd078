//! One tar archive → where its pictures lie.
//!
//! Only headers are read (and WebDataset's class numbers, a few bytes each); pictures are read later, by
//! offset. Nothing is ever unpacked.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use tar::{Entry, EntryType};

use super::item::Member;
use super::scan::{check_classes, dataset_error, is_picture};
use crate::error::{Error, Result, While};

/// The most bytes that `classes.txt` may take.
const MAX_CLASS_NAMES: u64 = 1 << 20;

/// The most bytes that a member with a class number may take.
const MAX_CLASS_NUMBER: u64 = 64;

/// The most bytes that are read in one go: far beyond any system's longest path.
const MAX_READ: u64 = 2 << 20;

/// The unit of a tar archive, in bytes.
const BLOCK: u64 = 512;

/// What one archive holds.
#[derive(Default)]
pub(super) struct Contents {
    /// Its pictures; in a WebDataset shard, those with a class number.
    pub(super) pictures: Vec<Picture>,
    /// Whether there are class numbers in it.
    pub(super) is_webdataset: bool,
    /// The lines of `classes.txt`.
    pub(super) class_names: Option<Vec<String>>,
    /// Members that look like pictures and cannot be used: name, reason.
    pub(super) problems: Vec<(String, String)>,
}

pub(super) struct Picture {
    pub(super) name: String,
    pub(super) member: Member,
    pub(super) class_number: Option<usize>,
}

/// WebDataset's class numbers by key; an error is what was there instead of a number.
type ClassNumbers = HashMap<String, Result<usize, String>>;

impl Contents {
    /// Reads an archive's headers.
    pub(super) fn read(archive: &Arc<Path>) -> Result<Self> {
        let (file, archive_len) = open(archive)?;
        let mut tar = tar::Archive::new(Headers {
            file,
            since_seek: 0,
        });
        let mut contents = Self::default();
        let mut class_numbers = ClassNumbers::new();
        let mut end = 0;
        let entries = tar.entries_with_seek();
        for entry in entries.map_err(|error| damaged(archive, error))? {
            let mut entry = entry.map_err(|error| damaged(archive, error))?;
            let member = locate(archive, &entry, archive_len)?;
            end = member.offset + member.len;
            contents.add(&mut entry, member, &mut class_numbers)?;
        }
        // An archive that was cut between two members looks whole but for its end mark, a block of zeros.
        if end.div_ceil(BLOCK) * BLOCK + BLOCK > archive_len {
            return Err(dataset_error(
                archive,
                "cut short: the end mark of a tar archive is missing",
            ));
        }
        if !class_numbers.is_empty() {
            contents.number_pictures(&class_numbers);
        }
        Ok(contents)
    }

    /// Takes in a member, if it is one of a dataset's.
    fn add(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        member: Member,
        class_numbers: &mut ClassNumbers,
    ) -> Result<()> {
        let archive = member.archive.clone();
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::Directory | EntryType::XGlobalHeader) {
            return Ok(());
        }
        let name = member_name(&archive, &entry.path_bytes())?;
        if name.split('/').any(|part| part.starts_with('.')) {
            return Ok(());
        }
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous);
        let (key, extension) = split_key(&name);
        if name == "classes.txt" && is_file {
            self.class_names = Some(class_names(&archive, entry)?);
        } else if extension.eq_ignore_ascii_case("cls") && is_file {
            let number = class_number(entry).map_err(|error| damaged(&archive, error))?;
            class_numbers.insert(key.to_owned(), number);
        } else if is_picture(Path::new(&name)) && is_file {
            self.pictures.push(Picture {
                name,
                member,
                class_number: None,
            });
        } else if is_picture(Path::new(&name)) {
            let reason = "a link or a special file: in an archive, only plain files are read";
            self.problems.push((name, reason.into()));
        }
        Ok(())
    }

    /// Gives each picture its class number; those without become problems.
    fn number_pictures(&mut self, class_numbers: &ClassNumbers) {
        self.is_webdataset = true;
        for mut picture in std::mem::take(&mut self.pictures) {
            let (key, extension) = split_key(&picture.name);
            // `key.mask.png` is no picture of its own.
            if extension.contains('.') {
                continue;
            }
            let reason = match class_numbers.get(key) {
                Some(Ok(number)) => {
                    picture.class_number = Some(*number);
                    self.pictures.push(picture);
                    continue;
                }
                Some(Err(found)) => {
                    format!("`{key}.cls` holds {found:?}, and not a class number, 0 or more")
                }
                None => format!("`{key}.cls`, with its class number, is missing"),
            };
            self.problems.push((picture.name, reason));
        }
    }
}

/// Opens an archive and says how long it is.
fn open(archive: &Path) -> Result<(File, u64)> {
    // Opening a pipe could wait forever.
    let metadata = fs::metadata(archive).map_err(Error::io(archive))?;
    if !metadata.is_file() {
        return Err(dataset_error(archive, "not a file, so no tar archive"));
    }
    let mut file = File::open(archive).map_err(Error::io(archive))?;
    let mut magic = Vec::new();
    (&mut file)
        .take(6)
        .read_to_end(&mut magic)
        .and_then(|_| file.rewind())
        .map_err(Error::io(archive))?;
    match compression(&magic) {
        Some(compression) => Err(dataset_error(
            archive,
            format!(
                "compressed with {compression}: pictures are read by their offset in the archive, so unpack it \
                 to an uncompressed tar file first (pictures are compressed already)"
            ),
        )),
        None => Ok((file, metadata.len())),
    }
}

fn compression(magic: &[u8]) -> Option<&'static str> {
    let known: [(&[u8], &str); 5] = [
        (b"\x1f\x8b", "gzip"),
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"\x04\x22\x4d\x18", "lz4"),
    ];
    let found = known.iter().find(|(start, _)| magic.starts_with(start));
    found.map(|(_, name)| *name)
}

/// Where a member's bytes lie, all of them within the archive.
fn locate(archive: &Arc<Path>, entry: &Entry<'_, impl Read>, archive_len: u64) -> Result<Member> {
    let header = entry.header();
    let offset = entry.raw_file_position();
    let len = match header.entry_type() {
        // `size` counts the holes too.
        EntryType::GNUSparse => header
            .entry_size()
            .map_err(|error| damaged(archive, error))?,
        _ => entry.size(),
    };
    let end = offset.saturating_add(len);
    if end > archive_len {
        let name = entry.path_bytes();
        return Err(dataset_error(
            archive,
            format!(
                "cut short or damaged: `{}` would end at byte {end} of {archive_len}",
                String::from_utf8_lossy(&name).escape_debug(),
            ),
        ));
    }
    Ok(Member {
        archive: archive.clone(),
        offset,
        len,
    })
}

fn damaged(archive: &Path, error: io::Error) -> Error {
    match error.raw_os_error() {
        Some(_) => Error::io(archive)(error),
        None => dataset_error(
            archive,
            While::new("not a tar archive, or a damaged one", error),
        ),
    }
}

/// A member's name without `.` and empty parts.
fn member_name(archive: &Path, bytes: &[u8]) -> Result<String> {
    let refused = |why: &str| {
        let name = String::from_utf8_lossy(bytes);
        format!("member `{}` {why}", name.escape_debug())
    };
    let name = std::str::from_utf8(bytes).map_err(|error| {
        dataset_error(archive, While::new(refused("is not named in UTF-8"), error))
    })?;
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        return Err(dataset_error(
            archive,
            refused("points outside the archive"),
        ));
    }
    let parts = name
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".");
    Ok(parts.collect::<Vec<_>>().join("/"))
}

/// WebDataset's key and extension: before and after the first dot of the file's name.
fn split_key(name: &str) -> (&str, &str) {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        Some(dot) => (&name[..file + dot], &name[file + dot + 1..]),
        None => (name, ""),
    }
}

/// What a `.cls` member says; the inner error is what it holds instead of a number.
fn class_number(member: &mut impl Read) -> io::Result<Result<usize, String>> {
    let mut bytes = Vec::new();
    member.take(MAX_CLASS_NUMBER).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let number = text.trim();
    Ok(number.parse().map_err(|_| number.to_owned()))
}

fn class_names(archive: &Path, member: &mut impl Read) -> Result<Vec<String>> {
    let mut text = String::new();
    let mut member = member.take(MAX_CLASS_NAMES);
    member
        .read_to_string(&mut text)
        .map_err(|error| dataset_error(archive, While::new("classes.txt cannot be read", error)))?;
    let lines = text.trim_end().lines();
    let names: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
    check_classes(&names).map_err(|_| {
        dataset_error(
            archive,
            "classes.txt should hold two or more different class names, one a line, that of class 0 first",
        )
    })
}

/// A file of which little is read between two seeks: a header that claims gigabytes must not fill the memory.
struct Headers {
    file: File,
    since_seek: u64,
}

impl Read for Headers {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.since_seek += count as u64;
        if self.since_seek > MAX_READ {
            return Err(io::Error::other("an extended header is too long"));
        }
        Ok(count)
    }
}

impl Seek for Headers {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.since_seek = 0;
        self.file.seek(to).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => io::Error::other("a size that no file can have"),
            _ => error,
        })
    }
}
