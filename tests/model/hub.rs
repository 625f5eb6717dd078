//! The hub from outside: what is fetched, kept, resumed and refused, against a server on the loopback.
#![cfg(feature = "hub")]

mod networks;
mod server;

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use candle_core::Device;
use headstart::model::arch::BlockTable;
use headstart::model::{Arch, Backbone, Hub, Vgg};
use headstart::{ConvBase, Error, Preprocess, Weights};
use serde_json::{Map, Value, json};

use self::server::{KEPT, Mode, Served, Server, hub, snapshot};

const VGG11_REVISION: &str = "38b46049b490ec2bdb6d4d32b8354c74977f3347";

/// torchvision's convolutions: index in `features`, input and output channels.
const VGG11: [(usize, usize, usize); 8] = [
    (0, 3, 64),
    (3, 64, 128),
    (6, 128, 256),
    (8, 256, 256),
    (11, 256, 512),
    (13, 512, 512),
    (16, 512, 512),
    (18, 512, 512),
];
const VGG13: [(usize, usize, usize); 10] = [
    (0, 3, 64),
    (2, 64, 64),
    (5, 64, 128),
    (7, 128, 128),
    (10, 128, 256),
    (12, 256, 256),
    (15, 256, 512),
    (17, 512, 512),
    (20, 512, 512),
    (22, 512, 512),
];

/// Files of VGGs.
impl Served {
    fn new(layers: &[(usize, usize, usize)]) -> Self {
        Self::with(layers, |_| ())
    }

    /// With a header that was meddled with.
    fn with(
        layers: &[(usize, usize, usize)],
        meddle: impl FnOnce(&mut Map<String, Value>),
    ) -> Self {
        let mut base = Vec::new();
        for (index, input, output) in layers {
            base.push((
                format!("features.{index}.weight"),
                vec![*output, *input, 3, 3],
            ));
            base.push((format!("features.{index}.bias"), vec![*output]));
        }
        let rest: [(&str, &[usize]); 6] = [
            ("head.fc.bias", &[1000]),
            ("head.fc.weight", &[1000, 4096]),
            ("pre_logits.fc1.bias", &[4096]),
            ("pre_logits.fc1.weight", &[4096, 512, 7, 7]),
            ("pre_logits.fc2.bias", &[4096]),
            ("pre_logits.fc2.weight", &[4096, 4096, 1, 1]),
        ];
        Self::of(base, &rest, meddle)
    }

    fn assert_loaded(&self, base: &ConvBase, layers: &[(usize, usize, usize)]) {
        assert_eq!(base.preprocess(), Preprocess::Torch);
        let names = layers.iter().flat_map(|(index, ..)| {
            ["weight", "bias"].map(|kind| format!("features.{index}.{kind}"))
        });
        for (name, (_, tensor)) in names.zip(base.tensors()) {
            self.assert_is(&name, &tensor);
        }
    }
}

impl Server {
    fn vgg11() -> Self {
        Self::new(Served::new(&VGG11))
    }
}

fn load(hub: Hub) -> headstart::Result<ConvBase> {
    ConvBase::vgg11(Weights::Hub(hub), &Device::Cpu)
}

/// The message of a failure, which must be the hub's and name repository, revision and file.
fn refusal(hub: Hub) -> String {
    let error = load(hub).unwrap_err();
    assert!(matches!(error, Error::Hub { .. }), "{error:?}");
    let error = error.to_string();
    for part in ["timm/vgg11.tv_in1k", VGG11_REVISION, "model.safetensors"] {
        assert!(error.contains(part), "{error}");
    }
    error
}

fn vgg11_snapshot(cache: &Path) -> PathBuf {
    snapshot(cache, "vgg11.tv_in1k", VGG11_REVISION)
}

#[test]
fn fetches_the_convolutions_alone_and_once() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    let file = server.file();
    file.assert_loaded(&load(hub(&server, cache.path())).unwrap(), &VGG11);
    let (requests, sent) = server.traffic();
    let path = format!("/timm/vgg11.tv_in1k/resolve/{VGG11_REVISION}/model.safetensors");
    assert!(requests.iter().all(|request| request.path == path));
    assert!(
        requests
            .iter()
            .all(|request| request.authorization.is_none())
    );
    // The header comes with the first 64 KiB, the rest of which may have been sent for nothing.
    let header = file.header.len() as u64;
    assert!(
        (file.convolutions + header..=file.convolutions + (64 << 10)).contains(&sent),
        "{sent} bytes for {} of convolutions",
        file.convolutions
    );

    // Kept beside no leftovers, but for the lock.
    let names: Vec<_> = std::fs::read_dir(vgg11_snapshot(cache.path()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.ends_with(".lock"))
        .collect();
    assert_eq!(names, [KEPT]);

    file.assert_loaded(&load(hub(&server, cache.path())).unwrap(), &VGG11);
    file.assert_loaded(
        &load(hub(&server, cache.path()).offline(true)).unwrap(),
        &VGG11,
    );
    assert!(server.traffic().0.is_empty());
}

#[test]
fn offline_says_what_is_missing_and_asks_nobody() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    let error = refusal(hub(&server, cache.path()).offline(true));
    assert!(error.contains("offline"), "{error}");
    assert!(
        error.contains(&cache.path().display().to_string()),
        "{error}"
    );
    assert!(server.traffic().0.is_empty());
    assert_eq!(std::fs::read_dir(cache.path()).unwrap().count(), 0);
}

#[test]
fn a_whole_file_of_the_hub_s_own_cache_is_used() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    let file = Served::new(&VGG11);
    let folder = vgg11_snapshot(cache.path());
    std::fs::create_dir_all(&folder).unwrap();
    // All zero: a hole on the disk, but for the header.
    let mut whole = std::fs::File::create(folder.join("model.safetensors")).unwrap();
    whole.write_all(&file.header).unwrap();
    whole.set_len(file.length()).unwrap();
    let base = load(hub(&server, cache.path())).unwrap();
    assert_eq!(base.preprocess(), Preprocess::Torch);
    assert!(server.traffic().0.is_empty());
}

#[test]
fn a_server_without_ranges_is_read_as_far_as_needed() {
    let server = Server::vgg11();
    server.set(Mode::NoRanges);
    let cache = tempfile::tempdir().unwrap();
    let file = server.file();
    file.assert_loaded(&load(hub(&server, cache.path())).unwrap(), &VGG11);
    let (requests, sent) = server.traffic();
    assert_eq!(requests.len(), 1);
    // What was under way when the client hung up counts as sent: socket buffers, not the classifier.
    let spare = 32 << 20;
    assert!(sent < file.convolutions + spare, "{sent}");
    let kept = std::fs::metadata(vgg11_snapshot(cache.path()).join(KEPT)).unwrap();
    assert!(kept.len() < file.convolutions + 4096);
}

#[test]
fn a_transfer_that_broke_off_goes_on_where_it_stopped() {
    for ranges in [true, false] {
        let server = Server::vgg11();
        let cache = tempfile::tempdir().unwrap();
        let file = server.file();
        let had = 10 << 20;
        server.set(Mode::Short(had));
        let error = refusal(hub(&server, cache.path()));
        assert!(error.contains("fewer bytes"), "{error}");
        assert!(error.contains(&server.address), "{error}");
        assert!(!vgg11_snapshot(cache.path()).join(KEPT).exists());
        server.traffic();

        server.set(if ranges { Mode::Normal } else { Mode::NoRanges });
        file.assert_loaded(&load(hub(&server, cache.path())).unwrap(), &VGG11);
        let (requests, sent) = server.traffic();
        if ranges {
            let header = file.header.len() as u64;
            let resumed = requests[1].range.clone().unwrap();
            assert_eq!(resumed, header + had..header + file.convolutions);
            assert!(sent <= file.convolutions - had + (64 << 10), "{sent}");
        }
    }
}

#[test]
fn another_version_of_the_file_starts_from_nothing() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    let file = server.file();
    server.set(Mode::Short(10 << 20));
    refusal(hub(&server, cache.path()));
    server.traffic();
    *server.shared.etag.lock().unwrap() = "\"0ddd\"".to_owned();
    server.set(Mode::Normal);
    file.assert_loaded(&load(hub(&server, cache.path())).unwrap(), &VGG11);
    assert!(server.traffic().1 >= file.convolutions);
}

#[test]
fn a_part_that_was_tampered_with_starts_from_nothing() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    server.set(Mode::Short(10 << 20));
    refusal(hub(&server, cache.path()));
    let part = std::fs::read_dir(vgg11_snapshot(cache.path()))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "part")
        })
        .unwrap();
    server.set(Mode::Normal);
    let mut longer = std::fs::read(&part).unwrap();
    longer.resize(60 << 20, 1);
    for bytes in [b"rubbish".to_vec(), vec![], longer] {
        std::fs::write(&part, bytes).unwrap();
        server
            .file()
            .assert_loaded(&load(hub(&server, cache.path())).unwrap(), &VGG11);
        std::fs::remove_file(vgg11_snapshot(cache.path()).join(KEPT)).unwrap();
    }
}

/// Whatever goes wrong is said, leaves no final file, and the next try succeeds.
#[test]
fn every_failure_is_named_and_leaves_the_cache_fit_for_another_try() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    let host = server.address.as_str();
    let giant = "\u{1}\u{2}\u{3}\u{4}\u{5}\u{6}\u{7}\u{8} is no length";
    let not_json = "\u{4}\0\0\0\0\0\0\0{]}[";
    let loops = format!("{host}/again");
    for (mode, expected) in [
        (Mode::Status("401 Unauthorized"), "401"),
        (Mode::Status("403 Forbidden"), "HF_TOKEN"),
        (Mode::Status("404 Not Found"), "404"),
        (Mode::Status("416 Range Not Satisfiable"), "416"),
        (Mode::Status("500 Internal Server Error"), "500"),
        (Mode::Status("503 Service Unavailable"), "503"),
        (Mode::Status("204 No Content"), "204"),
        (
            Mode::Page("<!DOCTYPE html><html>Sign in</html>"),
            "not a safetensors file",
        ),
        (Mode::Page(giant), "not a safetensors file"),
        (Mode::Page(not_json), "damaged header"),
        (Mode::Page(""), "fewer bytes"),
        (Mode::Short(4), "fewer bytes"),
        (Mode::Short(100), "fewer bytes"),
        (Mode::Stall(0), "kept silent for 700ms"),
        (Mode::Stall(100), "kept silent for 700ms"),
        (Mode::Stall(1 << 20), "kept silent for 700ms"),
        (Mode::Silent, "kept silent for 700ms"),
        (Mode::WrongRange, "asked for 0..65536"),
        (Mode::Redirect(loops), "redirects"),
        (
            Mode::Redirect("nowhere".to_owned()),
            "redirects to no address",
        ),
    ] {
        server.set(mode);
        let began = Instant::now();
        let error = refusal(hub(&server, cache.path()));
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(began.elapsed() < Duration::from_secs(4), "{expected}");
        assert!(
            !vgg11_snapshot(cache.path()).join(KEPT).exists(),
            "{expected}"
        );
    }

    server.set(Mode::Normal);
    let reshape = |entries: &mut Map<String, Value>| {
        entries["features.0.weight"]["shape"] = json!([64, 27, 1, 1]);
    };
    let rename = |entries: &mut Map<String, Value>| {
        let entry = entries.remove("features.18.bias").unwrap();
        entries.insert("features.18.scale".to_owned(), entry);
    };
    let retype = |entries: &mut Map<String, Value>| {
        entries["features.3.bias"]["dtype"] = json!("I32");
    };
    let overlap = |entries: &mut Map<String, Value>| {
        entries["features.0.bias"]["data_offsets"] = json!([4, 260]);
    };
    let grow = |entries: &mut Map<String, Value>| {
        let start = entries["pre_logits.fc2.weight"]["data_offsets"][1]
            .as_u64()
            .unwrap();
        let entry = json!({"dtype": "U8", "shape": [100], "data_offsets": [start, start + 100]});
        entries.insert("z".to_owned(), entry);
    };
    for (file, expected) in [
        (
            Served::with(&VGG11, reshape),
            "`features.0.weight` has shape [64, 27, 1, 1]",
        ),
        (
            Served::with(&VGG11, rename),
            "`features.18.bias` is missing",
        ),
        (
            Served::with(&VGG11, retype),
            "`features.3.bias` is of type I32",
        ),
        (Served::with(&VGG11, overlap), "damaged header"),
        (Served::with(&VGG11, grow), "not what the file has"),
    ] {
        server.serve(file);
        let error = refusal(hub(&server, cache.path()));
        assert!(error.contains(expected), "{error}");
        assert!(!vgg11_snapshot(cache.path()).join(KEPT).exists());
    }

    server.serve(Served::new(&VGG11));
    server
        .file()
        .assert_loaded(&load(hub(&server, cache.path())).unwrap(), &VGG11);
}

#[test]
fn nobody_there_is_an_error_with_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let cache = tempfile::tempdir().unwrap();
    let nobody = Hub::from_env()
        .endpoint(&address)
        .cache_dir(cache.path())
        .token(None)
        .offline(false);
    let error = refusal(nobody.clone());
    assert!(error.contains(&address), "{error}");
    let error = refusal(nobody.endpoint("not an address"));
    assert!(error.contains("not an address"), "{error}");
}

#[test]
fn slow_is_not_stalled() {
    let server = Server::vgg11();
    // Over 570 pieces of 64 kB: longer in all than the timeout, never long for one.
    server.set(Mode::Slow(Duration::from_millis(3)));
    let cache = tempfile::tempdir().unwrap();
    let began = Instant::now();
    load(hub(&server, cache.path())).unwrap();
    assert!(began.elapsed() > Duration::from_millis(700));
}

#[test]
fn redirects_are_followed_and_the_token_stays_at_home() {
    let store = Server::vgg11();
    let front = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    front.set(Mode::Redirect(format!(
        "{}/blob?signature=secret",
        store.address
    )));
    let with_token = hub(&front, cache.path()).token(Some("hf_sesame".to_owned()));
    assert!(!format!("{with_token:?}").contains("sesame"));
    store.set(Mode::Status("403 Forbidden"));
    let error = refusal(with_token.clone());
    assert!(
        error.contains(&store.address) && !error.contains("secret"),
        "{error}"
    );
    assert!(!error.contains("sesame"), "{error}");

    store.set(Mode::Normal);
    store
        .file()
        .assert_loaded(&load(with_token).unwrap(), &VGG11);
    let (asked, _) = front.traffic();
    let token = Some("Bearer hf_sesame");
    assert!(
        asked
            .iter()
            .all(|request| request.authorization.as_deref() == token)
    );
    let (fetched, _) = store.traffic();
    assert!(
        fetched.len() >= 2
            && fetched
                .iter()
                .all(|request| request.authorization.is_none())
    );
    assert!(
        fetched
            .iter()
            .all(|request| request.path == "/blob?signature=secret")
    );
}

#[test]
fn a_branch_is_kept_under_its_commit() {
    let server = Server::new(Served::new(&VGG13));
    let cache = tempfile::tempdir().unwrap();
    let load = |hub: Hub| ConvBase::new(Vgg::Vgg13, Weights::Hub(hub), &Device::Cpu);
    server
        .file()
        .assert_loaded(&load(hub(&server, cache.path())).unwrap(), &VGG13);
    let folder = cache.path().join("models--timm--vgg13.tv_in1k");
    let main = std::fs::read_to_string(folder.join("refs/main")).unwrap();
    assert_eq!(main, server.shared.commit);
    assert!(
        snapshot(cache.path(), "vgg13.tv_in1k", &main)
            .join(KEPT)
            .is_file()
    );
    server.traffic();
    load(hub(&server, cache.path()).offline(true)).unwrap();
    assert!(server.traffic().0.is_empty());
}

#[test]
fn two_at_once_fetch_it_once() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    let bases: Vec<_> = std::thread::scope(|scope| {
        let fetches = [0; 3].map(|_| scope.spawn(|| load(hub(&server, cache.path())).unwrap()));
        fetches
            .into_iter()
            .map(|fetch| fetch.join().unwrap())
            .collect()
    });
    let file = server.file();
    bases
        .iter()
        .for_each(|base| file.assert_loaded(base, &VGG11));
    let (_, sent) = server.traffic();
    assert!(sent < file.convolutions + (1 << 20), "{sent}");
}

/// The variables that other programs of the hub use, each read in a process of its own.
#[test]
fn the_environment_is_honoured() {
    const CHILD: &str = "HEADSTART_TEST_CHILD";
    if std::env::var_os(CHILD).is_some() {
        println!("{:?}", Hub::from_env());
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let home = home.path().display().to_string();
    let seen = |variables: &[(&str, &str)]| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        for name in [
            "HF_ENDPOINT",
            "HF_HOME",
            "HF_HUB_CACHE",
            "HF_TOKEN",
            "HF_HUB_OFFLINE",
        ] {
            child.env_remove(name);
        }
        let child = child
            .args(["--exact", "hub::the_environment_is_honoured", "--nocapture"])
            .env("HOME", &home)
            .env(CHILD, "1")
            .envs(variables.iter().copied());
        String::from_utf8(child.output().unwrap().stdout).unwrap()
    };
    let check = |variables: &[(&str, &str)], parts: &[&str]| {
        let seen = seen(variables);
        for part in parts {
            assert!(seen.contains(part), "{part} not in {seen}");
        }
    };
    let default = format!("cache: \"{home}/.cache/huggingface/hub\"");
    check(
        &[],
        &[
            "\"https://huggingface.co\"",
            &default,
            "token_set: false",
            "offline: false",
            "timeout: 30s",
        ],
    );
    check(
        &[("HF_ENDPOINT", "http://mirror")],
        &["endpoint: \"http://mirror\""],
    );
    check(&[("HF_HUB_OFFLINE", "1")], &["offline: true"]);
    check(&[("HF_HUB_OFFLINE", "0")], &["offline: false"]);
    check(&[("HF_TOKEN", "hf_x")], &["token_set: true"]);
    check(
        &[("HF_HUB_CACHE", "/elsewhere")],
        &["cache: \"/elsewhere\""],
    );
    // The stored token lies in the home, wherever the cache is.
    std::fs::write(format!("{home}/token"), "hf_stored\n").unwrap();
    let cache = format!("cache: \"{home}/hub\"");
    check(&[("HF_HOME", &home)], &[&cache, "token_set: true"]);
    check(
        &[("HF_HOME", &home), ("HF_HUB_CACHE", "/elsewhere")],
        &["cache: \"/elsewhere\"", "token_set: true"],
    );
}

#[test]
fn a_base_that_the_hub_has_no_weights_of_is_refused_by_name() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    let layers = Arch::from(Vgg::Vgg11).blocks()[0].layers.clone();
    let own = Arch::new("my-own", vec![BlockTable::new("block1", layers)]);
    for arch in [own, Vgg::Vgg19.width(0.25).unwrap().into()] {
        for offline in [true, false] {
            let weights = Weights::Hub(hub(&server, cache.path()).offline(offline));
            let error = ConvBase::new(arch.clone(), weights, &Device::Cpu).unwrap_err();
            assert!(matches!(error, Error::InvalidOption { .. }), "{error:?}");
            let error = error.to_string();
            for part in [&format!("`{arch}`"), "bases()"] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
    assert!(server.traffic().0.is_empty());
}

/// A kept file, its damage, and what the next load does about it.
#[test]
fn a_damaged_file_of_the_cache_is_fetched_afresh_once() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    load(hub(&server, cache.path())).unwrap();
    let kept = vgg11_snapshot(cache.path()).join(KEPT);
    let whole = std::fs::read(&kept).unwrap();
    let damages: [fn(&mut Vec<u8>); 4] = [
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        |bytes| bytes.truncate(1000),
        |bytes| bytes[20] ^= 4,
        |bytes| bytes.clear(),
    ];
    for damage in damages {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        std::fs::write(&kept, &bytes).unwrap();
        server.traffic();
        // Without the hub it is an error that says so.
        let offline = load(hub(&server, cache.path()).offline(true)).unwrap_err();
        assert!(offline.to_string().contains(KEPT), "{offline}");
        assert!(server.traffic().0.is_empty());
        server
            .file()
            .assert_loaded(&load(hub(&server, cache.path())).unwrap(), &VGG11);
        assert!(!server.traffic().0.is_empty());
        assert!(
            std::fs::read(&kept).unwrap() == whole,
            "it is kept as it was"
        );
        load(hub(&server, cache.path())).unwrap();
        assert!(server.traffic().0.is_empty(), "and not fetched again");
    }
    // What is as bad afresh is an error, not a loop.
    std::fs::write(&kept, b"").unwrap();
    server.set(Mode::Page("<!DOCTYPE html>"));
    refusal(hub(&server, cache.path()));
    assert!(server.traffic().0.len() < 4);
}

#[cfg(unix)]
#[test]
fn a_whole_file_of_the_hubs_programs_is_compared_with_its_name() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    let snapshot = vgg11_snapshot(cache.path());
    std::fs::create_dir_all(&snapshot).unwrap();
    let blob = cache.path().join("0".repeat(64));
    server.file().write(&blob);
    std::os::unix::fs::symlink(&blob, snapshot.join("model.safetensors")).unwrap();
    let error = load(hub(&server, cache.path()).offline(true)).unwrap_err();
    assert!(error.to_string().contains("SHA-256"), "{error}");
    // Ours is fetched beside it, which stays.
    server
        .file()
        .assert_loaded(&load(hub(&server, cache.path())).unwrap(), &VGG11);
    assert!(blob.exists() && snapshot.join(KEPT).exists());
}

#[test]
fn weights_of_another_hash_are_refused() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    let other = "5".repeat(64);
    let error = refusal(hub(&server, cache.path()).expect_blake3(&other));
    assert!(error.contains(&other), "{error}");
    assert!(!vgg11_snapshot(cache.path()).join(KEPT).exists());
    let hash = error
        .split_once("BLAKE3 hash ")
        .unwrap()
        .1
        .split_once(',')
        .unwrap()
        .0;
    load(hub(&server, cache.path()).expect_blake3(hash)).unwrap();
    // The same hash is asked of what was kept, in whatever case it is written.
    load(hub(&server, cache.path()).expect_blake3(hash.to_uppercase())).unwrap();
    refusal(hub(&server, cache.path()).expect_blake3(&other));
    let error = load(hub(&server, cache.path()).expect_blake3("5eed")).unwrap_err();
    assert!(error.to_string().contains("`expect_blake3`"), "{error}");
}

#[test]
fn a_trickle_has_an_end() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    server.set(Mode::Trickle(Duration::from_millis(20)));
    let began = Instant::now();
    let error = refusal(hub(&server, cache.path()));
    assert!(error.contains("bytes in"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(4));
    // Fast enough, but not for all of it.
    server.set(Mode::Slow(Duration::from_millis(50)));
    let error = refusal(hub(&server, cache.path()).deadline(Duration::from_millis(900)));
    assert!(error.contains("took longer than 900ms"), "{error}");
    for time in [Duration::ZERO, Duration::MAX] {
        let error = load(hub(&server, cache.path()).deadline(time)).unwrap_err();
        assert!(error.to_string().contains("`deadline`"), "{error}");
        let error = load(hub(&server, cache.path()).timeout(time)).unwrap_err();
        assert!(error.to_string().contains("`timeout`"), "{error}");
    }
}

#[test]
fn a_busy_hub_is_asked_again_as_it_says_and_not_for_ever() {
    let server = Server::vgg11();
    for (status, asked) in [
        ("429 Too Many Requests\r\nretry-after: 3600", 1),
        ("429 Too Many Requests\r\nretry-after: 0", 4),
        ("503 Service Unavailable", 3),
    ] {
        let cache = tempfile::tempdir().unwrap();
        server.set(Mode::Status(status));
        server.traffic();
        let error = refusal(hub(&server, cache.path()));
        assert!(error.contains("try again later"), "{error}");
        assert_eq!(server.traffic().0.len(), asked, "{status}");
    }
    let cache = tempfile::tempdir().unwrap();
    server.set(Mode::Status("503 Service Unavailable"));
    let shared = server.shared.clone();
    let healed = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        *shared.mode.lock().unwrap() = Mode::Normal;
    });
    load(hub(&server, cache.path())).unwrap();
    healed.join().unwrap();
}

#[test]
fn another_download_is_waited_for_and_not_for_ever() {
    let server = Server::vgg11();
    let cache = tempfile::tempdir().unwrap();
    let folder = vgg11_snapshot(cache.path());
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("{KEPT}.lock"));
    let lock = std::fs::File::create(&path).unwrap();
    lock.lock().unwrap();
    let began = Instant::now();
    let error = refusal(hub(&server, cache.path()).deadline(Duration::from_millis(500)));
    assert!(
        error.contains("another process") && error.contains(".lock"),
        "{error}"
    );
    assert!(began.elapsed() < Duration::from_secs(3));
    drop(lock);
    load(hub(&server, cache.path())).unwrap();
}

#[cfg(unix)]
#[test]
fn links_in_the_cache_are_not_written_through() {
    let server = Server::vgg11();
    for name in [format!("{KEPT}.lock"), format!("{KEPT}.5eed.part")] {
        for hard in [false, true] {
            let cache = tempfile::tempdir().unwrap();
            let folder = vgg11_snapshot(cache.path());
            std::fs::create_dir_all(&folder).unwrap();
            let victim = cache.path().join("victim");
            std::fs::write(&victim, "precious").unwrap();
            let link = folder.join(&name);
            match hard {
                true => std::fs::hard_link(&victim, &link).unwrap(),
                false => std::os::unix::fs::symlink(&victim, &link).unwrap(),
            }
            let error = load(hub(&server, cache.path())).unwrap_err().to_string();
            assert!(
                error.contains(&name) && error.contains("remove it"),
                "{error}"
            );
            assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        }
    }
}
