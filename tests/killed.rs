//! Runs that are killed at random moments and go on end with the weights of one that never was.

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use candle_core::Device;
use headstart::{
    AdamW, Augmenter, Checkpoints, Classifier, ConvBase, DirectoryDataset, Head, Schedule, Trainer,
    Weights,
};

/// Where the child finds pictures, and the folder it works in.
const PICTURES: &str = "HEADSTART_TEST_PICTURES";
const FOLDER: &str = "HEADSTART_TEST_FOLDER";

/// What is killed: this test binary, asked for this one test.
#[test]
#[ignore = "is run by the others"]
fn child() {
    let (Ok(pictures), Ok(folder)) = (std::env::var(PICTURES), std::env::var(FOLDER)) else {
        return;
    };
    let folder = Path::new(&folder);
    let dataset = DirectoryDataset::open(pictures).unwrap();
    let base = ConvBase::vgg11(Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    let head = Head::sigmoid().hidden(8).dropout(0.3);
    let model = Classifier::new(base.frozen(), head, &["blue", "red"]).unwrap();
    let mut model = model.input_size(32, 32).unwrap();
    let history = Trainer::new(AdamW::new(1e-3))
        .epochs(6)
        .schedule(Schedule::one_cycle())
        .batch_size(4)
        .augment(Augmenter::notebook())
        .checkpoint(
            Checkpoints::new(folder.join("checkpoints"))
                .every_steps(1)
                .keep(2),
        )
        .resume(folder.join("checkpoints"))
        .fit(&mut model, &dataset, &dataset)
        .unwrap();
    let losses: Vec<_> = history
        .epochs
        .iter()
        .map(|e| [e.loss, e.val_loss])
        .collect();
    let weights: Vec<(String, Vec<f32>)> = model
        .head()
        .tensors()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.flatten_all().unwrap().to_vec1().unwrap()))
        .collect();
    // Floating-point numbers are written so that different ones differ.
    let end = serde_json::to_string(&(losses, weights)).unwrap();
    std::fs::write(folder.join("end"), end).unwrap();
}

fn start(pictures: &Path, folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env(PICTURES, pictures)
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

fn finish(pictures: &Path, folder: &Path) -> String {
    assert!(start(pictures, folder).wait().unwrap().success());
    std::fs::read_to_string(folder.join("end")).unwrap()
}

/// Checkpoints a whole run writes: one after each of an epoch's four steps, one after its validation.
const LAST: usize = 6 * 5;

/// How many of them a run has written.
fn progress(folder: &Path) -> usize {
    let places = std::fs::read_dir(folder.join("checkpoints"))
        .into_iter()
        .flatten();
    let places = places.filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let (epochs, steps) = name
            .strip_prefix("checkpoint-")?
            .strip_suffix(".safetensors")?
            .split_once('-')?;
        Some(5 * epochs.parse::<usize>().unwrap() + steps.parse::<usize>().unwrap())
    });
    places.max().unwrap_or(0)
}

/// Starts a run and kills it a while after so many of its checkpoints; whether it was alive until then.
fn start_and_kill(pictures: &Path, folder: &Path, checkpoints: usize, after: Duration) -> bool {
    let mut child = start(pictures, folder);
    while progress(folder) < checkpoints && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(after);
    // SIGKILL, where there are signals. A child that ended can no longer be killed.
    let _ = child.kill();
    let status = child.wait().unwrap();
    assert!(status.code() != Some(101), "the run failed by itself");
    !status.success()
}

/// Kills so many runs, every other one twice, and finishes each.
fn kill(runs: u32) {
    let (pictures, _) = common::colours(8);
    let pictures = pictures.path();
    let folder = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let expected = finish(pictures, folder.path());
    let step = begun.elapsed() / LAST as u32;
    let (mut kills, mut late) = (0, 0);
    // Multiples of these are spread evenly over the square.
    let share = |index: u32, by: f64| (f64::from(index) * by).fract();
    for run in 0..runs {
        // One that ended before it was to be killed does not count: another moment is tried.
        let (folder, reached) = loop {
            let index = run + runs * late;
            let folder = tempfile::tempdir().unwrap();
            let reached = (share(index, 0.754_878) * LAST as f64) as usize;
            let after = step.mul_f64(share(index, 0.569_840));
            if start_and_kill(pictures, folder.path(), reached, after) {
                break (folder, reached);
            }
            late += 1;
            assert!(late <= runs, "runs end before they can be killed");
        };
        kills += 1;
        if run % 2 == 1 {
            let reached = usize::midpoint(reached, LAST);
            let again = start_and_kill(pictures, folder.path(), reached, step / 2);
            kills += u32::from(again);
        }
        let end = finish(pictures, folder.path());
        assert!(end == expected, "run {run} ended elsewhere");
    }
    println!("{runs} of {runs} runs ended with the same weights after {kills} kills");
}

#[test]
fn a_killed_run_ends_with_the_same_weights() {
    kill(3);
}

#[test]
#[ignore = "takes minutes"]
fn fifty_killed_runs_end_with_the_same_weights() {
    kill(50);
}
