//! Weight files from outside: names, layouts, number types, what pixels must look like, and every way a file can
//! be wrong. The files are written here byte by byte, from the format's own description.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use candle_core::Device;
use headstart::model::Backbone;
use headstart::model::Vgg;
use headstart::{ConvBase, Error, Preprocess, Weights};
use serde_json::{Map, Value, json};

/// VGG11's convolutions by hand: torchvision's name, Keras's name, input and output channels.
const VGG11: [(&str, &str, usize, usize); 8] = [
    ("features.0", "block1_conv1", 3, 64),
    ("features.3", "block2_conv1", 64, 128),
    ("features.6", "block3_conv1", 128, 256),
    ("features.8", "block3_conv2", 256, 256),
    ("features.11", "block4_conv1", 256, 512),
    ("features.13", "block4_conv2", 512, 512),
    ("features.16", "block5_conv1", 512, 512),
    ("features.18", "block5_conv2", 512, 512),
];

/// A safetensors header under construction.
#[derive(Default)]
struct Header {
    entries: Map<String, Value>,
    length: u64,
}

impl Header {
    fn tensor(mut self, name: &str, dtype: &str, shape: &[usize]) -> Self {
        let width = match dtype {
            "F64" | "I64" => 8,
            "F32" => 4,
            _ => 2,
        };
        let end = self.length + shape.iter().product::<usize>() as u64 * width;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [self.length, end]});
        self.entries.insert(name.to_owned(), entry);
        self.length = end;
        self
    }

    fn metadata(mut self, key: &str, value: &str) -> Self {
        self.entries
            .insert("__metadata__".to_owned(), json!({ key: value }));
        self
    }

    /// VGG11 in PyTorch's layout, each name made from (torchvision's, Keras's, kind).
    fn vgg11(dtype: &str, name: impl Fn(&str, &str, &str) -> String) -> Self {
        VGG11
            .iter()
            .fold(Self::default(), |header, (torch, keras, input, output)| {
                header
                    .tensor(
                        &name(torch, keras, "weight"),
                        dtype,
                        &[*output, *input, 3, 3],
                    )
                    .tensor(&name(torch, keras, "bias"), dtype, &[*output])
            })
    }

    fn torch() -> Self {
        Self::vgg11("F32", |torch, _, kind| format!("{torch}.{kind}"))
    }

    fn bytes(&self) -> Vec<u8> {
        framed(Value::Object(self.entries.clone()).to_string().as_bytes())
    }

    /// A file with these tensors, all zero: a hole on the disk.
    fn zeros(&self, path: &Path) {
        let mut file = File::create(path).unwrap();
        let header = self.bytes();
        file.write_all(&header).unwrap();
        file.set_len(header.len() as u64 + self.length).unwrap();
    }
}

/// JSON behind its length.
fn framed(json: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json].concat()
}

/// A weight that f32, f16 and bf16 hold exactly, different for neighbours along every axis.
fn weight(layer: usize, o: usize, i: usize, y: usize, x: usize) -> f32 {
    ((layer + 31 * o + 17 * i + 5 * y + x) % 127) as f32 / 64.0 - 1.0
}

fn bias(layer: usize, o: usize) -> f32 {
    ((layer + 3 * o) % 101) as f32 / 32.0
}

fn assert_holds_the_weights(base: &ConvBase) {
    let tensors = base.tensors();
    assert_eq!(tensors.len(), 16);
    for (layer, (_, keras, input, output)) in VGG11.into_iter().enumerate() {
        let (name, tensor) = &tensors[2 * layer];
        assert_eq!(name, &format!("{keras}.weight"));
        assert_eq!(tensor.dims(), [output, input, 3, 3]);
        let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
        let mut values = values.into_iter();
        for o in 0..output {
            for i in 0..input {
                for (y, x) in (0..9).map(|k| (k / 3, k % 3)) {
                    assert_eq!(values.next(), Some(weight(layer, o, i, y, x)), "{name}");
                }
            }
        }
        let expected: Vec<f32> = (0..output).map(|o| bias(layer, o)).collect();
        assert_eq!(tensors[2 * layer + 1].1.to_vec1::<f32>().unwrap(), expected);
    }
}

/// The numbers of every tensor in PyTorch's layout, each written by `number`.
fn torch_layout(file: &mut Vec<u8>, number: impl Fn(f32) -> Vec<u8>) {
    for (layer, (_, _, input, output)) in VGG11.into_iter().enumerate() {
        for (o, i) in (0..output).flat_map(|o| (0..input).map(move |i| (o, i))) {
            for (y, x) in (0..9).map(|k| (k / 3, k % 3)) {
                file.extend(number(weight(layer, o, i, y, x)));
            }
        }
        (0..output).for_each(|o| file.extend(number(bias(layer, o))));
    }
}

/// An IEEE half, by its definition, for numbers that it holds exactly.
fn half(value: f32) -> Vec<u8> {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = if value == 0.0 {
        0
    } else {
        ((((bits >> 23 & 0xff) + 15 - 127) << 10) | (bits >> 13 & 0x3ff)) as u16
    };
    (sign | magnitude).to_le_bytes().to_vec()
}

fn load(path: &Path) -> headstart::Result<ConvBase> {
    ConvBase::vgg11(Weights::file(path), &Device::Cpu)
}

fn in_folder(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    (folder, path)
}

#[test]
fn torchvision_names_in_f32() {
    let (_folder, path) = in_folder("torch.safetensors");
    let mut file = Header::torch().bytes();
    torch_layout(&mut file, |value| value.to_le_bytes().to_vec());
    std::fs::write(&path, file).unwrap();
    let base = load(&path).unwrap();
    assert_holds_the_weights(&base);
    assert_eq!(base.preprocess(), Preprocess::Torch);
}

#[test]
fn keras_names_in_f16() {
    let (_folder, path) = in_folder("keras.safetensors");
    let mut file = Header::vgg11("F16", |_, keras, kind| format!("{keras}.{kind}")).bytes();
    torch_layout(&mut file, half);
    std::fs::write(&path, file).unwrap();
    let base = load(&path).unwrap();
    assert_holds_the_weights(&base);
    assert_eq!(base.preprocess(), Preprocess::Caffe);
}

#[test]
fn keras_variables_in_bf16_and_their_own_layout() {
    let (_folder, path) = in_folder("variables.safetensors");
    let header = VGG11
        .iter()
        .fold(Header::default(), |header, (_, keras, input, output)| {
            header
                .tensor(&format!("{keras}/kernel"), "BF16", &[3, 3, *input, *output])
                .tensor(&format!("{keras}/bias"), "BF16", &[*output])
        });
    let mut file = header.bytes();
    // bf16 is the upper half of an f32.
    let mut number = |value: f32| file.extend(&value.to_le_bytes()[2..]);
    for (layer, (_, _, input, output)) in VGG11.into_iter().enumerate() {
        for (y, x) in (0..9).map(|k| (k / 3, k % 3)) {
            for i in 0..input {
                (0..output).for_each(|o| number(weight(layer, o, i, y, x)));
            }
        }
        (0..output).for_each(|o| number(bias(layer, o)));
    }
    std::fs::write(&path, file).unwrap();
    let base = load(&path).unwrap();
    assert_holds_the_weights(&base);
    assert_eq!(base.preprocess(), Preprocess::Caffe);
}

#[test]
fn the_metadata_decides_what_pixels_look_like() {
    let (_folder, path) = in_folder("stated.safetensors");
    for stated in [
        Preprocess::Unit,
        Preprocess::Torch,
        Preprocess::Caffe,
        Preprocess::Half,
    ] {
        Header::torch()
            .metadata("preprocess", &stated.to_string())
            .zeros(&path);
        assert_eq!(load(&path).unwrap().preprocess(), stated);
    }
    Header::torch().metadata("preprocess", "bgr").zeros(&path);
    let error = load(&path).unwrap_err().to_string();
    for part in ["stated.safetensors", "bgr", "unit, torch, caffe, half"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_saved_classifier_gives_its_base_with_its_preprocess() {
    let (_folder, path) = in_folder("classifier.safetensors");
    let base = ConvBase::vgg11(Weights::Random { seed: 4 }, &Device::Cpu).unwrap();
    let expected = base.tensors();
    for preprocess in [Preprocess::Unit, Preprocess::Torch] {
        let base = base.clone().with_preprocess(preprocess);
        let head = headstart::Head::sigmoid();
        headstart::Classifier::new(base, head, &["no", "yes"])
            .unwrap()
            .save(&path)
            .unwrap();
        let loaded = load(&path).unwrap();
        assert_eq!(loaded.preprocess(), preprocess);
        for ((name, expected), (_, found)) in expected.iter().zip(loaded.tensors()) {
            let values = |tensor: &candle_core::Tensor| -> Vec<f32> {
                tensor.flatten_all().unwrap().to_vec1().unwrap()
            };
            assert_eq!(values(expected), values(&found), "{name}");
        }
    }
}

#[test]
fn a_classifier_in_the_file_is_not_read() {
    let (_folder, path) = in_folder("huge.safetensors");
    // 64 GiB before and after the convolutions: a hole on the disk, but not in memory.
    let rows = 1 << 24;
    let mut header = Header::default().tensor("aux.weight", "F32", &[rows, 1024]);
    for (torch, _, input, output) in VGG11 {
        header = header
            .tensor(&format!("{torch}.bias"), "F32", &[output])
            .tensor(&format!("{torch}.weight"), "F32", &[output, input, 3, 3]);
    }
    header
        .tensor("head.fc.weight", "I64", &[rows, 512])
        .zeros(&path);
    load(&path).unwrap();
}

#[test]
fn a_missing_tensor_is_named_by_every_name_looked_for() {
    let (_folder, path) = in_folder("other.safetensors");
    Header::default()
        .tensor("conv1.weight", "F32", &[64, 3, 7, 7])
        .zeros(&path);
    let error = load(&path).unwrap_err();
    assert!(matches!(error, Error::MissingTensor { .. }), "{error}");
    let error = error.to_string();
    for part in [
        "other.safetensors",
        "`features.0.weight`",
        "`block1_conv1.weight`",
        "`block1_conv1/kernel`",
        "`base.block1_conv1.weight`",
    ] {
        assert!(error.contains(part), "{error}");
    }

    let mut header = Header::torch();
    let entry = header.entries.remove("features.8.bias").unwrap();
    header.entries.insert("features.8.scale".to_owned(), entry);
    header.zeros(&path);
    let error = load(&path).unwrap_err();
    assert!(
        matches!(&error, Error::MissingTensor { tensor, .. } if tensor == "features.8.bias"),
        "{error}"
    );
}

#[test]
fn another_architecture_is_told_by_its_shapes() {
    let (_folder, path) = in_folder("vgg11.safetensors");
    Header::torch().zeros(&path);
    let found = ConvBase::new(Vgg::Vgg16, Weights::file(&path), &Device::Cpu).unwrap_err();
    // VGG16 has its second convolution at features.2, VGG11 none.
    assert!(
        matches!(&found, Error::MissingTensor { tensor, .. } if tensor == "features.2.weight"),
        "{found}"
    );

    let mut header = Header::torch();
    header.entries["features.11.weight"]["shape"] = json!([256, 512, 3, 3]);
    header.zeros(&path);
    match load(&path).unwrap_err() {
        Error::TensorShape {
            path: file,
            tensor,
            expected,
            found,
        } => {
            assert_eq!((file, tensor), (path, "features.11.weight".to_owned()));
            assert_eq!(expected, [512, 256, 3, 3]);
            assert_eq!(found, [256, 512, 3, 3]);
        }
        error => panic!("{error}"),
    }
}

#[test]
fn integers_are_no_weights() {
    let (_folder, path) = in_folder("quantised.safetensors");
    Header::vgg11("I16", |torch, _, kind| format!("{torch}.{kind}")).zeros(&path);
    let error = load(&path).unwrap_err().to_string();
    assert!(
        error.contains("features.0.weight") && error.contains("I16"),
        "{error}"
    );
}

/// Every header that lies, and a word of what is said of it. None may panic or take memory for what it claims.
#[test]
fn hostile_files_are_refused_by_name() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        framed(
            format!(
                r#"{{"features.0.weight":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#
            )
            .as_bytes(),
        )
    };
    let giant = u64::MAX.to_le_bytes().to_vec();
    // 2⁶¹ − 1 bytes eight times: each is consistent, the end and the header's length pass 2⁶⁴.
    let eight: Map<String, Value> = (0..8u64)
        .map(|k| {
            let size = (1u64 << 61) - 1;
            let entry =
                json!({"dtype": "U8", "shape": [size], "data_offsets": [k * size, (k + 1) * size]});
            (k.to_string(), entry)
        })
        .collect();
    let overlapping = framed(
        json!({
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
        })
        .to_string()
        .as_bytes(),
    );
    let deep = framed(&[b'['; 100_000]);
    let whole = Header::torch().bytes();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "not a safetensors file"),
        ("seven bytes", vec![1; 7], "not a safetensors file"),
        ("a header of 2^64 bytes", giant, "claims a header"),
        (
            "a header of 15 MB",
            (15u64 << 20).to_le_bytes().to_vec(),
            "truncated",
        ),
        (
            "a zip file",
            b"PK\x03\x04\x14\x00\x00\x00rest".to_vec(),
            "a zip archive",
        ),
        (
            "a web page",
            b"<!DOCTYPE html><html>".to_vec(),
            "not a safetensors file",
        ),
        ("an empty header", framed(b""), "header"),
        ("no JSON", framed(b"{\"features.0"), "header"),
        ("no UTF-8", framed(b"{\"\xff\xfe\": 1}"), "header"),
        ("a list", framed(b"[1, 2]"), "header"),
        ("a deep nest", deep, "header"),
        ("no tensors", framed(b"{}"), "features.0.weight"),
        ("an unknown type", tensor("F31", "[2]", "[0, 8]"), "header"),
        (
            "a negative shape",
            tensor("F32", "[-2]", "[0, 8]"),
            "header",
        ),
        (
            "a shape of 2^128",
            tensor(
                "F32",
                "[18446744073709551615, 18446744073709551615]",
                "[0, 8]",
            ),
            "header",
        ),
        (
            "a size of another type",
            tensor("F64", "[2]", "[0, 8]"),
            "header",
        ),
        (
            "offsets backwards",
            tensor("F32", "[2]", "[8, 0]"),
            "header",
        ),
        (
            "offsets past the file",
            tensor("F32", "[1000000000000]", "[0, 4000000000000]"),
            "truncated",
        ),
        (
            "tensors past 2^64",
            framed(Value::Object(eight).to_string().as_bytes()),
            "truncated",
        ),
        ("overlapping tensors", overlapping, "header"),
        (
            "a tensor after a gap",
            tensor("F32", "[2]", "[8, 16]"),
            "header",
        ),
        (
            "metadata that are numbers",
            framed(b"{\"__metadata__\": {\"preprocess\": 1}}"),
            "header",
        ),
        ("no data", whole, "truncated"),
    ];
    let (_folder, path) = in_folder("hostile.safetensors");
    for (what, bytes, expected) in cases {
        std::fs::write(&path, bytes).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(
            error.contains("hostile.safetensors") && error.contains(expected),
            "{what}: {error}"
        );
    }
}

#[test]
fn a_file_cut_short_or_grown_is_refused() {
    let (_folder, path) = in_folder("cut.safetensors");
    Header::torch().zeros(&path);
    let length = std::fs::metadata(&path).unwrap().len();
    let file = File::options().write(true).open(&path).unwrap();
    for (length, expected) in [
        (length - 1, "truncated"),
        (length + 1, "after the last tensor"),
    ] {
        file.set_len(length).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(
            error.contains("cut.safetensors") && error.contains(expected),
            "{error}"
        );
    }
}

#[test]
fn a_folder_or_nothing_is_named() {
    let (folder, path) = in_folder("nothing.safetensors");
    for path in [folder.path(), &path] {
        let error = load(path).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert!(
            error.to_string().contains(&path.display().to_string()),
            "{error}"
        );
    }
}

/// The file has torchvision's names and no metadata, so what its pixels look like must be said.
#[test]
#[ignore = "needs ../shared"]
fn the_shared_vgg16_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/weights/vgg16-imagenet-caffe.safetensors");
    let base = ConvBase::vgg16(Weights::file(&path), &Device::Cpu).unwrap();
    assert_eq!(base.preprocess(), Preprocess::Torch);
    let base = base.with_preprocess(Preprocess::Caffe);
    assert_eq!(base.preprocess(), Preprocess::Caffe);

    // features.0.weight is the file's second tensor, after 64 biases: compare it with the bytes themselves.
    let bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let start = 8 + header + 256;
    let expected: Vec<f32> = bytes[start..start + 64 * 27 * 4]
        .chunks_exact(4)
        .map(|word| f32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    let found: Vec<f32> = base.tensors()[0]
        .1
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap();
    assert_eq!(found, expected);
}
