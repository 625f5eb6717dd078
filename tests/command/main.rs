//! The command `headstart` from outside: the real binary on real folders, in pipes, in a terminal, and its page in a
//! browser.

mod browser;
mod figures;
mod folders;
#[cfg(feature = "mpi")]
mod ranks;
mod terminal;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use image::{Rgb, RgbImage};
use tempfile::TempDir;

/// The command, without colours and without the network.
fn headstart(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headstart"));
    command
        .args(arguments)
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null());
    command
}

/// What the command did.
fn run(arguments: &[&str]) -> Output {
    headstart(arguments).output().unwrap()
}

/// What the command wrote to the standard output, if all went well.
#[track_caller]
fn succeed(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// What the command wrote to the standard error, if it ended with this code.
#[track_caller]
fn fail(code: i32, arguments: &[&str]) -> String {
    let output = run(arguments);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
    told
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A path as an argument.
fn at(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Class folders of `count` pictures each, of one colour and some noise.
fn classes(root: &Path, names: &[&str], count: u32) {
    for (index, name) in names.iter().enumerate() {
        std::fs::create_dir_all(root.join(name)).unwrap();
        for number in 0..count {
            picture(
                &root.join(name).join(format!("{number}.png")),
                index,
                number,
            );
        }
    }
}

fn picture(path: &Path, class: usize, number: u32) {
    let mut state = number.wrapping_mul(747_796_405) | 1;
    let tint = [[200, 40, 40], [40, 40, 200], [40, 180, 40], [190, 190, 30]][class];
    let image = RgbImage::from_fn(40, 36, |_, _| {
        Rgb(tint.map(|level: u8| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            level.saturating_add((state % 50) as u8)
        }))
    });
    image.save(path).unwrap();
}

/// A small run that was finished: its pictures, and its folder.
struct Trained {
    _folder: TempDir,
    pictures: PathBuf,
    out: PathBuf,
}

/// A run on three classes, made once.
fn trained() -> &'static Trained {
    static TRAINED: std::sync::OnceLock<Trained> = std::sync::OnceLock::new();
    TRAINED.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let (pictures, out) = (folder.path().join("pictures"), folder.path().join("run"));
        classes(&pictures, &["blue", "green", "red"], 10);
        succeed(&[
            "train",
            at(&pictures),
            "--out",
            at(&out),
            "--epochs",
            "4",
            "--size",
            "32",
        ]);
        Trained {
            _folder: folder,
            pictures,
            out,
        }
    })
}

/// A file of JSON.
fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
