//! One tar archive → where its pictures lie.
//!
//! Only headers are read (and a few bytes of members that may be labels or whose names do not say what they are);
//! pictures are read later, by offset. Nothing is ever unpacked.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use tar::{Entry, EntryType};

use super::item::{Member, Source};
use super::label::{BYTE_ORDER_MARK, Label};
use super::scan::{Found, LeftOut, check_classes, dataset_error, require_picture};
use crate::data::decode::{HEAD, regular_file_len};
use crate::error::{Error, Result, While};

/// The most bytes that `classes.txt` may take.
const MAX_CLASS_NAMES: u64 = 1 << 20;

/// The most bytes that are read in one go: far beyond any system's longest path.
const MAX_READ: u64 = 2 << 20;

/// How far behind an archive's end mark is looked for something.
const MAX_TAIL: u64 = 16 << 20;

/// The unit of a tar archive, in bytes.
const BLOCK: u64 = 512;

/// An archive and what it holds.
pub(super) type Shard = (Arc<Path>, Contents);

/// What one archive holds.
#[derive(Default)]
pub(super) struct Contents {
    /// In the archive's order.
    pub(super) members: Vec<Content>,
    /// The lines of `classes.txt`.
    pub(super) class_names: Option<Vec<String>>,
    /// Members that cannot be used, whatever the layout: name, reason. An empty name stands for the archive.
    pub(super) problems: Vec<(String, String)>,
    /// The names of members that were left out.
    pub(super) left_out: Vec<String>,
}

/// A member by name.
pub(super) struct Content {
    pub(super) name: String,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Picture(Member),
    /// A member ending in `.cls`, or in `.json` with a label in it; an error says what is there instead.
    Label(Result<Label, String>),
    /// Something else, and what it is.
    Other(String),
}

/// A picture of an archive, with its label.
pub(super) fn found(archive: &Path, name: String, member: Member, label: usize) -> Found {
    Found {
        path: archive.join(name),
        label,
        source: Source::Member(member),
    }
}

impl Contents {
    /// Reads an archive's headers.
    pub(super) fn read(archive: &Arc<Path>, left_out: &LeftOut) -> Result<Self> {
        let (file, archive_len) = open(archive)?;
        let mut contents = Self::default();
        // A volume's label has no size, which the tar library takes for damage.
        let base = if is_label(archive)? { BLOCK } else { 0 };
        if base > 0 {
            contents
                .problems
                .push((String::new(), not_a_file(EntryType::new(b'V')).into()));
        }
        let mut headers = Headers {
            file,
            base,
            since_seek: 0,
        };
        headers.rewind().map_err(Error::io(&**archive))?;
        let mut tar = tar::Archive::new(headers);
        let mut end = base;
        let entries = tar.entries_with_seek();
        for entry in entries.map_err(|error| damaged(archive, error))? {
            let mut entry = entry.map_err(|error| damaged(archive, error))?;
            let member = locate(archive, &entry, base, archive_len)?;
            end = member.offset + member.len;
            contents.add(&mut entry, member, left_out)?;
        }
        // An archive that was cut between two members looks whole but for its end mark, a block of zeros.
        let end = end.div_ceil(BLOCK) * BLOCK;
        if end + BLOCK > archive_len {
            return Err(dataset_error(
                archive,
                "cut short: the end mark of a tar archive is missing",
            ));
        }
        let tail = tail(archive, end).map_err(Error::io(&**archive))?;
        contents
            .problems
            .extend(tail.map(|reason| (String::new(), reason)));
        Ok(contents)
    }

    /// Takes in a member.
    fn add(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        member: Member,
        left_out: &LeftOut,
    ) -> Result<()> {
        let archive = member.archive.clone();
        let kind = entry.header().entry_type();
        // Folders, in GNU's incremental archives with a list of what is in them.
        if matches!(kind, EntryType::Directory | EntryType::XGlobalHeader) || kind.as_byte() == b'D'
        {
            return Ok(());
        }
        let name = match member_name(&entry.path_bytes()) {
            Ok(name) => name,
            Err((name, reason)) => {
                self.problems.push((name, reason.into()));
                return Ok(());
            }
        };
        if name
            .split('/')
            .any(|part| left_out.contains(part.as_bytes()))
        {
            self.left_out.push(name);
            return Ok(());
        }
        if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
            self.problems.push((name, not_a_file(kind).into()));
            return Ok(());
        }
        let path = Path::new(&name);
        let is = |extension: &str| {
            let found = path.extension().and_then(|found| found.to_str());
            found.is_some_and(|found| found.eq_ignore_ascii_case(extension))
        };
        let kind = if name == "classes.txt" {
            self.class_names = Some(class_names(&archive, entry)?);
            return Ok(());
        } else if is("cls") {
            let label = Label::read(entry).map_err(|error| damaged(&archive, error))?;
            Kind::Label(label)
        } else if is("json")
            && let Some(label) =
                Label::read_json(entry).map_err(|error| damaged(&archive, error))?
        {
            Kind::Label(Ok(label))
        } else {
            let mut head = Vec::new();
            let judged = require_picture(path, || {
                entry.take(HEAD as u64).read_to_end(&mut head)?;
                Ok(head)
            });
            match judged {
                Ok(()) => Kind::Picture(member),
                Err(reason) => Kind::Other(reason.to_string()),
            }
        };
        self.members.push(Content { name, kind });
        Ok(())
    }
}

/// Whether an archive begins with a volume's label.
fn is_label(archive: &Path) -> Result<bool> {
    let mut start = Vec::new();
    let file = File::open(archive).map_err(Error::io(archive))?;
    file.take(BLOCK)
        .read_to_end(&mut start)
        .map_err(Error::io(archive))?;
    let Ok(start) = <[u8; BLOCK as usize]>::try_from(start) else {
        return Ok(false);
    };
    // The checksum counts itself as spaces.
    let bytes = start.iter().enumerate();
    let sum: u32 = bytes
        .map(|(at, byte)| {
            if (148..156).contains(&at) {
                32
            } else {
                u32::from(*byte)
            }
        })
        .sum();
    let header = tar::Header::from_byte_slice(&start);
    Ok(header.entry_type().as_byte() == b'V' && header.cksum().is_ok_and(|told| told == sum))
}

fn not_a_file(kind: EntryType) -> &'static str {
    match kind.as_byte() {
        b'V' => "a volume's label",
        b'M' => "the rest of a file in another volume",
        b'S' => "a sparse file: in an archive, only plain files are read",
        _ => "a link or a special file: in an archive, only plain files are read",
    }
}

/// Says what follows an archive's end mark, but for the zeros it is filled up with.
fn tail(archive: &Path, end: u64) -> io::Result<Option<String>> {
    let mut file = File::open(archive)?;
    let mut at = file.seek(SeekFrom::Start(end))?;
    let mut buffer = vec![0; 1 << 16];
    while at < end + MAX_TAIL {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        if let Some(first) = buffer[..count].iter().position(|byte| *byte != 0) {
            let what = match buffer.get(first + 257..first + 262) {
                Some(b"ustar") => {
                    "another archive, whose members are not read: put them in one archive"
                }
                _ => "bytes that are not read",
            };
            let place = at + first as u64;
            return Ok(Some(format!(
                "after its end mark, at byte {place}, follow {what}"
            )));
        }
        at += count as u64;
    }
    Ok(None)
}

/// Opens an archive and says how long it is.
fn open(archive: &Path) -> Result<(File, u64)> {
    let len = match regular_file_len(archive) {
        Err(Error::Picture { .. }) => {
            return Err(dataset_error(archive, "not a file, so no tar archive"));
        }
        len => len?,
    };
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
        None => Ok((file, len)),
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
fn locate(
    archive: &Arc<Path>,
    entry: &Entry<'_, impl Read>,
    base: u64,
    archive_len: u64,
) -> Result<Member> {
    let header = entry.header();
    let offset = base + entry.raw_file_position();
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

/// A member's name without `.` and empty parts; the error is its name as it can be shown, and why it is not used.
fn member_name(bytes: &[u8]) -> Result<String, (String, &'static str)> {
    let refused = |why| {
        let name = String::from_utf8_lossy(bytes);
        let name = name.trim_start_matches('/').escape_debug();
        Err((name.to_string(), why))
    };
    let Ok(name) = std::str::from_utf8(bytes) else {
        return refused("its name is not in UTF-8");
    };
    if name.starts_with('/') {
        return refused("its name begins with `/`, so it points outside the archive");
    }
    if name.split('/').any(|part| part == "..") {
        return refused("its name points outside the archive");
    }
    let parts = name
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".");
    Ok(parts.collect::<Vec<_>>().join("/"))
}

/// WebDataset's key and extension: before and after the first dot of the file's name.
pub(super) fn split_key(name: &str) -> (&str, &str) {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].find('.') {
        Some(dot) => (&name[..file + dot], &name[file + dot + 1..]),
        None => (name, ""),
    }
}

/// The name before its last dot, and after it.
pub(super) fn split_stem(name: &str) -> (&str, &str) {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    match name[file..].rfind('.') {
        Some(dot) => (&name[..file + dot], &name[file + dot + 1..]),
        None => (name, ""),
    }
}

fn class_names(archive: &Path, member: &mut impl Read) -> Result<Vec<String>> {
    let mut text = String::new();
    let mut member = member.take(MAX_CLASS_NAMES);
    member
        .read_to_string(&mut text)
        .map_err(|error| dataset_error(archive, While::new("classes.txt cannot be read", error)))?;
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    let lines = text.trim_end().lines();
    let names: Vec<String> = lines.map(|line| line.trim().to_owned()).collect();
    check_classes(&names).map_err(|_| {
        dataset_error(
            archive,
            "classes.txt should hold two or more different class names, one a line, that of class 0 first",
        )
    })
}

/// A file from `base` on, of which little is read between two seeks: a header that claims gigabytes must not fill the
/// memory.
struct Headers {
    file: File,
    base: u64,
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
        let to = match to {
            SeekFrom::Start(at) => SeekFrom::Start(at.saturating_add(self.base)),
            other => other,
        };
        let at = self.file.seek(to).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => io::Error::other("a size that no file can have"),
            _ => error,
        })?;
        Ok(at.saturating_sub(self.base))
    }
}
