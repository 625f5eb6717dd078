//! In a terminal bars are drawn; Ctrl-C saves and leaves, and the run goes on with --resume. In a pipe epochs are
//! lines.

use super::{at, classes, fail, headstart, read, run, text};

#[test]
fn in_a_pipe_each_epoch_is_a_line() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, out) = (folder.path().join("pictures"), folder.path().join("run"));
    classes(&pictures, &["a", "b"], 6);
    std::fs::write(pictures.join("a/bad.jpg"), "no picture").unwrap();
    let output = run(&[
        "train",
        at(&pictures),
        "--out",
        at(&out),
        "--epochs",
        "3",
        "--size",
        "32",
    ]);
    let told = text(&output.stderr);
    assert!(output.status.success(), "{told}");
    assert_eq!(told.matches("epoch ").count(), 3, "{told}");
    assert!(
        told.contains("bad.jpg") && !told.contains('\u{1b}'),
        "{told}"
    );
    let said = text(&output.stdout);
    for part in ["What is learnt", "loss (•", "is ╲ called", "Saved to"] {
        assert!(said.contains(part), "{said}");
    }
    assert!(
        said.lines().all(|line| line.chars().count() <= 200),
        "{said}"
    );
}

#[cfg(unix)]
#[test]
fn an_interrupt_in_a_terminal_saves_and_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, out) = (folder.path().join("pictures"), folder.path().join("run"));
    classes(&pictures, &["a", "b"], 20);
    let settings = ["--recipe", "notebook", "--unfreeze", "none", "--size", "32"];
    let mut train = headstart(&[
        "train",
        at(&pictures),
        "--out",
        at(&out),
        "--epochs",
        "3000",
    ]);
    train
        .args(settings)
        .stdin(std::process::Stdio::inherit())
        .env("TERM", "xterm");
    let mut terminal = rexpect::session::spawn_command(train, Some(60_000)).unwrap();
    terminal.exp_string("What is learnt").unwrap();
    // A bar is drawn, over and over on its line.
    terminal.exp_regex(r"epoch \d\d+/3000.*left").unwrap();
    // Somebody else's turn in the same folder is refused meanwhile.
    let told = fail(1, &["train", "--resume", "--out", at(&out)]);
    assert!(told.contains("another run"), "{told}");
    terminal.send_control('c').unwrap();
    terminal.exp_string("--resume").unwrap();
    terminal.exp_eof().unwrap();
    let status = terminal.process().wait().unwrap();
    assert!(format!("{status:?}").contains("130"), "{status:?}");
    assert!(!out.join("model.safetensors").exists());
    let reached = read(&out.join("history.csv")).lines().count() - 1;
    assert!((1..3000).contains(&reached), "{reached} epochs");

    let told = fail(1, &["train", at(&pictures), "--out", at(&out)]);
    assert!(
        told.contains("--resume") && told.contains("--force"),
        "{told}"
    );
    let end = (reached + 2).to_string();
    let output = run(&["train", "--resume", "--out", at(&out), "--epochs", &end]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(read(&out.join("history.csv")).lines().count(), reached + 3);
    assert!(out.join("model.safetensors").exists());
}
