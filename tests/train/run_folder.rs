//! A folder belongs to one run, however the one before ended.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common;

use headstart::train::RunFolder;
use headstart::{Checkpoints, Classifier, Head, Sgd, Trainer};

const FOLDER: &str = "HEADSTART_TEST_FOLDER";

fn fit(folder: &Path) -> headstart::Result<headstart::train::metrics::History> {
    let (_pictures, dataset) = common::colours(2);
    let model = Classifier::new(common::frozen_base(), Head::sigmoid(), &["blue", "red"]).unwrap();
    let mut model = model.input_size(32, 32).unwrap();
    let trainer = Trainer::new(Sgd::new(0.01)).checkpoint(Checkpoints::new(folder));
    trainer.fit(&mut model, &dataset, &dataset)
}

/// Takes a folder, says so, and waits to be killed.
#[test]
#[ignore = "is run by the other"]
fn child() {
    let Ok(folder) = std::env::var(FOLDER) else {
        return;
    };
    let _taken = RunFolder::take(&folder).unwrap();
    std::fs::write(Path::new(&folder).join("ready"), "").unwrap();
    std::thread::sleep(std::time::Duration::from_secs(60));
}

#[test]
fn another_process_is_refused_and_a_killed_one_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["run_folder::child", "--exact", "--ignored", "--nocapture"])
        .env(FOLDER, folder.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !folder.path().join("ready").exists() {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let error = fit(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains(&format!("process {}", child.id())),
        "{error}"
    );
    assert!(error.contains("another folder"), "{error}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(folder.path().join("run.lock").exists());
    fit(folder.path()).unwrap();
    assert!(!folder.path().join("run.lock").exists());
}

#[test]
fn runs_of_one_process_are_told_apart_too() {
    let folder = tempfile::tempdir().unwrap();
    // Somebody else's folder of an odd name is left alone.
    std::fs::create_dir(folder.path().join(".headstart-x")).unwrap();
    let taken = RunFolder::take(folder.path()).unwrap();
    assert!(fit(folder.path()).is_err());
    drop(taken);
    fit(folder.path()).unwrap();
    // What a finished run left is not mixed with another's, and the way on is named.
    let error = fit(folder.path()).unwrap_err().to_string();
    for way in ["resume", "another folder", "delete"] {
        assert!(error.contains(way), "{error}");
    }
}

#[cfg(unix)]
#[test]
fn a_lock_that_is_a_link_is_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let victim = folder.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::os::unix::fs::symlink(&victim, run.join("run.lock")).unwrap();
    let error = RunFolder::take(&run).unwrap_err().to_string();
    assert!(error.contains("a link"), "{error}");
    assert_eq!(std::fs::read_to_string(victim).unwrap(), "precious");
}
