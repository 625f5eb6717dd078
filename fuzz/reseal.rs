//! Makes the checksum of a damaged file right again, as someone who means harm would.

use serde_json::Value;

#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// That of saved classifiers and weights: of the file with zeros in its place.
    Blake3,
    /// That of checkpoints: of the description and the tensors by their names.
    Crc32,
}

/// The same file with the right checksum; none where there is no place for one.
pub(super) fn reseal(data: &[u8], kind: Kind) -> Option<Vec<u8>> {
    let length = usize::try_from(u64::from_le_bytes(*data.first_chunk()?)).ok()?;
    let end = length.checked_add(8)?;
    let header = data.get(8..end)?;
    let json: Value = serde_json::from_slice(header).ok()?;
    match kind {
        Kind::Blake3 => blake3_of(data, header, &json),
        Kind::Crc32 => crc32_of(data.get(end..)?, json),
    }
}

fn blake3_of(data: &[u8], header: &[u8], json: &Value) -> Option<Vec<u8>> {
    let digits = json["__metadata__"]["blake3"].as_str()?;
    let mut windows = header.windows(64);
    let place = 8 + windows.position(|window| window == digits.as_bytes())?;
    let mut sealed = data.to_vec();
    sealed[place..place + 64].fill(b'0');
    let digits = blake3::hash(&sealed).to_hex();
    sealed[place..place + 64].copy_from_slice(digits.as_bytes());
    (sealed != data).then_some(sealed)
}

fn crc32_of(tensors: &[u8], mut json: Value) -> Option<Vec<u8>> {
    let metadata = &json["__metadata__"];
    let mut sum = crc32fast::Hasher::new();
    sum.update(metadata["headstart_checkpoint"].as_str()?.as_bytes());
    // Keys of a serde_json map are in order.
    for (name, entry) in json.as_object()? {
        if name == "__metadata__" {
            continue;
        }
        let place = |index: usize| Some(entry["data_offsets"][index].as_u64()? as usize);
        sum.update(name.as_bytes());
        sum.update(tensors.get(place(0)?..place(1)?)?);
    }
    json["__metadata__"]["crc32"] = sum.finalize().to_string().into();
    let mut header = json.to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let length = header.len() as u64;
    Some([&length.to_le_bytes(), header.as_slice(), tensors].concat())
}
