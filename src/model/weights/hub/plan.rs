//! Which bytes of a hub's file a base needs, and the header of the file that they are kept in.

use std::collections::BTreeMap;
use std::ops::Range;

use safetensors::tensor::{Dtype, Metadata};

use super::source::Source;
use crate::error::Result;
use crate::model::arch::Arch;
use crate::model::names;
use crate::model::weights::naming::Naming;
use crate::tensor_file;

/// What is wanted of a file, and the header of the file it will be kept in.
pub(super) struct Plan {
    pub(super) header: Vec<u8>,
    /// Byte ranges of the hub's file, in order.
    pub(super) ranges: Vec<Range<u64>>,
}

impl Plan {
    pub(super) fn new(source: &Source, arch: &Arch, header: &Metadata, data: u64) -> Result<Self> {
        let missing = |name: &str| source.error(format!("tensor `{name}` is missing"));
        let naming = Naming::detect(arch, |name| header.info(name).is_some())
            .map_err(|tried| missing(&tried.join("` or `")))?;
        let mut wanted = Vec::new();
        for (name, shape) in arch.convs().flat_map(|(_, conv)| naming.tensors(conv)) {
            let info = header.info(&name).ok_or_else(|| missing(&name))?;
            if info.shape != shape {
                return Err(source.error(format!(
                    "tensor `{name}` has shape {:?}, expected {shape:?}",
                    info.shape
                )));
            }
            if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
                return Err(source.error(format!("tensor `{name}` is of type {:?}", info.dtype)));
            }
            wanted.push((name, info));
        }
        wanted.sort_by_key(|(_, info)| info.data_offsets);

        let metadata = BTreeMap::from([
            (
                names::PREPROCESS.to_owned(),
                source.weights.preprocess.to_string(),
            ),
            (
                "source".to_owned(),
                format!("{}@{}", source.repository, source.revision),
            ),
        ]);
        let mut entries = serde_json::Map::new();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut offset = 0;
        for (name, info) in wanted {
            let (start, end) = info.data_offsets;
            let entry = tensor_file::entry(info.dtype, &info.shape, offset, offset + end - start);
            entries.insert(name, entry);
            offset += end - start;
            let (start, end) = (data + start as u64, data + end as u64);
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        let header = tensor_file::header(entries, metadata);
        Ok(Self { header, ranges })
    }

    /// How long the kept file is.
    pub(super) fn length(&self) -> u64 {
        let data: u64 = self
            .ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        self.header.len() as u64 + data
    }
}
