//! The command as several processes, which `mpirun` starts.

use super::{at, classes, headstart, json, read, succeed, text, trained};

/// What so many processes write to the standard output, and to the standard error.
fn by_ranks(ranks: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let launcher = std::env::var("HEADSTART_MPIRUN").unwrap_or_else(|_| "mpirun".to_owned());
    let output = std::process::Command::new(launcher)
        .args(["-n", ranks, env!("CARGO_BIN_EXE_headstart")])
        .args(arguments)
        .env("HF_HUB_OFFLINE", "1")
        .env("RAYON_NUM_THREADS", "1")
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
#[ignore = "needs mpirun"]
fn three_ranks_train_one_run_that_one_resumes() {
    let pictures = tempfile::tempdir().unwrap();
    classes(pictures.path(), &["blue", "green", "red"], 12);
    let folder = tempfile::tempdir().unwrap();
    let (one, three) = (folder.path().join("one"), folder.path().join("three"));
    let arguments = |out| {
        [
            "train",
            at(pictures.path()),
            "--epochs",
            "4",
            "--seed",
            "3",
            "--out",
            out,
        ]
    };
    succeed(&arguments(at(&one)));
    let (code, out, told) = by_ranks("3", &arguments(at(&three)));
    assert_eq!(code, Some(0), "{told}");
    // One process speaks.
    assert_eq!(out.matches("Saved to").count(), 1, "{out}");
    assert_eq!(told.matches("epoch 1/4").count(), 1, "{told}");
    let losses = |folder: &std::path::Path| -> Vec<f64> {
        let history = json(&read(&folder.join("history.json")));
        let epochs = history["epochs"].as_array().unwrap().iter();
        epochs
            .map(|epoch| epoch["loss"].as_f64().unwrap())
            .collect()
    };
    for (a, b) in losses(&one).into_iter().zip(losses(&three)) {
        assert!((a - b).abs() < 1e-3 * a, "{a} {b}");
    }
    assert!(three.join("report.html").exists());
    // A run that is there is not written over, and every process ends.
    let (code, _, told) = by_ranks("2", &arguments(at(&three)));
    assert_ne!(code, Some(0));
    assert!(told.contains("it holds a finished run"), "{told}");
    assert!(
        told.contains("rank 0: it ended before the others"),
        "{told}"
    );
    let longer = ["train", "--resume", "--out", at(&three), "--epochs", "5"];
    succeed(&longer);
    assert_eq!(losses(&three).len(), 5);
}

#[test]
#[ignore = "needs mpirun"]
fn ranks_share_a_folder_and_one_prints_it_in_order() {
    let trained = trained();
    let pictures = tempfile::tempdir().unwrap();
    classes(pictures.path(), &["blue", "red"], 70);
    std::fs::write(pictures.path().join("blue/10.png"), b"no picture").unwrap();
    let arguments = ["predict", at(&trained.out), at(pictures.path()), "--csv"];
    let alone = headstart(&arguments).output().unwrap();
    assert_eq!(alone.status.code(), Some(1));
    for ranks in ["2", "3", "7"] {
        let (code, out, told) = by_ranks(ranks, &arguments);
        assert_eq!(out, text(&alone.stdout), "{ranks} ranks");
        assert_ne!(code, Some(0));
        assert_eq!(told.matches("10.png").count(), 1, "{told}");
    }
    // Other commands would all write to the same files.
    let (code, out, told) = by_ranks("2", &["export", at(&trained.out), "--onnx"]);
    assert_ne!(code, Some(0));
    assert!(
        out.is_empty() && told.contains("2 processes were started"),
        "{told}"
    );
    let (code, _, told) = by_ranks("2", &["predict", at(&trained.out), "-"]);
    assert_ne!(code, Some(0));
    assert!(told.contains("one of several ranks"), "{told}");
}

#[test]
#[ignore = "needs mpirun"]
fn ranks_evaluate_as_one_and_one_of_them_prints() {
    let trained = trained();
    let pictures = tempfile::tempdir().unwrap();
    classes(pictures.path(), &["blue", "green", "red"], 30);
    std::fs::write(pictures.path().join("blue/10.png"), b"no picture").unwrap();
    for json in [&[][..], &["--json"]] {
        let mut arguments = vec!["evaluate", at(&trained.out), at(pictures.path())];
        arguments.extend(json);
        let alone = headstart(&arguments).output().unwrap();
        assert_eq!(alone.status.code(), Some(0));
        for ranks in ["2", "3", "4"] {
            let (code, out, told) = by_ranks(ranks, &arguments);
            assert_eq!(code, Some(0), "{told}");
            assert_eq!(out, text(&alone.stdout), "{ranks} ranks");
            assert_eq!(told.matches("10.png").count(), 1, "{told}");
        }
    }
}

#[test]
#[ignore = "needs mpirun"]
fn ranks_study_as_one_and_one_of_them_writes() {
    let pictures = tempfile::tempdir().unwrap();
    classes(pictures.path(), &["blue", "green", "red"], 14);
    let folder = tempfile::tempdir().unwrap();
    let (one, three) = (folder.path().join("one"), folder.path().join("three"));
    let arguments = |out| ["study", at(pictures.path()), "--json", "--out", out];
    let alone = headstart(&arguments(at(&one))).output().unwrap();
    assert_eq!(alone.status.code(), Some(0));
    let (code, out, told) = by_ranks("3", &arguments(at(&three)));
    assert_eq!(code, Some(0), "{told}");
    assert_eq!(out, text(&alone.stdout));
    for name in ["study.json", "suspects.csv", "study.safetensors"] {
        let [expected, found] = [&one, &three].map(|folder| std::fs::read(folder.join(name)));
        assert!(expected.unwrap() == found.unwrap(), "{name}");
    }
}
