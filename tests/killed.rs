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

/// Kills so many runs, each once or twice, and finishes each.
fn kill(runs: u32) {
    let (pictures, _) = common::colours(8);
    let folder = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let expected = finish(pictures.path(), folder.path());
    let whole = begun.elapsed();
    let mut survived = 0;
    for run in 0..runs {
        let folder = tempfile::tempdir().unwrap();
        // The golden ratio's multiples are spread evenly over [0, 1).
        let moments = [f64::from(run) * 0.618_034, f64::from(run) * 0.754_878];
        for moment in &moments[..1 + run as usize % 2] {
            let mut child = start(pictures.path(), folder.path());
            std::thread::sleep(Duration::from_secs_f64(
                whole.as_secs_f64() * moment.fract(),
            ));
            // SIGKILL, where there are signals.
            child.kill().unwrap();
            survived += u32::from(child.wait().unwrap().success());
        }
        let end = finish(pictures.path(), folder.path());
        assert!(end == expected, "run {run} ended elsewhere");
    }
    assert!(survived < runs, "none was killed before its end");
    println!(
        "{runs} of {runs} runs ended with the same weights; {survived} ended before their kill"
    );
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
