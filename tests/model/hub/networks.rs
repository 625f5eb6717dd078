//! Of every family a network on the hub: its base is fetched, and nothing else of its file.

use candle_core::Device;
use headstart::model::{Arch, Backbone, Hub};
use headstart::{ConvBase, Error, Preprocess, Weights};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::server::{KEPT, Served, Server, hub, snapshot};
use crate::common::numbers::values;
use crate::streams::{Tensors, fixture};

/// A network of timm's on the hub.
struct Network {
    name: &'static str,
    id: &'static str,
    preprocess: Preprocess,
    /// What its file has beside the base.
    rest: &'static [(&'static str, &'static [usize])],
}

const RESNET18: Network = Network {
    name: "resnet18",
    id: "resnet18.tv_in1k",
    preprocess: Preprocess::Torch,
    rest: &[("fc.weight", &[1000, 512]), ("fc.bias", &[1000])],
};
const REPVGG_A0: Network = Network {
    name: "repvgg_a0",
    id: "repvgg_a0.rvgg_in1k",
    preprocess: Preprocess::Torch,
    rest: &[("head.fc.weight", &[1000, 1280]), ("head.fc.bias", &[1000])],
};
const LITE0: Network = Network {
    name: "tf_efficientnet_lite0",
    id: "tf_efficientnet_lite0.in1k",
    preprocess: Preprocess::Half,
    rest: &[
        ("classifier.weight", &[1000, 1280]),
        ("classifier.bias", &[1000]),
    ],
};
const MOBILENET: Network = Network {
    name: "mobilenetv3_large_100",
    id: "mobilenetv3_large_100.ra_in1k",
    preprocess: Preprocess::Torch,
    rest: &[
        ("conv_head.weight", &[1280, 960, 1, 1]),
        ("conv_head.bias", &[1280]),
        ("classifier.weight", &[1000, 1280]),
        ("classifier.bias", &[1000]),
    ],
};

impl Network {
    /// timm's names and shapes, from the fixtures of `bases`.
    fn base(&self) -> Tensors {
        #[derive(Deserialize)]
        struct Fixture {
            tensors: Tensors,
        }
        fixture::<Fixture>(&format!("bases/{}", self.name))
            .0
            .tensors
    }

    /// The file, with a header that was meddled with.
    fn file(&self, meddle: impl FnOnce(&mut Map<String, Value>)) -> Served {
        Served::of(self.base(), self.rest, meddle)
    }

    fn load(&self, weights: Weights) -> headstart::Result<ConvBase> {
        let arch: Arch = self.name.parse().unwrap();
        ConvBase::new(arch, weights, &Device::Cpu)
    }
}

/// Of a base's file, everything but the base is left where it is; the cache then serves it alone.
fn check_network(network: &Network) {
    let server = Server::new(network.file(|_| ()));
    let file = server.file();
    let cache = tempfile::tempdir().unwrap();
    let load = |hub: Hub| network.load(Weights::Hub(hub)).unwrap();
    let base = load(hub(&server, cache.path()));
    assert_eq!(base.preprocess(), network.preprocess);

    let (requests, sent) = server.traffic();
    let path = format!("/timm/{}/resolve/main/model.safetensors", network.id);
    assert!(requests.iter().all(|request| request.path == path));
    // The first 64 KiB hold the header, and may hold something else behind it.
    assert_eq!(requests[0].range, Some(0..64 << 10));
    for request in &requests[1..] {
        let range = request.range.clone().unwrap();
        for (name, _) in network.rest {
            let bytes = file.bytes_of(name);
            let apart = bytes.end <= range.start || range.end <= bytes.start;
            assert!(apart, "{}: {name} in {range:?}", network.name);
        }
    }
    assert!(sent <= file.convolutions + (64 << 10), "{}", network.name);
    let folder = cache.path().join(format!("models--timm--{}", network.id));
    let commit = std::fs::read_to_string(folder.join("refs/main")).unwrap();
    assert_eq!(commit, server.shared.commit);
    let kept = snapshot(cache.path(), network.id, &commit).join(KEPT);
    let kept = std::fs::metadata(kept).unwrap().len();
    assert!(kept < file.convolutions + file.header.len() as u64);

    let again = load(hub(&server, cache.path()));
    let offline = load(hub(&server, cache.path()).offline(true));
    assert!(server.traffic().0.is_empty());

    // RepVGG's branches were added up: by names, its tensors are not the file's.
    let whole = cache.path().join("whole.safetensors");
    file.write(&whole);
    let whole = network.load(Weights::file(whole)).unwrap().tensors();
    for base in [base, again, offline] {
        assert_eq!(base.preprocess(), network.preprocess);
        for ((name, tensor), (_, expected)) in base.tensors().iter().zip(&whole) {
            assert_eq!(values(tensor), values(expected), "{name}");
            if network.name != REPVGG_A0.name {
                file.assert_is(name, tensor);
            }
        }
    }
}

#[test]
fn resnet18_is_fetched_without_its_classifier() {
    check_network(&RESNET18);
}

#[test]
fn repvgg_is_fetched_in_branches_and_added_up() {
    check_network(&REPVGG_A0);
}

#[test]
fn efficientnet_lite_says_what_pixels_must_look_like() {
    check_network(&LITE0);
}

#[test]
fn mobilenet_v3_is_fetched_without_its_last_convolution() {
    check_network(&MOBILENET);
}

#[test]
fn a_header_longer_than_what_is_asked_for_first_is_read_whole() {
    let server = Server::new(MOBILENET.file(|entries| {
        let notes = json!({"notes": "x".repeat(100_000)});
        entries.insert("__metadata__".to_owned(), notes);
    }));
    let cache = tempfile::tempdir().unwrap();
    let file = server.file();
    assert!(file.header.len() > 100_000);
    let base = MOBILENET.load(Weights::Hub(hub(&server, cache.path())));
    for (name, tensor) in base.unwrap().tensors() {
        file.assert_is(&name, &tensor);
    }
    let (requests, sent) = server.traffic();
    let header = file.header.len() as u64;
    assert_eq!(requests[1].range, Some(64 << 10..header));
    assert_eq!(sent, header + file.convolutions);
}

#[test]
fn a_missing_or_misshapen_tensor_of_the_base_is_named_and_nothing_is_kept() {
    // With another shape, or without the tensor.
    let cases: [(&Network, &str, Option<[usize; 4]>, &str); 6] = [
        (
            &MOBILENET,
            "blocks.3.1.bn2.running_var",
            None,
            "`blocks.3.1.bn2.running_var` is missing",
        ),
        (
            &REPVGG_A0,
            "stages.2.5.identity.running_mean",
            None,
            "`stages.2.5.identity.running_mean` is missing",
        ),
        (
            &REPVGG_A0,
            "stem.conv_kxk.conv.weight",
            None,
            "`stem.reparam_conv.weight` or `stem.conv_kxk.conv.weight`",
        ),
        (
            &RESNET18,
            "layer3.0.downsample.0.weight",
            None,
            "`layer3.0.downsample.0.weight` is missing",
        ),
        (
            &MOBILENET,
            "blocks.2.0.conv_dw.weight",
            Some([1, 72, 5, 5]),
            "`blocks.2.0.conv_dw.weight` has shape [1, 72, 5, 5], expected [72, 1, 5, 5]",
        ),
        (
            &REPVGG_A0,
            "stages.1.0.conv_1x1.conv.weight",
            Some([48, 96, 1, 1]),
            "`stages.1.0.conv_1x1.conv.weight` has shape [48, 96, 1, 1], expected [96, 48, 1, 1]",
        ),
    ];
    for (network, name, shape, said) in cases {
        let meddle = |entries: &mut Map<String, Value>| {
            let mut entry = entries.remove(name).unwrap();
            let name = match shape {
                Some(shape) => {
                    entry["shape"] = json!(shape);
                    name
                }
                None => "unheard.of",
            };
            entries.insert(name.to_owned(), entry);
        };
        let server = Server::new(network.file(meddle));
        let cache = tempfile::tempdir().unwrap();
        let error = network.load(Weights::Hub(hub(&server, cache.path())));
        let error = error.unwrap_err();
        assert!(matches!(error, Error::Hub { .. }), "{error:?}");
        let error = error.to_string();
        let place = format!("timm/{}@main, file model.safetensors", network.id);
        for part in [said, &place] {
            assert!(error.contains(part), "{part}: {error}");
        }
        let kept = snapshot(cache.path(), network.id, &server.shared.commit).join(KEPT);
        assert!(!kept.exists());
        assert_eq!(server.traffic().0.len(), 1);
    }
}
