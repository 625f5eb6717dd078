//! `train`: layouts of folders, what a run leaves, whose folder it is, and what is refused.

use super::{at, classes, fail, headstart, json, read, run, succeed, text, trained};

#[test]
fn a_run_on_class_folders_leaves_all_that_it_should() {
    let trained = trained();
    let metrics = json(&read(&trained.out.join("metrics.json")));
    assert_eq!(metrics["test"]["per_class"].as_array().unwrap().len(), 3);
    assert_eq!(metrics["settings"]["recipe"], "fine-tune");
    let history = json(&read(&trained.out.join("history.json")));
    assert_eq!(history["epochs"].as_array().unwrap().len(), 4);
    assert_eq!(read(&trained.out.join("history.csv")).lines().count(), 5);
    assert!(trained.out.join("model.safetensors").exists());
    let page = read(&trained.out.join("report.html"));
    assert!(
        page.starts_with("<!DOCTYPE html>") || page.trim_start().starts_with("<!DOCTYPE html>")
    );
}

#[test]
fn its_config_repeats_it_and_its_folder_is_not_written_over() {
    let trained = trained();
    let config = trained.out.join("config.toml");
    let folder = tempfile::tempdir().unwrap();
    let again = folder.path().join("again");
    succeed(&["train", "--config", at(&config), "--out", at(&again)]);
    let without_seconds = |folder: &std::path::Path| -> Vec<String> {
        let csv = read(&folder.join("history.csv"));
        csv.lines()
            .map(|line| line.rsplit_once(',').unwrap().0.to_owned())
            .collect()
    };
    assert_eq!(without_seconds(&trained.out), without_seconds(&again));
    assert_eq!(read(&config), read(&again.join("config.toml")));

    let model = std::fs::read(again.join("model.safetensors")).unwrap();
    let told = fail(1, &["train", "--config", at(&config), "--out", at(&again)]);
    for way in ["--force", "--resume", "--out"] {
        assert!(told.contains(way), "{told}");
    }
    assert_eq!(
        std::fs::read(again.join("model.safetensors")).unwrap(),
        model
    );
    let other = [
        "train",
        "--config",
        at(&config),
        "--out",
        at(&again),
        "--seed",
        "2",
        "--force",
    ];
    succeed(&other);
    assert_ne!(
        std::fs::read(again.join("model.safetensors")).unwrap(),
        model
    );

    // Longer: the settings need not be said again.
    succeed(&["train", "--resume", "--out", at(&again), "--epochs", "6"]);
    assert_eq!(read(&again.join("history.csv")).lines().count(), 7);
}

#[test]
fn parts_are_recognised_and_missing_ones_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    classes(&pictures.join("train"), &["a", "b"], 10);
    let train = |out: &str, options: &[&str]| {
        let out = folder.path().join(out);
        let common = [
            "train",
            at(&pictures),
            "--out",
            at(&out),
            "--recipe",
            "linear",
            "--size",
            "32",
        ];
        succeed(&[&common, options].concat())
    };
    let told = train("1", &[]);
    assert!(
        told.contains("16 training, 4 validation and 0 test pictures"),
        "{told}"
    );
    assert!(
        told.contains("validation pictures, since there are none to test on"),
        "{told}"
    );
    let metrics = json(&read(&folder.path().join("1/metrics.json")));
    assert!(metrics["test"].is_null() && metrics["validation"]["accuracy"].is_number());
    assert_eq!(metrics["settings"]["recipe"], "linear");

    classes(&pictures.join("val"), &["a", "b"], 3);
    let told = train("2", &[]);
    assert!(
        told.contains("20 training, 6 validation and 0 test pictures"),
        "{told}"
    );
    let test = folder.path().join("elsewhere");
    classes(&test, &["a", "b"], 2);
    let told = train("3", &["--test", at(&test), "--epochs", "3"]);
    assert!(
        told.contains("20 training, 6 validation and 4 test pictures"),
        "{told}"
    );
    assert_eq!(
        read(&folder.path().join("3/history.csv")).lines().count(),
        4
    );
}

#[test]
fn another_layout_is_told_which_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let told = fail(1, &["train", at(folder.path()), "--out", at(&out)]);
    assert!(
        told.contains("PICTURES/CLASS") && told.contains("PICTURES/train/CLASS"),
        "{told}"
    );
    assert!(!out.exists(), "nothing is left behind");
    let told = fail(1, &["train", "no/such/folder"]);
    assert!(told.contains("no/such/folder"), "{told}");
}

#[test]
fn a_mistake_on_the_command_line_is_found_before_pictures_are_read() {
    for (options, named) in [
        (&["--epochs", "0"][..], "--epochs"),
        (&["--batch-size", "99999999999"], "--batch-size"),
        (&["--size", "0"], "--size"),
        (&["--size", "8"], "--size"),
        (&["--lr", "-1"], "--lr"),
        (&["--lr", "nan"], "--lr"),
        (&["--unfreeze", "layer4"], "--unfreeze"),
        (
            &["--recipe", "linear", "--unfreeze", "block5"],
            "--unfreeze",
        ),
        (&["--recipe", "best"], "--recipe"),
        (&["--base", "resnet51"], "--base"),
        (&["--base", "resnet50", "--weights", "compact"], "--weights"),
        (&["--weights", "no.safetensors"], "no.safetensors"),
        (&["--nonsense"], "--nonsense"),
    ] {
        let told = fail(2, &[&["train", "no/such/folder"], options].concat());
        assert!(told.contains(named), "{options:?}: {told}");
        assert!(!told.contains("no/such/folder:"), "{options:?}: {told}");
    }
    assert_eq!(run(&["train"]).status.code(), Some(2));
}

#[test]
fn help_teaches_and_obeys_no_color() {
    let help = succeed(&["--help"]);
    for taught in ["headstart train pictures", "headstart predict", "exit code"] {
        assert!(help.contains(taught), "{help}");
    }
    let help = succeed(&["train", "--help"]);
    for taught in [
        "PICTURES/train/cat/1.jpg",
        "--resume",
        "--config",
        "[default:",
    ] {
        assert!(help.contains(taught), "{help}");
    }
    let output = headstart(&["train", "--nonsense"])
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    assert!(!text(&output.stderr).contains('\u{1b}'));
    assert!(succeed(&["completions", "bash"]).contains("headstart"));
}

#[test]
fn two_classes_and_a_rate_that_is_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, out) = (folder.path().join("pictures"), folder.path().join("run"));
    classes(&pictures, &["a", "b"], 8);
    let lr = [
        "--lr",
        "auto",
        "--epochs",
        "2",
        "--json",
        "--no-augment",
        "--recipe",
        "notebook",
    ];
    let run = ["train", at(&pictures), "--out", at(&out), "--size", "32"];
    let figures = json(&succeed(&[&run[..], &lr].concat()));
    assert!(figures["settings"]["lr"].is_number() && figures["test"]["auc"].is_number());
    assert!(read(&out.join("config.toml")).contains("lr = "));
    // One unit: its probability of the second class is all there is.
    let page = read(&out.join("report.html"));
    assert!(page.contains("ROC curve"));
}
