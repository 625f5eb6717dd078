//! Safetensors files: written with a checksum of all their bytes, and read with a bound on every number of the header.
//!
//! The checksum is an entry of the metadata, `blake3`: the BLAKE3 hash of the file in which its own 64 digits are
//! zeros. Files that say they were `written_by` this crate must have one; others are believed without.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::Tensor;
use safetensors::View;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde_json::{Map, Value, json};

use crate::error::{Cause, Error, Result, While};
use crate::{atomic_file, bounds, files, finite};

/// The metadata entry of the checksum.
const CHECKSUM: &str = "blake3";

/// The metadata entry that says who wrote a file, and what it says in ours.
const WRITER: &str = "written_by";
const OURS: &str = "headstart";

/// As many digits as a checksum has.
const ZEROS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Writes tensors, all finite, with their metadata, whole or not at all. Equal contents make equal files.
pub(crate) fn write(
    path: &Path,
    mut tensors: Vec<(String, Tensor)>,
    metadata: BTreeMap<String, String>,
) -> Result<()> {
    for (name, tensor) in &tensors {
        finite::require(|| format!("{}: tensor `{name}`", path.display()), tensor)?;
    }
    // Largest numbers first, so that all are aligned.
    tensors.sort_by(|(a, x), (b, y)| {
        let size = |tensor: &Tensor| tensor.dtype().size_in_bytes();
        size(y).cmp(&size(x)).then(a.cmp(b))
    });
    let mut entries = Map::new();
    let mut end = 0;
    for (name, tensor) in &tensors {
        let start = end;
        end += tensor.data_len();
        let entry = entry(View::dtype(tensor), tensor.dims(), start, end);
        if entries.insert(name.clone(), entry).is_some() {
            let twice = format!("two tensors are called `{name}`");
            return Err(Error::format("tensors", path)(twice));
        }
    }
    let mut header = header(entries, metadata);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&header);
    for (_, tensor) in &tensors {
        hasher.update(&tensor.data());
    }
    let digits = hasher.finalize().to_hex();
    if let Some(place) = find(&header, ZEROS) {
        header[place..place + ZEROS.len()].copy_from_slice(digits.as_bytes());
    }
    atomic_file::write(path, |file| {
        file.write_all(&header)?;
        tensors
            .iter()
            .try_for_each(|(_, tensor)| file.write_all(&tensor.data()))
    })
}

/// A tensor's entry in a header.
pub(crate) fn entry(dtype: Dtype, shape: &[usize], start: usize, end: usize) -> Value {
    json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] })
}

/// The header, its length before it, of tensors with these entries; its checksum is zeros still.
pub(crate) fn header(
    mut entries: Map<String, Value>,
    mut metadata: BTreeMap<String, String>,
) -> Vec<u8> {
    metadata.insert(CHECKSUM.to_owned(), ZEROS.to_owned());
    metadata.insert(WRITER.to_owned(), OURS.to_owned());
    entries.insert("__metadata__".to_owned(), json!(metadata));
    let mut json = Value::Object(entries).to_string().into_bytes();
    // safetensors aligns the data to eight bytes with spaces.
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.extend(json);
    header
}

/// Gives a file whose checksum is zeros the right one.
#[cfg(feature = "hub")]
pub(crate) fn seal(file: &mut (impl Read + io::Write + Seek), header: &[u8]) -> io::Result<()> {
    let mut hasher = blake3::Hasher::new();
    file.rewind()?;
    hasher.update_reader(&mut *file)?;
    if let Some(place) = find(header, ZEROS) {
        file.seek(SeekFrom::Start(place as u64))?;
        file.write_all(hasher.finalize().to_hex().as_bytes())?;
    }
    Ok(())
}

fn find(bytes: &[u8], text: &str) -> Option<usize> {
    let mut windows = bytes.windows(text.len());
    windows.position(|window| window == text.as_bytes())
}

/// An open safetensors file whose header fits the file, and whose checksum agrees.
pub(crate) struct TensorFile<R> {
    content: R,
    header: Metadata,
    /// Where tensors begin.
    data: u64,
}

impl TensorFile<std::fs::File> {
    /// Opens a regular file.
    pub(crate) fn open(path: &Path) -> Result<Self, Cause> {
        Self::read(files::open(path)?)
    }
}

impl<R: Read + Seek> TensorFile<R> {
    /// Reads the header of a file's content and checks it. What the operating system says comes as [`io::Error`].
    pub(crate) fn read(mut content: R) -> Result<Self, Cause> {
        let length = content.seek(SeekFrom::End(0))?;
        content.rewind()?;
        let mut start = Vec::new();
        content.by_ref().take(24).read_to_end(&mut start)?;
        let prefix = start.first_chunk::<8>();
        let prefix =
            prefix.ok_or_else(|| format!("not a safetensors file: only {length} bytes long"))?;
        let header_length = u64::from_le_bytes(*prefix);
        // A header of 640 bytes makes a file begin like a pickle, one of 8,508 like a page of HTML.
        let header_begins = start.get(8) == Some(&b'{');
        if let Some(kind) = files::kind(&start).filter(|_| !header_begins) {
            return Err(format!("not a safetensors file but {kind}").into());
        }
        if header_length > bounds::HEADER {
            let claim = format!("it claims a header of {header_length} bytes");
            return Err(format!("not a safetensors file: {claim}").into());
        }
        let data = 8 + header_length;
        if data > length {
            let needed = format!("the header needs {data} bytes, the file has {length}");
            return Err(format!("truncated: {needed}").into());
        }
        content.seek(SeekFrom::Start(8))?;
        let mut json = vec![0; header_length as usize];
        content.read_exact(&mut json)?;
        let header: Metadata = serde_json::from_slice(&json)
            .map_err(|error| While::new("damaged safetensors header", error))?;
        check_length(&header, data, length)?;
        let mut file = Self {
            content,
            header,
            data,
        };
        file.verify(&json)?;
        Ok(file)
    }

    /// Compares the checksum, where there has to be one.
    fn verify(&mut self, json: &[u8]) -> Result<(), Cause> {
        let digits = match (self.entry(CHECKSUM), self.entry(WRITER)) {
            (Some(digits), _) => digits,
            (None, Some(OURS)) => return Err("damaged: its checksum is missing".into()),
            (None, _) => return Ok(()),
        };
        let whole = digits.len() == ZEROS.len();
        let Some(place) = whole.then(|| find(json, digits)).flatten() else {
            return Err("damaged: its checksum is none".into());
        };
        let mut blank = json.to_vec();
        blank[place..place + ZEROS.len()].copy_from_slice(ZEROS.as_bytes());
        let mut hasher = blake3::Hasher::new();
        hasher.update(&(json.len() as u64).to_le_bytes());
        hasher.update(&blank);
        let digits = digits.to_owned();
        // Others' files may be larger, since only what is wanted of them is read.
        let length = self.data + self.header.data_len() as u64;
        if length > bounds::FILE {
            let most = bounds::FILE;
            return Err(format!("{length} bytes are too many: at most {most} are read").into());
        }
        self.content.seek(SeekFrom::Start(self.data))?;
        hasher.update_reader(&mut self.content)?;
        if hasher.finalize().to_hex().as_str() != digits {
            return Err("damaged: its checksum is another".into());
        }
        Ok(())
    }

    /// Whether there is a checksum; it agrees then.
    pub(crate) fn is_sealed(&self) -> bool {
        self.entry(CHECKSUM).is_some()
    }

    /// An entry of the metadata.
    pub(crate) fn entry(&self, key: &str) -> Option<&str> {
        let entries = self.header.metadata().as_ref()?;
        entries.get(key).map(String::as_str)
    }

    /// Shape, type and place of a tensor.
    pub(crate) fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.info(name)
    }

    /// The names of all tensors, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.header.tensors().into_keys().collect();
        names.sort_unstable();
        names
    }

    /// The bytes of a tensor that is there.
    pub(crate) fn bytes(&mut self, info: &TensorInfo) -> io::Result<Vec<u8>> {
        let (start, end) = info.data_offsets;
        // The header was checked: the file has as many.
        let mut bytes = vec![0; end - start];
        self.content
            .seek(SeekFrom::Start(self.data + start as u64))?;
        self.content.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// The header alone bounds nothing: eight tensors of 2⁶¹ bytes are consistent with each other.
fn check_length(header: &Metadata, data: u64, length: u64) -> Result<(), Cause> {
    let announced = header.data_len() as u64;
    match data.checked_add(announced) {
        Some(wanted) if wanted == length => Ok(()),
        Some(wanted) if wanted < length => {
            Err(format!("{} bytes after the last tensor", length - wanted).into())
        }
        _ => Err(format!(
            "truncated: its header announces {announced} bytes of tensors, the file has {}",
            length - data
        )
        .into()),
    }
}
