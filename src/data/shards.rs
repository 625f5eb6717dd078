//! Tar archives → where their pictures lie.
//!
//! Only headers are read (and WebDataset's class numbers, a few bytes each); pictures are read later, by
//! offset. Nothing is ever unpacked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use tar::EntryType;

use super::directory::{
    Member, Scan, ScannedItem, by_folder, check_classes, dataset_error, is_picture, two_or_more,
};
use crate::{Error, Result};

/// The most `classes.txt` may take.
const MAX_CLASS_NAMES: u64 = 1 << 20;

/// The most a file with a class number may take.
const MAX_CLASS_NUMBER: u64 = 64;

/// The most that is read in one go: far beyond any system's longest path.
const MAX_READ: u64 = 2 << 20;

/// The unit of a tar archive.
const BLOCK: u64 = 512;

/// What one archive holds.
#[derive(Default)]
struct Contents {
    /// Its pictures; in a WebDataset shard, those with a class number.
    pictures: Vec<Picture>,
    /// Whether there are class numbers in it.
    is_webdataset: bool,
    /// The lines of `classes.txt`.
    class_names: Option<Vec<String>>,
    /// Members that look like pictures and cannot be used: name, reason.
    problems: Vec<(String, String)>,
}

struct Picture {
    name: String,
    member: Member,
    class_number: Option<usize>,
}

/// Looks into archives that together are one dataset.
pub(super) fn scan(archives: &[impl AsRef<Path>], wanted: Option<Vec<String>>) -> Result<Scan> {
    let mut shards: Vec<(Arc<Path>, Contents)> = Vec::with_capacity(archives.len());
    for archive in archives {
        let archive: Arc<Path> = Arc::from(archive.as_ref());
        let contents = read(&archive)?;
        shards.push((archive, contents));
    }
    let root = match shards.as_slice() {
        [] => return Err(Error::option("archives", "[]", "one archive or more")),
        [(only, _)] => only.to_path_buf(),
        [(first, _), ..] => first.parent().unwrap_or(first).to_owned(),
    };
    let mut problems = BTreeMap::new();
    for (archive, contents) in &mut shards {
        for (name, reason) in contents.problems.drain(..) {
            problems.insert(archive.join(name), reason);
        }
    }
    let is_webdataset = shards.iter().any(|(_, contents)| contents.is_webdataset);
    let (class_names, items) = if is_webdataset {
        samples(&root, shards, wanted)?
    } else {
        class_folders(&root, shards, wanted)?
    };
    if items.is_empty() {
        return Err(dataset_error(
            &root,
            "no pictures of any class: an archive should hold `class/picture.jpg`, or `key.jpg` and `key.cls`",
        ));
    }
    Ok(Scan {
        root,
        class_names,
        items,
        problems,
    })
}

/// WebDataset: `key.jpg` and, with its class number, `key.cls`, in the archives' order.
fn samples(
    root: &Path,
    shards: Vec<(Arc<Path>, Contents)>,
    wanted: Option<Vec<String>>,
) -> Result<(Vec<String>, Vec<ScannedItem>)> {
    let mut named = wanted;
    let mut items: Vec<ScannedItem> = Vec::new();
    for (archive, contents) in shards {
        named = named.or(contents.class_names);
        for picture in contents.pictures {
            let Some(label) = picture.class_number else {
                return Err(dataset_error(
                    &archive,
                    "no `.cls` beside its pictures, unlike in other archives of the dataset",
                ));
            };
            items.push((archive.join(picture.name), label, Some(picture.member)));
        }
    }
    let Some(highest) = items.iter().map(|(_, label, _)| *label).max() else {
        return Ok((Vec::new(), items));
    };
    let classes = highest.saturating_add(1);
    if let Some(named) = named {
        if classes > named.len() {
            return Err(dataset_error(
                root,
                format!(
                    "there is a class number {highest}, and of the {} class names the first is that of class 0",
                    named.len()
                ),
            ));
        }
        return Ok((named, items));
    }
    let labels: HashSet<usize> = items.iter().map(|(_, label, _)| *label).collect();
    if let Some(empty) = (0..classes).find(|label| !labels.contains(label)) {
        return Err(dataset_error(
            root,
            format!("no picture is of class {empty}: name the classes if this is so"),
        ));
    }
    let names = (0..classes).map(|label| label.to_string()).collect();
    Ok((two_or_more(root, names, 0)?, items))
}

/// Class folders, sorted as the unpacked folders would be.
fn class_folders(
    root: &Path,
    shards: Vec<(Arc<Path>, Contents)>,
    wanted: Option<Vec<String>>,
) -> Result<(Vec<String>, Vec<ScannedItem>)> {
    let above = folders_above(&shards, wanted.as_deref());
    let class_of = |name: &str| Some(name.get(above..)?.split_once('/')?.0.to_owned());
    let class_names = match wanted {
        Some(wanted) => wanted,
        None => {
            let mut folders = BTreeSet::new();
            let mut outside_classes = 0;
            for picture in shards.iter().flat_map(|(_, contents)| &contents.pictures) {
                match class_of(&picture.name) {
                    Some(class) => {
                        folders.insert(class);
                    }
                    None => outside_classes += 1,
                }
            }
            two_or_more(root, folders.into_iter().collect(), outside_classes)?
        }
    };
    let labels: HashMap<&str, usize> = class_names.iter().map(String::as_str).zip(0..).collect();
    let mut items: Vec<ScannedItem> = Vec::new();
    for (archive, contents) in shards {
        for picture in contents.pictures {
            let class = class_of(&picture.name);
            if let Some(label) = class.and_then(|class| labels.get(class.as_str())) {
                items.push((archive.join(picture.name), *label, Some(picture.member)));
            }
        }
    }
    items.sort_by(|(a, label_a, _), (b, label_b, _)| label_a.cmp(label_b).then(by_folder(a, b)));
    // A member that was added again replaces the former, as in unpacking.
    items.dedup_by(|next, kept| {
        let again = next.0 == kept.0;
        if again {
            std::mem::swap(next, kept);
        }
        again
    });
    Ok((class_names, items))
}

/// The length of what stands before the class folders, such as `train/`: the folders that all pictures share,
/// as long as there are folders below and they are none of the wanted classes.
fn folders_above(shards: &[(Arc<Path>, Contents)], wanted: Option<&[String]>) -> usize {
    let names = || {
        let pictures = shards.iter().flat_map(|(_, contents)| &contents.pictures);
        pictures.map(|picture| picture.name.as_str())
    };
    let mut above = 0;
    loop {
        let first = names()
            .next()
            .and_then(|name| name[above..].split_once('/'));
        let Some((shared, _)) = first else {
            return above;
        };
        let is_class = wanted.is_some_and(|wanted| wanted.iter().any(|class| class == shared));
        let is_above = |name: &str| {
            let parts = name[above..].split_once('/');
            parts.is_some_and(|(folder, below)| folder == shared && below.contains('/'))
        };
        if is_class || !names().all(is_above) {
            return above;
        }
        above += shared.len() + 1;
    }
}

/// Reads an archive's headers.
fn read(archive: &Arc<Path>) -> Result<Contents> {
    // Opening a pipe could wait forever.
    let metadata = std::fs::metadata(archive).map_err(Error::io(&**archive))?;
    if !metadata.is_file() {
        return Err(dataset_error(archive, "not a file, so no tar archive"));
    }
    let mut file = File::open(archive).map_err(Error::io(&**archive))?;
    let mut magic = Vec::new();
    (&mut file)
        .take(6)
        .read_to_end(&mut magic)
        .and_then(|_| file.rewind())
        .map_err(Error::io(&**archive))?;
    if let Some(compression) = compression(&magic) {
        return Err(dataset_error(
            archive,
            format!(
                "compressed with {compression}: pictures are read by their place in the archive, so unpack it \
                 to an uncompressed tar file first (pictures are compressed already)"
            ),
        ));
    }

    let mut contents = Contents::default();
    let mut class_numbers: HashMap<String, Result<usize, String>> = HashMap::new();
    let mut end = 0;
    let mut tar = tar::Archive::new(Headers {
        file,
        since_seek: 0,
    });
    let damaged = |error: io::Error| match error.raw_os_error() {
        Some(_) => Error::io(&**archive)(error),
        None => dataset_error(
            archive,
            format!("not a tar archive, or a damaged one: {error}"),
        ),
    };
    for entry in tar.entries_with_seek().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let name = entry.path_bytes().into_owned();
        let kind = entry.header().entry_type();
        let offset = entry.raw_file_position();
        let len = match kind {
            // Its size is that with the holes.
            EntryType::GNUSparse => entry.header().entry_size().map_err(damaged)?,
            _ => entry.size(),
        };
        end = offset.saturating_add(len);
        if end > metadata.len() {
            return Err(dataset_error(
                archive,
                format!(
                    "cut short or damaged: `{}` would end at byte {end} of {}",
                    String::from_utf8_lossy(&name).escape_debug(),
                    metadata.len()
                ),
            ));
        }
        if matches!(kind, EntryType::Directory | EntryType::XGlobalHeader) {
            continue;
        }
        let name = member_name(archive, &name)?;
        if name.split('/').any(|part| part.starts_with('.')) {
            continue;
        }
        let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous);
        let (key, extension) = split_key(&name);
        if name == "classes.txt" && is_file {
            contents.class_names = Some(class_names(archive, &mut entry)?);
        } else if extension.eq_ignore_ascii_case("cls") && is_file {
            let number = class_number(&mut entry).map_err(damaged)?;
            class_numbers.insert(key.to_owned(), number);
        } else if is_picture(Path::new(&name)) {
            let member = Member {
                archive: archive.clone(),
                offset,
                len,
            };
            if is_file {
                contents.pictures.push(Picture {
                    name,
                    member,
                    class_number: None,
                });
            } else {
                let reason = "a link or a special file: in an archive, only plain files are read";
                contents.problems.push((name, reason.into()));
            }
        }
    }
    // An archive that was cut between two members looks whole but for its end mark, a block of zeros.
    if end.div_ceil(BLOCK) * BLOCK + BLOCK > metadata.len() {
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

impl Contents {
    /// Gives each picture its class number; those without become problems.
    fn number_pictures(&mut self, class_numbers: &HashMap<String, Result<usize, String>>) {
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

/// A member's name without `.` and empty parts.
fn member_name(archive: &Path, name: &[u8]) -> Result<String> {
    let refused = |why: &str| {
        let name = String::from_utf8_lossy(name);
        dataset_error(archive, format!("member `{}` {why}", name.escape_debug()))
    };
    let name = std::str::from_utf8(name).map_err(|_| refused("is not named in UTF-8"))?;
    if name.starts_with('/') || name.split('/').any(|part| part == "..") {
        return Err(refused("points outside the archive"));
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

/// What a `.cls` member says; the error is what it holds instead of a number.
fn class_number(member: &mut impl Read) -> io::Result<Result<usize, String>> {
    let mut bytes = Vec::new();
    member.take(MAX_CLASS_NUMBER).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let number = text.trim();
    Ok(number.parse().map_err(|_| number.to_owned()))
}

fn class_names(archive: &Path, member: &mut impl Read) -> Result<Vec<String>> {
    let mut text = String::new();
    let read = member.take(MAX_CLASS_NAMES).read_to_string(&mut text);
    let names: Vec<String> = text
        .trim_end()
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    if read.is_err() || check_classes(&names).is_err() {
        return Err(dataset_error(
            archive,
            "classes.txt should hold two or more different class names, one a line, that of class 0 first",
        ));
    }
    Ok(names)
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
