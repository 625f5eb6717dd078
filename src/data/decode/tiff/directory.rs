//! A TIFF structure's first directory: tags and their values.

/// The tag of a packet of XMP.
const XMP: u16 = 700;

/// More entries than any file has.
const MAX_ENTRIES: u64 = 4096;

/// A directory, and the file it is in.
pub(super) struct Directory<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) big_endian: bool,
    entries: Vec<Entry<'a>>,
}

struct Entry<'a> {
    tag: u16,
    kind: u16,
    count: usize,
    /// The values, as many whole ones as the file has.
    values: &'a [u8],
}

/// A number that is stored under a tag of a TIFF structure such as EXIF, if it is a single one of an integer's type.
pub(in crate::data::decode) fn small_number(bytes: &[u8], tag: u16) -> Option<u32> {
    let directory = Directory::first(bytes)?;
    let entry = directory.entry(tag)?;
    let value = match entry.count {
        1 => directory.numbers(tag)?.first().copied()?,
        _ => return None,
    };
    u32::try_from(value).ok()
}

/// The packet of XMP in a TIFF file.
pub(in crate::data::decode) fn xmp(bytes: &[u8]) -> Option<&[u8]> {
    let directory = Directory::first(bytes)?;
    Some(directory.entry(XMP)?.values)
}

impl<'a> Directory<'a> {
    pub(super) fn first(bytes: &'a [u8]) -> Option<Self> {
        let (big_endian, is_big_tiff) = match bytes.get(..4)? {
            b"II\x2a\0" => (false, false),
            b"MM\0\x2a" => (true, false),
            b"II\x2b\0" => (false, true),
            b"MM\0\x2b" => (true, true),
            _ => return None,
        };
        let mut directory = Self {
            bytes,
            big_endian,
            entries: Vec::new(),
        };
        let (start, count, width) = if is_big_tiff {
            let start = usize::try_from(directory.number(8, 8)?).ok()?;
            (start.checked_add(8)?, directory.number(start, 8)?, 20)
        } else {
            let start = usize::try_from(directory.number(4, 4)?).ok()?;
            (start.checked_add(2)?, directory.number(start, 2)?, 12)
        };
        for index in 0..count.min(MAX_ENTRIES) as usize {
            let Some(entry) = directory.read_entry(start.checked_add(width * index)?, width) else {
                break;
            };
            directory.entries.push(entry);
        }
        Some(directory)
    }

    fn read_entry(&self, at: usize, width: usize) -> Option<Entry<'a>> {
        let (tag, kind) = (self.number(at, 2)? as u16, self.number(at + 2, 2)? as u16);
        // Counts and offsets have 4 bytes, in BigTIFF 8.
        let word = (width - 4) / 2;
        let count = usize::try_from(self.number(at + 4, word)?).ok()?;
        let length = count.saturating_mul(size(kind));
        let start = if length <= word {
            at + 4 + word
        } else {
            usize::try_from(self.number(at + 4 + word, word)?).ok()?
        };
        let rest = self.bytes.get(start..).unwrap_or_default();
        Some(Entry {
            tag,
            kind,
            count,
            values: &rest[..length.min(rest.len())],
        })
    }

    fn entry(&self, tag: u16) -> Option<&Entry<'a>> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }

    /// An unsigned number of `width` bytes.
    fn number(&self, at: usize, width: usize) -> Option<u64> {
        Some(number(
            self.bytes.get(at..at.checked_add(width)?)?,
            self.big_endian,
        ))
    }

    /// The values of a tag as integers.
    pub(super) fn numbers(&self, tag: u16) -> Option<Vec<u64>> {
        let entry = self.entry(tag)?;
        // Bytes, shorts, longs, directories, and BigTIFF's 64 bits, signed or not.
        if !matches!(entry.kind, 1 | 3 | 4 | 6 | 8 | 9 | 13 | 16 | 17 | 18) {
            return None;
        }
        let values = entry.values.chunks_exact(size(entry.kind));
        Some(values.map(|value| number(value, self.big_endian)).collect())
    }

    /// The only or first value of a tag, or what stands for it.
    pub(super) fn number_or(&self, tag: u16, default: u64) -> u64 {
        let first = self.numbers(tag).and_then(|values| values.first().copied());
        first.unwrap_or(default)
    }

    /// The values of a tag as fractions.
    pub(super) fn fractions(&self, tag: u16) -> Option<Vec<f64>> {
        let entry = self.entry(tag)?;
        if entry.kind != 5 {
            return Some(
                self.numbers(tag)?
                    .into_iter()
                    .map(|value| value as f64)
                    .collect(),
            );
        }
        let values = entry.values.chunks_exact(8).map(|value| {
            let [above, below] =
                [&value[..4], &value[4..]].map(|half| number(half, self.big_endian));
            above as f64 / below as f64
        });
        Some(values.collect())
    }

    /// The values of a tag as they are stored.
    pub(super) fn raw(&self, tag: u16) -> Option<&'a [u8]> {
        self.entry(tag).map(|entry| entry.values)
    }
}

/// An unsigned number of up to 8 bytes.
pub(super) fn number(bytes: &[u8], big_endian: bool) -> u64 {
    let join = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    if big_endian {
        bytes.iter().fold(0, join)
    } else {
        bytes.iter().rev().fold(0, join)
    }
}

/// The bytes of a value, by its type.
fn size(kind: u16) -> usize {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16 | 17 | 18 => 8,
        _ => 1,
    }
}
