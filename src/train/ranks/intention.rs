//! What each rank is about to do, which has to be the same before it begins.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::sync::OnceLock;

use candle_core::{Device, DeviceLocation};

use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::{Backbone, Classifier};
use crate::train::checksum::checksum_without;

/// The most letters of a value that an error shows.
const SHOWN: usize = 120;

/// Names of what counts, with what this rank has of it.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) struct Intention(Vec<(String, String)>);

impl Intention {
    /// What all work with a model asks for.
    pub(crate) fn with<B: Backbone>(model: &Classifier<B>) -> Self {
        let mut own = Self(Vec::new());
        own.add("version of headstart", env!("CARGO_PKG_VERSION"));
        own.add("program", program());
        // Another kind of device and other instructions round otherwise, and weights would drift apart.
        own.add("device", kind(&model.base().device()));
        own.add("processor's instructions", model.base().numerics());
        own.add("classes", format!("{:?}", model.class_names()));
        own
    }

    /// What a model makes of pictures by all of its weights.
    pub(crate) fn of_pixels<B: Backbone>(model: &Classifier<B>) -> Self {
        let mut own = Self::with(model);
        let pixels = (model.size(), model.resize_filter(), model.preprocess());
        own.add("pixels", format!("{pixels:?}"));
        own.add_weights("weights", model, &BTreeSet::new());
        own
    }

    pub(crate) fn add(&mut self, what: &str, value: impl Display) {
        self.0.push((what.to_owned(), value.to_string()));
    }

    /// Adds pictures by their names and classes.
    pub(crate) fn add_pictures(&mut self, what: &str, dataset: &Dataset) {
        self.add(what, listing(dataset));
    }

    /// Adds a model's weights but those of these names.
    pub(crate) fn add_weights<B: Backbone>(
        &mut self,
        what: &str,
        model: &Classifier<B>,
        without: &BTreeSet<String>,
    ) {
        let sum = checksum_without(&model.tensors(), without);
        self.add(what, format!("with checksum {sum:08x}"));
    }
}

/// Refuses ranks of which one is about to do something else than rank 0.
pub(super) fn compare(all: &[Intention]) -> Result<()> {
    for (rank, own) in all.iter().enumerate() {
        for ((what, found), (_, expected)) in own.0.iter().zip(&all[0].0) {
            if found != expected {
                let what = format!("rank {rank}: {what}");
                let expected = format!("{}, as on rank 0", short(expected));
                return Err(Error::mismatch(&what, short(found), expected));
            }
        }
    }
    Ok(())
}

fn kind(device: &Device) -> &'static str {
    match device.location() {
        DeviceLocation::Cpu => "the CPU",
        DeviceLocation::Cuda { .. } => "a GPU by CUDA",
        DeviceLocation::Metal { .. } => "a GPU by Metal",
    }
}

fn short(value: &str) -> String {
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

/// How many pictures there are, and a hash of their names and classes.
fn listing(dataset: &Dataset) -> String {
    let mut hasher = blake3::Hasher::new();
    for item in dataset.items() {
        let path = item.path.strip_prefix(dataset.root());
        let path = path.unwrap_or(&item.path).as_os_str().as_encoded_bytes();
        for part in [path, &item.id.to_le_bytes(), &item.label.to_le_bytes()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    let hash = hasher.finalize().to_hex();
    format!("{} with hash {}", dataset.len(), &hash[..8])
}

/// A hash of the running program.
fn program() -> &'static str {
    static PROGRAM: OnceLock<String> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let bytes = std::env::current_exe().and_then(std::fs::read);
        match bytes {
            Ok(bytes) => format!("with hash {}", &blake3::hash(&bytes).to_hex()[..8]),
            Err(_) => "unknown".to_owned(),
        }
    })
}
