//! What the other commands say: predictions, scores, explanations, comparisons.

use std::io::Write;
use std::process::Stdio;

use super::{at, fail, headstart, json, picture, read, run, succeed, text, trained};

#[test]
fn folders_archives_and_lists_are_predicted_alike() {
    let trained = trained();
    let folder = tempfile::tempdir().unwrap();
    let mixed = folder.path().join("mixed");
    std::fs::create_dir_all(mixed.join("more")).unwrap();
    for number in 0..70 {
        picture(
            &mixed.join(format!("more/{number:02}.png")),
            number as usize % 3,
            number,
        );
    }
    picture(&mixed.join("a \"b\", c.png"), 0, 1);
    let model = at(&trained.out);
    let csv = succeed(&["predict", model, at(&mixed), "--csv", "--top", "2"]);
    assert_eq!(csv.lines().count(), 72);
    assert!(
        csv.starts_with("path,class_1,probability_1,class_2,probability_2\n"),
        "{csv}"
    );
    assert!(csv.contains("a \"\"b\"\", c.png\","), "{csv}");

    let archive = folder.path().join("mixed.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&archive).unwrap());
    tar.append_dir_all("mixed", &mixed).unwrap();
    tar.finish().unwrap();
    let verdicts = |lines: &str| -> Vec<String> {
        let lines = lines.lines().map(|line| {
            line.rsplit_once("mixed")
                .map_or(line, |(_, rest)| rest)
                .to_owned()
        });
        let mut lines: Vec<String> = lines.collect();
        lines.sort();
        lines
    };
    let plain = succeed(&["predict", model, at(&mixed)]);
    assert_eq!(plain.lines().count(), 71);
    assert_eq!(
        verdicts(&succeed(&["predict", model, at(&archive)])),
        verdicts(&plain)
    );

    let mut list = headstart(&["predict", model, "-"]);
    let mut list = list
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = list.stdin.take().unwrap();
    for number in 0..70 {
        writeln!(
            lines,
            "{}",
            mixed.join(format!("more/{number:02}.png")).display()
        )
        .unwrap();
    }
    drop(lines);
    let listed = text(&list.wait_with_output().unwrap().stdout);
    assert_eq!(listed.lines().count(), 70);
    assert!(listed.lines().all(|line| plain.contains(line)), "{listed}");

    for line in succeed(&["predict", model, at(&mixed), "--json"]).lines() {
        let verdict = json(line);
        assert_eq!(verdict["ranked"].as_array().unwrap().len(), 3);
        assert_eq!(verdict["class"], verdict["ranked"][0]["class"]);
    }
}

#[test]
fn bad_pictures_are_named_and_passed_over() {
    let trained = trained();
    let folder = tempfile::tempdir().unwrap();
    for number in 0..40 {
        picture(&folder.path().join(format!("{number:02}.png")), 0, number);
    }
    std::fs::write(folder.path().join("05.png"), "no picture").unwrap();
    std::fs::write(folder.path().join("notes.txt"), "no picture either").unwrap();
    let none = folder.path().join("none.jpg");
    let output = run(&["predict", at(&trained.out), at(folder.path()), at(&none)]);
    let (out, told) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(out.lines().count(), 39, "{out}");
    for bad in ["05.png", "notes.txt", "none.jpg", "3 without a verdict"] {
        assert_eq!(told.matches(bad).count(), 1, "{told}");
    }
    // A reader that leaves is no panic.
    let mut predict = headstart(&["predict", at(&trained.out), at(folder.path())]);
    let mut predict = predict
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(predict.stdout.take());
    let left = predict.wait_with_output().unwrap();
    assert!(
        !text(&left.stderr).contains("panicked"),
        "{}",
        text(&left.stderr)
    );
}

#[test]
fn a_saved_model_scores_as_its_run_did() {
    let trained = trained();
    let model = trained.out.join("model.safetensors");
    let scores = json(&succeed(&[
        "evaluate",
        at(&model),
        at(&trained.pictures),
        "--json",
    ]));
    let support: u64 = scores["per_class"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["support"].as_u64().unwrap())
        .sum();
    assert_eq!(support, 30);
    let told = succeed(&["evaluate", at(&trained.out), at(&trained.pictures)]);
    assert!(
        told.contains("accuracy") && told.contains("confusion"),
        "{told}"
    );
    let told = fail(
        1,
        &["evaluate", at(&trained.pictures), at(&trained.pictures)],
    );
    assert!(told.contains("model.safetensors"), "{told}");
}

#[test]
fn the_report_has_the_figures_of_metrics_json() {
    let trained = trained();
    let page = read(&trained.out.join("report.html"));
    let metrics = json(&read(&trained.out.join("metrics.json")));
    for figure in [
        &metrics["test"]["accuracy"],
        &metrics["test"]["loss"],
        &metrics["calibration_error"],
    ] {
        assert!(
            page.contains(&format!("<dd>{:.4}</dd>", figure.as_f64().unwrap())),
            "{figure}"
        );
    }
    for class in metrics["test"]["per_class"].as_array().unwrap() {
        let cells = ["precision", "recall", "f1"]
            .map(|name| format!("<td>{:.4}</td>", class[name].as_f64().unwrap()));
        assert!(page.contains(&cells.concat()), "{class}");
    }
    // An epoch has four points, and the page fetches nothing.
    assert_eq!(
        page.matches("<circle").count() - reliability_points(&page),
        4 * 4
    );
    assert!(!page.contains("<script") && !page.contains("src=\"http") && !page.contains("url("));
    assert!(page.len() < 2_000_000);

    let again = tempfile::tempdir().unwrap();
    let out = again.path().join("again.html");
    succeed(&["report", at(&trained.out), "--out", at(&out)]);
    assert_eq!(read(&out), page);
    let model = trained.out.join("model.safetensors");
    succeed(&[
        "report",
        at(&model),
        at(&trained.pictures),
        "--out",
        at(&out),
    ]);
    assert!(read(&out).contains("labelled pictures"));
    assert!(fail(2, &["report", at(&model)]).contains("DIR"));
}

fn reliability_points(page: &str) -> usize {
    let plot = page
        .split("aria-label=\"Reliability diagram\"")
        .nth(1)
        .unwrap();
    plot.split("</svg>")
        .next()
        .unwrap()
        .matches("<circle")
        .count()
}

#[test]
fn an_explanation_is_a_picture() {
    let trained = trained();
    let folder = tempfile::tempdir().unwrap();
    let picture = trained.pictures.join("red/0.png");
    let out = folder.path().join("red.png");
    let explain = ["explain", at(&trained.out), at(&picture), "--out", at(&out)];
    let explained = json(&succeed(
        &[
            &explain[..],
            &["--class", "red", "--block", "block3", "--json"],
        ]
        .concat(),
    ));
    assert_eq!(
        (&explained["class"], &explained["block"]),
        (&"red".into(), &"block3".into())
    );
    assert_eq!(explained["map"].as_array().unwrap().len(), 4);
    assert_eq!(
        image::open(&out).unwrap().into_rgb8().dimensions(),
        (40, 36)
    );
    assert!(fail(2, &[&explain[..], &["--class", "pink"]].concat()).contains("--class"));
    assert!(fail(2, &[&explain[..], &["--block", "block9"]].concat()).contains("block1"));
}

#[test]
fn runs_are_compared_and_bases_listed() {
    let trained = trained();
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other");
    let run = [
        "train",
        at(&trained.pictures),
        "--out",
        at(&other),
        "--size",
        "32",
        "--recipe",
        "linear",
    ];
    succeed(&[&run[..], &["--epochs", "2"]].concat());
    let page = folder.path().join("compare.html");
    let compare = ["compare", at(&trained.out), at(&other), "--out", at(&page)];
    let table = succeed(&compare);
    assert!(
        table.contains("fine-tune") && table.contains("linear"),
        "{table}"
    );
    assert_eq!(read(&page).matches("<svg").count(), 2);
    let compared = json(&succeed(&[&compare[..], &["--json"]].concat()));
    assert_eq!(compared["runs"].as_array().unwrap().len(), 2);

    let bases = json(&succeed(&["bases", "--json"]));
    assert_eq!(bases.as_array().unwrap().len(), headstart::bases().len());
    assert!(succeed(&["bases"]).contains("tf_efficientnet_lite0"));
    assert!(fail(2, &["fetch", "resnet51"]).contains("resnet50"));
    let cache = folder.path().join("cache");
    let output = headstart(&["fetch", "resnet18"])
        .env("HF_HUB_CACHE", &cache)
        .output()
        .unwrap();
    assert_eq!(
        output.status.code(),
        Some(1),
        "the network was switched off"
    );
}

#[test]
fn a_model_is_exported() {
    let folder = tempfile::tempdir().unwrap();
    let (onnx, torch) = (
        folder.path().join("a.onnx"),
        folder.path().join("a.safetensors"),
    );
    succeed(&["export", at(&trained().out), "--onnx", "--out", at(&onnx)]);
    assert!(std::fs::metadata(&onnx).unwrap().len() > 1_000_000);
    assert!(fail(2, &["export", at(&trained().out)]).contains("--onnx"));
    precisions(std::fs::metadata(&onnx).unwrap().len());
    // PyTorch has this base, with heads of one layer.
    let other = folder.path().join("other");
    let base = ["--base", "resnet18", "--weights", "random", "--size", "32"];
    let run = [
        "train",
        at(&trained().pictures),
        "--out",
        at(&other),
        "--recipe",
        "linear",
        "--epochs",
        "1",
    ];
    succeed(&[&run[..], &base].concat());
    succeed(&["export", at(&other), "--torch", "--out", at(&torch)]);
    let names = candle_core::safetensors::load(&torch, &headstart::Device::Cpu).unwrap();
    assert!(
        names.contains_key("layer1.0.conv1.weight"),
        "{:?}",
        names.keys()
    );
}

/// The same in half precision and in eight bits, beside a file of so many bytes.
#[track_caller]
fn precisions(whole: u64) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("b.onnx");
    let (run, pictures) = (trained().out.as_path(), trained().pictures.as_path());
    let model = run.join("model.safetensors");
    let export = |model: &std::path::Path, more: &[&str]| {
        let options = ["export", at(model), "--onnx", "--out", at(&out)];
        succeed(&[&options[..], more].concat());
        std::fs::read(&out).unwrap()
    };
    let rounds = |file: &[u8]| file.windows(14).any(|word| word == b"QuantizeLinear");
    let half = export(run, &["--precision", "f16"]);
    assert!((half.len() as u64) < whole * 6 / 10 && !rounds(&half));
    let own = export(run, &["--precision", "int8"]);
    assert!((own.len() as u64) < whole * 35 / 100 && rounds(&own));
    let int8 = ["--precision", "int8", "--calibrate", at(pictures)];
    let other = export(&model, &int8);
    assert!((other.len() as u64) < whole * 35 / 100 && rounds(&other));
    let onnx = ["export", at(&model), "--onnx"];
    for (more, named) in [
        (&["--precision", "int8"][..], "--calibrate DIR"),
        (
            &["--precision", "f16", "--calibrate", at(pictures)],
            "int8 alone",
        ),
        (&["--precision", "int4"], "f16"),
    ] {
        let told = fail(2, &[&onnx[..], more].concat());
        assert!(told.contains(named), "{more:?}: {told}");
    }
    let torch = ["export", at(&model), "--torch", "--precision", "f16"];
    assert!(fail(2, &torch).contains("--precision"));
    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let nothing = ["--precision", "int8", "--calibrate", at(&empty)];
    assert!(fail(1, &[&onnx[..], &nothing].concat()).contains("empty"));
}

/// By the programs `date` and `grep`.
#[test]
#[cfg(target_os = "linux")]
fn a_run_says_when_and_on_what_machine_it_was_trained() {
    let trained = trained();
    let said = |program: &str, arguments: &[&str]| {
        let output = std::process::Command::new(program).args(arguments).output();
        text(&output.unwrap().stdout).trim().to_owned()
    };
    let record = &json(&read(&trained.out.join("metrics.json")))["record"];
    let (date, now) = (
        record["date"].as_str().unwrap(),
        said("date", &["-u", "+%FT%TZ"]),
    );
    assert!(
        date <= now.as_str() && date > "2026-01-01T00:00:00Z",
        "{date}, {now}"
    );
    let page = read(&trained.out.join("report.html"));
    assert!(page.contains(&format!("<dt>trained</dt><dd>{date}</dd>")));
    let line = said("grep", &["-m1", "^model name", "/proc/cpuinfo"]);
    if let Some((_, name)) = line.split_once(':') {
        assert_eq!(record["processor"], name.trim());
        assert!(page.contains("<dt>processor</dt>"));
    }
    // What an earlier version's run does not say is a dash.
    let folder = tempfile::tempdir().unwrap();
    let run = run_of_ones_own(folder.path());
    let mut metrics = json(&read(&run.join("metrics.json")));
    metrics.as_object_mut().unwrap().remove("record");
    std::fs::write(run.join("metrics.json"), metrics.to_string()).unwrap();
    succeed(&["report", at(&run)]);
    let page = read(&run.join("report.html"));
    assert!(
        page.contains("<dt>trained</dt><dd>–</dd>") && page.contains("<dt>threads</dt><dd>–</dd>")
    );
}

#[test]
fn a_history_is_drawn_as_svg_and_as_png() {
    let history = headstart::run::Run::history_of(&trained().out).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (svg, png) = (folder.path().join("a.svg"), folder.path().join("a.PNG"));
    history.plot(&svg).unwrap();
    history.plot(&png).unwrap();
    let drawn = read(&svg);
    assert_eq!(drawn.matches("<circle").count(), 4 * history.epochs.len());
    assert!(drawn.contains("xmlns=\"http://www.w3.org/2000/svg\"") && drawn.contains("accuracy"));
    let pixels = image::open(&png).unwrap().into_rgb8();
    assert_eq!(pixels.dimensions(), (1280, 1280));
    let blue = pixels
        .pixels()
        .filter(|pixel| pixel.0 == [0x2f, 0x7a, 0xe5]);
    assert!(blue.count() > 100, "a curve");
    let refused = history.plot(folder.path().join("a.gif")).unwrap_err();
    assert!(refused.to_string().contains(".svg"), "{refused}");
    headstart::train::metrics::History::default()
        .plot(&svg)
        .unwrap();
}

#[test]
fn pictures_are_studied() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    crate::classes(&pictures, &["cat", "dog"], 12);
    let first = std::fs::read_dir(pictures.join("cat")).unwrap().next();
    let first = first.unwrap().unwrap().path();
    let copy = pictures.join("dog").join("copy.png");
    std::fs::copy(&first, &copy).unwrap();
    let out = folder.path().join("study");
    let arguments = ["study", at(&pictures), "--size", "32", "--out", at(&out)];
    let page = succeed(&arguments);
    assert!(page.contains("copy.png"), "{page}");
    let printed = json(&succeed(&[&arguments[..], &["--json"]].concat()));
    assert_eq!(printed, json(&read(&out.join("study.json"))));
    for file in ["suspects.csv", "study.safetensors"] {
        assert!(out.join(file).is_file(), "{file}");
    }
}

/// A copy of the finished run, to be changed.
fn run_of_ones_own(folder: &std::path::Path) -> std::path::PathBuf {
    let run = folder.join("run");
    std::fs::create_dir(&run).unwrap();
    for file in [
        "model.safetensors",
        "config.toml",
        "history.json",
        "metrics.json",
    ] {
        std::fs::copy(trained().out.join(file), run.join(file)).unwrap();
    }
    run
}

#[test]
fn a_report_shows_what_a_study_found() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    crate::classes(&pictures, &["cat", "dog"], 12);
    let copy = pictures.join("dog/copy.png");
    std::fs::copy(pictures.join("cat/0.png"), &copy).unwrap();
    // Before the run, and in the run's folder.
    let run = folder.path().join("run");
    succeed(&["study", at(&pictures), "--size", "32", "--out", at(&run)]);
    let settings = ["--size", "32", "--epochs", "1", "--recipe", "linear"];
    succeed(&[&["train", at(&pictures), "--out", at(&run)][..], &settings].concat());
    let page = read(&run.join("report.html"));
    let study = page.split("What a study of the pictures found").nth(1);
    let study = study.unwrap().split("</section>").next().unwrap();
    assert!(study.contains("dog/copy.png") && study.contains("cat/0.png"));
    assert!(study.contains("the same file") && study.contains("of two classes"));
    assert!(study.matches("<img src=\"data:image/jpeg").count() >= 2);
    // Afterwards, and elsewhere.
    let other = run_of_ones_own(&run);
    let out = other.join("report.html");
    succeed(&["report", at(&other)]);
    assert!(!read(&out).contains("What a study"));
    succeed(&["report", at(&other), "--study", at(&run)]);
    let page = read(&out);
    assert!(page.contains("not among the pictures here"), "{page}");
    let file = run.join("study.json");
    let model = run.join("model.safetensors");
    let report = ["report", at(&model), at(&pictures), "--study", at(&file)];
    succeed(&[&report[..], &["--out", at(&out)]].concat());
    assert!(read(&out).contains("What a study"));
    // A damaged one is named, before anything is trained.
    std::fs::write(&file, "{\"suspects\": [null]}").unwrap();
    for arguments in [
        &["report", at(&run)][..],
        &["train", "--resume", "--out", at(&run), "--epochs", "2"],
    ] {
        assert!(fail(1, arguments).contains("study.json"));
    }
    assert_eq!(read(&run.join("history.csv")).lines().count(), 2);
}

#[test]
fn a_study_of_many_pictures_with_names_of_any_kind_leaves_the_page_small() {
    let folder = tempfile::tempdir().unwrap();
    let run = run_of_ones_own(folder.path());
    let red = trained().pictures.join("red");
    let path = |number: usize| red.join(format!("{}.png", number % 10));
    let nasty = "<img src=x onerror=alert(1)> \"'";
    let suspect = |number: usize| {
        serde_json::json!({
            "path": path(number), "class": nasty, "looks_like": "blue", "confidence": 0.125, "probability": 0.5,
            "is_likely": number.is_multiple_of(2),
        })
    };
    let place = |number: usize, split: &str| serde_json::json!({ "path": path(number), "class": nasty, "split": split });
    let pair = |number: usize| {
        serde_json::json!({
            "first": place(number, "train"), "second": place(number + 1, "test"), "is_exact": false, "similarity": 0.96,
        })
    };
    let study = serde_json::json!({
        "suspects": (0..20_000).map(suspect).collect::<Vec<_>>(),
        "duplicates": (0..20_000).map(pair).collect::<Vec<_>>(),
    });
    std::fs::write(run.join("study.json"), study.to_string()).unwrap();
    succeed(&["report", at(&run)]);
    let page = read(&run.join("report.html"));
    assert!(page.contains("And 9982 more.") && page.contains("And 19984 more."));
    assert!(page.contains("12.5 %, looks like") && page.contains("nearly the same: 0.96"));
    assert!(!page.contains("<img src=x") && page.contains("&#60;img src=x"));
    assert!(page.len() < 2_000_000, "{}", page.len());
}
