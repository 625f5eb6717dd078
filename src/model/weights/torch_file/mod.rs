//! PyTorch's files of weights, `.pth`, `.pt` and `.bin`: a zip archive of a pickle, which says what there is, and of
//! the numbers.

mod pickle;

use std::collections::BTreeMap;
use std::io::{Read, Seek};

use safetensors::Dtype;
use zip::ZipArchive;

use self::pickle::{Object, Strided};
use crate::bounds;
use crate::error::Cause;

/// What an archive begins with.
pub(super) const MAGIC: &[u8] = b"PK\x03\x04";

/// The most bytes that a pickle may have: those of the largest networks have a few hundred thousand.
const PICKLE: u64 = 64 << 20;

/// The most entries of an archive.
const ENTRIES: usize = 1 << 20;

/// Where files of training scripts keep the weights, among other things.
const NESTED: [&str; 5] = [
    "state_dict_ema",
    "state_dict",
    "model_state_dict",
    "model",
    "module",
];

/// What wrappers put before every name: `DataParallel`, `torch.compile`, Lightning.
const PREFIXES: [&str; 3] = ["module.", "_orig_mod.", "model."];

/// An open file.
pub(super) struct TorchFile<R: Read + Seek> {
    archive: ZipArchive<R>,
    /// What the names of entries begin with.
    root: String,
    tensors: BTreeMap<String, Stored>,
}

/// A tensor of the file.
struct Stored {
    dtype: Dtype,
    key: String,
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<R: Read + Seek> TorchFile<R> {
    /// Reads what there is.
    pub(super) fn read(content: R) -> Result<Self, Cause> {
        let mut archive = ZipArchive::new(content).map_err(|error| match error {
            zip::result::ZipError::Io(error) => Cause::from(error),
            error => format!(
                "a zip archive, such as PyTorch's .pt and .pth, that cannot be read: {error}"
            )
            .into(),
        })?;
        if archive.len() > ENTRIES {
            return Err(format!("a zip archive of {} entries", archive.len()).into());
        }
        let root = root(&archive)?;
        let pickle = entry(&mut archive, &format!("{root}data.pkl"), PICKLE)?;
        let object =
            pickle::read(&pickle).map_err(|reason| format!("a damaged pickle: {reason}"))?;
        let tensors = tensors(&object)?;
        Ok(Self {
            archive,
            root,
            tensors,
        })
    }

    /// The names of all tensors, sorted.
    pub(super) fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// Type and shape of a tensor.
    pub(super) fn info(&self, name: &str) -> Option<(Dtype, Vec<usize>)> {
        let stored = self.tensors.get(name)?;
        Some((stored.dtype, stored.shape.clone()))
    }

    /// The bytes of a tensor that is there, row by row.
    pub(super) fn bytes(&mut self, name: &str) -> Result<Vec<u8>, Cause> {
        let stored = self.tensors.get(name).ok_or("it is not there")?;
        let name = format!("{}data/{}", self.root, stored.key);
        let storage = entry(&mut self.archive, &name, bounds::FILE)?;
        gather(stored, &storage).ok_or_else(|| "its numbers lie beyond their storage".into())
    }
}

/// The folder that everything lies in, by the one entry every file has.
fn root<R: Read + Seek>(archive: &ZipArchive<R>) -> Result<String, Cause> {
    for name in archive.file_names() {
        let name = name.map_err(|error| format!("a damaged zip archive: {error}"))?;
        if let Some(root) = name.strip_suffix("data.pkl")
            && (root.is_empty() || root.ends_with('/'))
        {
            return Ok(root.to_owned());
        }
    }
    Err("a zip archive without PyTorch's data.pkl: save it as safetensors first".into())
}

/// The bytes of an entry.
fn entry<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    name: &str,
    most: u64,
) -> Result<Vec<u8>, Cause> {
    let damaged = |error| format!("{name} in the archive: {error}");
    let entry = archive
        .by_name(name)
        .map_err(|error| damaged(error.to_string()))?;
    let size = entry.size();
    if size > most {
        return Err(damaged(format!(
            "{size} bytes are too many: at most {most} are read"
        ))
        .into());
    }
    // An entry's claim reserves nothing.
    let mut bytes = Vec::new();
    entry
        .take(most)
        .read_to_end(&mut bytes)
        .map_err(|error| damaged(error.to_string()))?;
    Ok(bytes)
}

/// The dictionary of weights in what was saved.
fn tensors(saved: &Object) -> Result<BTreeMap<String, Stored>, Cause> {
    let mut found = named_tensors(saved)?;
    if let (true, Object::Dict(entries)) = (found.is_empty(), saved) {
        for key in NESTED {
            let entries = entries.borrow();
            let mut entries = entries.iter();
            let nested =
                entries.find(|(name, _)| matches!(name, Object::Text(name) if &**name == key));
            if let Some((_, nested)) = nested {
                found = named_tensors(nested)?;
            }
            if !found.is_empty() {
                break;
            }
        }
    }
    if found.is_empty() {
        let reason =
            "it holds no dictionary of tensors, but perhaps a whole network: save its state_dict()";
        return Err(reason.into());
    }
    for prefix in PREFIXES {
        if found.keys().all(|name| name.starts_with(prefix)) {
            let plain =
                |(name, stored): (String, Stored)| (name[prefix.len()..].to_owned(), stored);
            found = found.into_iter().map(plain).collect();
        }
    }
    Ok(found)
}

fn named_tensors(object: &Object) -> Result<BTreeMap<String, Stored>, Cause> {
    let mut tensors = BTreeMap::new();
    let Object::Dict(entries) = object else {
        return Ok(tensors);
    };
    for (name, value) in entries.borrow().iter() {
        if let (Object::Text(name), Object::Tensor(tensor)) = (name, value) {
            tensors.insert(name.to_string(), stored(name, tensor)?);
        }
    }
    Ok(tensors)
}

fn stored(name: &str, tensor: &Strided) -> Result<Stored, Cause> {
    let kind = &*tensor.storage.kind;
    let dtype = match kind.rsplit('.').next().unwrap_or(kind) {
        "FloatStorage" => Dtype::F32,
        "DoubleStorage" => Dtype::F64,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ByteStorage" | "BoolStorage" => Dtype::U8,
        _ => return Err(format!("tensor `{name}`: numbers of a kind `{kind}`").into()),
    };
    if tensor.shape.len() != tensor.strides.len() {
        return Err(format!("tensor `{name}`: a shape and strides that do not fit").into());
    }
    Ok(Stored {
        dtype,
        key: tensor.storage.key.to_string(),
        offset: tensor.offset,
        shape: tensor.shape.clone(),
        strides: tensor.strides.clone(),
    })
}

/// The numbers of a tensor one after the other; none where they are not all there.
fn gather(stored: &Stored, storage: &[u8]) -> Option<Vec<u8>> {
    let size = stored.dtype.bitsize() / 8;
    let count = stored
        .shape
        .iter()
        .try_fold(1usize, |product, &side| product.checked_mul(side))?;
    // A stride of 0 repeats a number: a small file must not become a large tensor.
    if count.checked_mul(size)? > storage.len() {
        return None;
    }
    let mut bytes = Vec::with_capacity(count * size);
    let mut place = vec![0; stored.shape.len()];
    for _ in 0..count {
        let steps = place.iter().zip(&stored.strides);
        let mut index = stored.offset;
        for (step, stride) in steps {
            index = index.checked_add(usize::checked_mul(*step, *stride)?)?;
        }
        let start = index.checked_mul(size)?;
        bytes.extend(storage.get(start..start.checked_add(size)?)?);
        for (step, side) in place.iter_mut().zip(&stored.shape).rev() {
            *step += 1;
            if *step < *side {
                break;
            }
            *step = 0;
        }
    }
    Some(bytes)
}
