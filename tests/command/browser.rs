//! The report in headless Chromium, through puppeteer: see `browser.mjs`.

use std::path::Path;
use std::process::Command;

use super::{at, classes, picture, succeed};

/// Names that a page must show as text.
const NASTY: [&str; 3] = [
    "<script>alert('1')</script>",
    "\"quoted\" & 'so' שלום 🎅",
    "plain",
];

/// Opens a page, and looks at all that the script knows; screenshots go to the folder for test output.
#[track_caller]
fn look(page: &Path, name: &str, epochs: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = std::env::var("HEADSTART_BROWSER_TOOLS").unwrap_or("target/tools/browser".into());
    let output = Command::new("node")
        .arg(root.join("tests/command/browser.mjs"))
        .args([
            page,
            &root.join(tools),
            Path::new(env!("CARGO_TARGET_TMPDIR")),
        ])
        .args([name, &epochs.to_string()])
        .output()
        .expect("node is installed");
    let told = String::from_utf8_lossy(&output.stderr);
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{told}");
}

#[test]
#[ignore = "needs node, Chromium and two packages of npm: .ci/run installs them"]
fn the_bundled_runs_report_is_sound() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let pictures = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/santa/pictures");
    succeed(&["train", pictures, "--out", at(&out), "--epochs", "8"]);
    look(&out.join("report.html"), "bundled", 8);
}

#[test]
#[ignore = "needs node, Chromium and two packages of npm: .ci/run installs them"]
fn names_are_shown_as_text() {
    let folder = tempfile::tempdir().unwrap();
    let (pictures, out) = (folder.path().join("pictures"), folder.path().join("run"));
    // A file's name has no slash.
    let names = NASTY.map(|name| name.replace('/', "⁄"));
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    classes(&pictures, &names, 8);
    for (index, name) in names.iter().enumerate() {
        picture(
            &pictures
                .join(name)
                .join("<img src=x onerror=alert(1)> \"' مرحبا 🎄.png"),
            (index + 1) % 3,
            7,
        );
    }
    // One picture is there twice.
    std::fs::copy(
        pictures.join(names[0]).join("0.png"),
        pictures.join(names[1]).join("copy.png"),
    )
    .unwrap();
    succeed(&["study", at(&pictures), "--size", "32", "--out", at(&out)]);
    succeed(&[
        "train",
        at(&pictures),
        "--out",
        at(&out),
        "--epochs",
        "2",
        "--size",
        "32",
        "--recipe",
        "linear",
    ]);
    look(&out.join("report.html"), "names", 2);
    let compared = folder.path().join("compare.html");
    succeed(&["compare", at(&out), at(&out), "--out", at(&compared)]);
    look(&compared, "compare", 0);
}
