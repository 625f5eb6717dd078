//! The `santa` example as its user meets it: what it writes, what it refuses, and whose folder it is.

use crate::common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The example, built if need be.
fn santa() -> Command {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let path = BUILT.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args(["build", "--example", "santa", "--message-format=json"])
            .stderr(Stdio::null())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let text = String::from_utf8(built.stdout).unwrap();
        let messages = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let executable =
            messages.filter_map(|message| Some(message["executable"].as_str()?.to_owned()));
        let mut executable = executable;
        executable.next_back().expect("the example builds").into()
    });
    Command::new(path)
}

/// A short run with these options.
fn train(data: &Path, out: &Path, options: &[&str]) -> Output {
    let mut command = santa();
    command.arg("--data").arg(data).arg("--out").arg(out);
    command.args(["--epochs", "1", "--recipe", "notebook", "--size", "32"]);
    command.args(options).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_run_on_class_folders_is_kept() {
    let ((data, _), out) = (common::colours(8), tempfile::tempdir().unwrap());
    let out = out.path().join("run");
    std::fs::write(data.path().join("red/bad.jpg"), "no picture").unwrap();
    let run = |options: &[&str]| train(data.path(), &out, options);
    let first = run(&["--unfreeze", "none"]);
    let told = text(&first.stderr);
    assert!(first.status.success(), "{told}");
    // Without a terminal there are lines, and one epoch is one.
    assert!(
        told.contains("epoch 1/1 loss") && told.contains("red/bad.jpg"),
        "{told}"
    );
    let said = text(&first.stdout);
    assert!(
        said.contains("1 epoch of batches") && said.contains("Some verdicts"),
        "{said}"
    );
    let model = out.join("model.safetensors");
    let before = std::fs::read(&model).unwrap();
    let again = run(&["--seed", "2"]);
    let told = text(&again.stderr);
    assert!(
        !again.status.success() && told.contains("finished run"),
        "{told}"
    );
    assert_eq!(std::fs::read(&model).unwrap(), before);
}

#[test]
fn the_head_follows_the_number_of_classes() {
    let ((data, _), out) = (common::colours(6), tempfile::tempdir().unwrap());
    std::fs::create_dir(data.path().join("green")).unwrap();
    for number in 0..6 {
        let [from, to] =
            ["red", "green"].map(|class| data.path().join(format!("{class}/{number}.png")));
        std::fs::copy(from, to).unwrap();
    }
    let run = train(data.path(), &out.path().join("run"), &[]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let refused = train(
        data.path(),
        &out.path().join("other"),
        &["--head", "sigmoid"],
    );
    let told = text(&refused.stderr);
    assert!(
        !refused.status.success() && told.contains("Head::softmax(3)"),
        "{told}"
    );
}

#[test]
fn options_are_checked_before_anything_is_read() {
    let out = tempfile::tempdir().unwrap();
    for (options, named) in [
        (&["--epochs", "0"][..], "epochs"),
        (&["--size", "8"], "size"),
        (&["--lr", "nan"], "lr"),
        (&["--unfreeze", "layer4"], "layer4"),
        (
            &["--base", "resnet50", "--weights", "compact"],
            "imagenet, random or a file",
        ),
        (&["--weights", "no.safetensors"], "no.safetensors"),
    ] {
        let mut command = santa();
        let command = command.args(["--data", "no/such/folder", "--out"]);
        let output = command.arg(out.path()).args(options).output().unwrap();
        let told = text(&output.stderr);
        assert!(
            !output.status.success() && told.contains(named),
            "{options:?}: {told}"
        );
        assert!(!told.contains("no/such/folder"), "{options:?}: {told}");
    }
}
