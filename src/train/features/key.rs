//! The key of features: a hash of everything their numbers come from.

use rayon::prelude::*;
use safetensors::View as _;

use crate::data::Loader;
use crate::error::Result;
use crate::model::{Backbone, Classifier, Mode};

/// Hashes what all views of `pictures` come from, after so many blocks. Each part comes with its length, so that no two
/// different lists of parts give the same bytes. None when `stop` says so.
pub(super) fn origin<B: Backbone>(
    model: &Classifier<B>,
    pictures: &Loader,
    blocks: usize,
    mode: Mode,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<Option<blake3::Hasher>> {
    let mut hasher = blake3::Hasher::new();
    let mut part = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let base = model.base();
    let device = base.device().location();
    // Outside training, a base may add in another order in batches of another size.
    let batch = (mode == Mode::Infer).then(|| pictures.indices(0).first().map(Vec::len));
    for text in [
        env!("CARGO_PKG_VERSION").to_owned(),
        format!("{device:?}, {}, {batch:?}", base.numerics()),
        format!("{}, {blocks} blocks", base.architecture()),
        pictures.pixel_config(),
    ] {
        part(text.as_bytes());
    }
    for parameter in base.parameters() {
        if parameter.block < blocks {
            part(parameter.name.as_bytes());
            part(format!("{:?}", parameter.tensor.shape()).as_bytes());
            part(&parameter.tensor.data());
        }
    }
    // Whole files, since neither size nor time of change tells every change.
    let contents: Vec<_> = pictures
        .dataset()
        .items()
        .par_iter()
        .map(|item| {
            if stop() {
                return String::new();
            }
            match item.read() {
                Ok(bytes) => blake3::hash(&bytes).to_hex().to_string(),
                Err(error) => error.kind().to_string(),
            }
        })
        .collect();
    if stop() {
        return Ok(None);
    }
    for (item, content) in pictures.dataset().items().iter().zip(contents) {
        part(&item.id.to_le_bytes());
        part(content.as_bytes());
    }
    Ok(Some(hasher))
}

/// The key of one view, in hexadecimal.
pub(super) fn of_view(origin: &blake3::Hasher, view: usize) -> String {
    let mut hasher = origin.clone();
    hasher.update(&(view as u64).to_le_bytes());
    hasher.finalize().to_hex().to_string()
}
