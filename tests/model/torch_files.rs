//! Files of `torch.save`: read without running anything, or refused by what they are.

use std::path::{Path, PathBuf};

use candle_core::Device;
use headstart::model::{Backbone, Vgg};
use headstart::{ConvBase, Preprocess, Result, Weights};

use crate::common::numbers::values;

const LAYERS: [usize; 8] = [0, 3, 6, 8, 11, 13, 16, 18];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/torch")
        .join(name)
}

fn load(path: &Path) -> Result<ConvBase> {
    let vgg = Vgg::Vgg11.width(1.0 / 64.0).unwrap();
    ConvBase::new(vgg, Weights::file(path), &Device::Cpu)
}

/// `make.py`'s formula.
fn assert_holds_the_numbers(base: &ConvBase) {
    let mut pairs = base
        .tensors()
        .into_iter()
        .map(|(_, tensor)| values(&tensor));
    for layer in LAYERS {
        let (weight, bias) = (pairs.next().unwrap(), pairs.next().unwrap());
        for (place, number) in weight.iter().enumerate() {
            let expected = ((place * 7 + layer * 13) % 32) as f32 / 64.0 - 0.25;
            assert_eq!(*number, expected, "layer {layer}, number {place}");
        }
        for (place, number) in bias.iter().enumerate() {
            assert_eq!(*number, place as f32, "layer {layer}, bias {place}");
        }
    }
    assert_eq!(base.preprocess(), Preprocess::Torch);
}

#[test]
fn files_of_torch_save_hold_what_was_saved() {
    for name in ["plain.pth", "protocol4.bin", "nested.pth.tar"] {
        let base = load(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_holds_the_numbers(&base);
    }
}

#[test]
fn what_cannot_be_read_is_said_to_be_what_it_is() {
    for (name, words) in [("network.pt", "state_dict"), ("legacy.pth", "pickle")] {
        let error = load(&fixture(name)).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(words), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.zip");
    let mut empty = b"PK\x05\x06".to_vec();
    empty.resize(22, 0);
    std::fs::write(&path, [b"PK\x03\x04".as_slice(), &empty].concat()).unwrap();
    let error = load(&path).unwrap_err().to_string();
    assert!(
        error.contains("other.zip") && error.contains("data.pkl"),
        "{error}"
    );
}

/// An archive of these entries, stored.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::{Cursor, Write};
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let stored =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, bytes) in entries {
        writer.start_file(*name, stored).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// Pickles that make other readers panic, recurse, or fill the memory: each is refused in no time.
#[test]
fn hostile_pickles_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.pth");
    let deep = [b"\x80\x02)".as_slice(), &b"\x85".repeat(1 << 20), b"."].concat();
    // Lists of lists, each twice the one before, by reference: 2⁶⁰ empty lists.
    let mut laughs = b"\x80\x02]q\x00".to_vec();
    for level in 0..60 {
        laughs.extend([b']', b'q', level + 1, b'(', b'h', level, b'h', level, b'e']);
    }
    laughs.push(b'.');
    let tensor = |size: &str, stride: &str| {
        format!(
            "\u{0}}}X\u{11}\0\0\0features.0.weightctorch._utils\n_rebuild_tensor_v2\n((X\u{7}\0\0\0storagectorch\n\
             FloatStorage\nX\u{1}\0\0\0{}X\u{3}\0\0\0cpuK\u{1}tQK\0({size}t({stride}ttRs.",
            0
        )
        .into_bytes()
    };
    let tensor = |size, stride| [b"\x80\x02".as_slice(), &tensor(size, stride)[1..]].concat();
    let cases: [(&str, Vec<u8>); 9] = [
        ("deep", deep),
        ("laughs", laughs),
        ("nothing", b"\x80\x02.".to_vec()),
        ("an operand below a mark", b"\x80\x02K\x01(0.".to_vec()),
        ("too long a text", b"\x80\x02X\xff\xff\xff\xffabc.".to_vec()),
        (
            "too long an integer",
            b"\x80\x02\x8a\x09123456789.".to_vec(),
        ),
        (
            "short arguments",
            b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.".to_vec(),
        ),
        (
            "a number repeated",
            tensor("K\u{1}K\u{3}K\u{3}K\u{3}", "K\0K\0K\0K\0"),
        ),
        (
            "numbers beyond the storage",
            tensor(
                "K\u{1}K\u{3}K\u{3}K\u{3}",
                "K\u{1b}K\u{9}K\u{3}J\u{7f}\u{7f}\u{7f}\u{7f}",
            ),
        ),
    ];
    for (what, pickle) in cases {
        let file = archive(&[("net/data.pkl", &pickle), ("net/data/0", &[0; 16])]);
        std::fs::write(&path, file).unwrap();
        let error = load(&path).expect_err(what).to_string();
        assert!(error.contains("hostile.pth"), "{what}: {error}");
    }
}
