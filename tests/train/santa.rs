//! The `santa` example as its user meets it: exit codes, messages, and whose folder it is.

use crate::common;

use std::io::Read;
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

/// A folder with all that is in another.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &to),
            false => drop(std::fs::copy(&path, to).unwrap()),
        }
    }
}

/// Pictures in `train`, `validation` and `test`.
fn data() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for part in ["train", "validation", "test"] {
        let (pictures, _) = common::colours(4);
        copy(pictures.path(), &folder.path().join(part));
    }
    folder
}

/// A short run with these options.
fn train(data: &Path, out: &Path, options: &[&str]) -> Output {
    let mut command = santa();
    command.arg("--data").arg(data).arg("--out").arg(out);
    command.args(["--epochs", "1", "--unfreeze", "none", "--size", "32"]);
    command.args(options).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_finished_run_is_not_written_over_unless_asked() {
    let (data, out) = (data(), tempfile::tempdir().unwrap());
    let run = |options: &[&str]| train(data.path(), out.path(), options);
    std::fs::write(data.path().join("train/red/bad.jpg"), "no picture").unwrap();
    let first = run(&[]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    // Without a terminal there are lines, and one epoch is one.
    let told = text(&first.stderr);
    assert!(told.contains("reading 9 pictures"), "{told}");
    // What is skipped is told of before training.
    let (before, _) = told.split_once("epoch 1/1 loss").expect(&told);
    assert!(
        before.contains("warning: training: 1 of 9 pictures skipped: red/bad.jpg"),
        "{told}"
    );
    std::fs::remove_file(data.path().join("train/red/bad.jpg")).unwrap();
    assert!(
        text(&first.stdout).contains("1 epoch of batches"),
        "{}",
        text(&first.stdout)
    );
    let model = out.path().join("model.safetensors");
    let before = std::fs::read(&model).unwrap();
    for options in [&["--seed", "2"][..], &["--resume"]] {
        let again = run(options);
        let told = text(&again.stderr);
        assert!(
            !again.status.success() && told.contains("--force"),
            "{told}"
        );
        assert!(told.contains("--out"), "{told}");
        assert_eq!(told.matches("error").count(), 1, "{told}");
        assert_eq!(std::fs::read(&model).unwrap(), before);
    }
    let forced = run(&["--seed", "2", "--force"]);
    assert!(forced.status.success(), "{}", text(&forced.stderr));
    assert_ne!(std::fs::read(&model).unwrap(), before);

    // What is left names the ways on.
    std::fs::remove_file(&model).unwrap();
    std::fs::create_dir(out.path().join("checkpoints")).unwrap();
    std::fs::write(
        out.path()
            .join("checkpoints/checkpoint-00001-000000.safetensors"),
        "",
    )
    .unwrap();
    let told = text(&run(&[]).stderr);
    for way in ["--resume", "--force", "--out"] {
        assert!(told.contains(way), "{told}");
    }

    // Verdicts whose reader leaves, and pictures that are none.
    std::fs::remove_dir_all(out.path().join("checkpoints")).unwrap();
    assert!(run(&[]).status.success());
    let picture = data.path().join("test/red/0.png");
    let mut predict = santa();
    predict.arg("predict").arg(&model).args(vec![&picture; 300]);
    let mut predict = predict
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(predict.stdout.take());
    let mut told = String::new();
    predict
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert!(!told.contains("panicked"), "{told}");
    assert!(predict.wait().unwrap().code().is_some());
    let mut predict = santa();
    let none = data.path().join("none.jpg");
    let output = predict
        .arg("predict")
        .arg(&model)
        .arg(&none)
        .arg(&picture)
        .output()
        .unwrap();
    let told = text(&output.stderr);
    assert_eq!(told.matches("none.jpg").count(), 1, "{told}");
    assert!(!output.status.success() && text(&output.stdout).contains("red/0.png"));
}

#[test]
fn options_are_checked_before_anything_is_read() {
    let out = tempfile::tempdir().unwrap();
    let nowhere = Path::new("no/such/folder");
    for (options, named) in [
        (&["--epochs", "0"][..], "--epochs"),
        (&["--batch-size", "99999999999"], "--batch-size"),
        (&["--size", "0"], "--size"),
        (&["--size", "8"], "--size 8"),
        (&["--lr", "-1"], "--lr"),
        (&["--lr", "nan"], "--lr"),
        (&["--unfreeze", "layer4"], "--unfreeze layer4"),
        (&["--recipe", "linear", "--epochs", "3"], "--epochs"),
        (&["--base", "resnet50"], "--weights compact"),
        (&["--weights", "no.safetensors"], "--weights no.safetensors"),
    ] {
        let mut command = santa();
        let output = command
            .arg("--data")
            .arg(nowhere)
            .arg("--out")
            .arg(out.path())
            .args(options);
        let output = output.output().unwrap();
        let told = text(&output.stderr);
        assert!(
            !output.status.success() && told.contains(named),
            "{options:?}: {told}"
        );
        assert!(!told.contains("no/such/folder"), "{options:?}: {told}");
    }
}

#[test]
fn too_many_classes_and_no_test_pictures_are_named() {
    let (data, out) = (data(), tempfile::tempdir().unwrap());
    for name in [
        "red/0.png",
        "red/1.png",
        "red/2.png",
        "red/3.png",
        "blue/0.png",
        "blue/1.png",
        "blue/2.png",
        "blue/3.png",
    ] {
        std::fs::write(data.path().join("test").join(name), "no picture").unwrap();
    }
    let output = train(data.path(), out.path(), &[]);
    let told = text(&output.stderr);
    assert!(
        !output.status.success() && told.contains("can be used"),
        "{told}"
    );
    // What was learnt is kept all the same.
    assert!(out.path().join("model.safetensors").exists() && told.contains("model.safetensors"));
    for part in ["train", "validation", "test"] {
        let part = data.path().join(part);
        copy(&part.join("red"), &part.join("green"));
    }
    let output = train(data.path(), &out.path().join("other"), &[]);
    let told = text(&output.stderr);
    assert!(
        !output.status.success() && told.contains("--head softmax"),
        "{told}"
    );
}

#[cfg(unix)]
#[test]
fn an_interrupt_ends_with_130_and_can_be_gone_on_from() {
    let (data, out) = (data(), tempfile::tempdir().unwrap());
    let run = |options: &[&str]| {
        let mut command = santa();
        command
            .arg("--data")
            .arg(data.path())
            .arg("--out")
            .arg(out.path());
        command.args(["--epochs", "2000", "--unfreeze", "none", "--size", "32"]);
        command
            .args(options)
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut child = run(&[]);
    let mut told = child.stderr.take().unwrap();
    let mut seen = String::new();
    let mut buffer = [0; 256];
    while !seen.contains("epoch 2/2000") {
        let read = told.read(&mut buffer).unwrap();
        assert!(read > 0, "{seen}");
        seen.push_str(&text(&buffer[..read]));
    }
    // Somebody else's turn in the same folder is refused meanwhile.
    let other = run(&["--resume"]).wait_with_output().unwrap();
    assert!(
        text(&other.stderr).contains("another run"),
        "{}",
        text(&other.stderr)
    );
    let interrupt = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupt.unwrap().success());
    std::thread::spawn(move || std::io::copy(&mut told, &mut std::io::sink()));
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(out.path().join("checkpoints").read_dir().unwrap().count() > 0);
}
