//! Runs that are killed at random moments and go on end with the weights of one that never was.

use crate::common;
use crate::common::numbers::values;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use headstart::model::Backbone;
use headstart::model::Vgg;
use headstart::train::optimizer::Schedule;
use headstart::{
    AdamW, Augmenter, Block, Checkpoints, Classifier, ConvBase, Dataset, Head, Trainer, Weights,
};

/// Where the child finds pictures, the folder it works in, and the block of the base that it opens, if any.
const PICTURES: &str = "HEADSTART_TEST_PICTURES";
const FOLDER: &str = "HEADSTART_TEST_FOLDER";
const OPEN: &str = "HEADSTART_TEST_OPEN";

/// What is killed: this test binary, asked for this one test.
#[test]
#[ignore = "is run by the others"]
fn child() {
    let (Ok(pictures), Ok(folder)) = (std::env::var(PICTURES), std::env::var(FOLDER)) else {
        return;
    };
    let folder = Path::new(&folder);
    let open = std::env::var(OPEN).ok();
    let dataset = Dataset::open(pictures).unwrap();
    let vgg = Vgg::Vgg11.width(0.25).unwrap();
    let mut base = ConvBase::new(vgg, Weights::Random { seed: 3 }, &Device::Cpu)
        .unwrap()
        .frozen();
    if let Some(block) = &open {
        base = base.unfreeze(block.parse::<Block>().unwrap()).unwrap();
    }
    let head = Head::sigmoid().hidden(8).dropout(0.3);
    let model = Classifier::new(base, head, &["blue", "red"]).unwrap();
    let mut model = model.input_size(32, 32).unwrap();
    let untrained = bits(model.base().tensors());
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
    let base = bits(model.base().tensors());
    assert_eq!(base != untrained, open.is_some(), "what is open is trained");
    let losses = history
        .epochs
        .iter()
        .flat_map(|e| [e.loss, e.val_loss.unwrap()]);
    let losses: Vec<u8> = losses.flat_map(f64::to_le_bytes).collect();
    let end = [losses, base, bits(model.head().tensors())].concat();
    std::fs::write(folder.join("end"), end).unwrap();
}

/// Names and numbers, so that different ones differ.
fn bits(tensors: Vec<(String, Tensor)>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, tensor) in tensors {
        bytes.extend(name.into_bytes());
        bytes.extend(values(&tensor).into_iter().flat_map(f32::to_le_bytes));
    }
    bytes
}

/// A run's pictures, and the block that is open in it beside the head.
struct Case<'a> {
    pictures: &'a Path,
    open: Option<Block>,
}

impl Case<'_> {
    fn start(&self, folder: &Path) -> Child {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["crash_resume::child", "--exact", "--ignored", "--nocapture"])
            .env(PICTURES, self.pictures)
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        if let Some(block) = self.open {
            command.env(OPEN, block.to_string());
        }
        command.spawn().unwrap()
    }

    fn finish(&self, folder: &Path) -> Vec<u8> {
        assert!(self.start(folder).wait().unwrap().success());
        std::fs::read(folder.join("end")).unwrap()
    }

    /// Starts a run and kills it a while after so many of its checkpoints; whether it was alive until then.
    fn start_and_kill(&self, folder: &Path, checkpoints: usize, after: Duration) -> bool {
        let mut child = self.start(folder);
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

/// Kills so many runs, every other one twice, and finishes each.
fn kill(runs: u32, open: Option<Block>) {
    let (pictures, _) = common::colours(8);
    let case = Case {
        pictures: pictures.path(),
        open,
    };
    let folder = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    let expected = case.finish(folder.path());
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
            if case.start_and_kill(folder.path(), reached, after) {
                break (folder, reached);
            }
            late += 1;
            assert!(late <= runs, "runs end before they can be killed");
        };
        kills += 1;
        if run % 2 == 1 {
            let reached = usize::midpoint(reached, LAST);
            let again = case.start_and_kill(folder.path(), reached, step / 2);
            kills += u32::from(again);
        }
        let end = case.finish(folder.path());
        assert!(end == expected, "run {run} ended elsewhere");
    }
    let open = open.map_or("the head alone".to_owned(), |block| {
        format!("{block} and head")
    });
    println!("{open}: {runs} of {runs} runs ended with the same weights after {kills} kills");
}

#[test]
fn a_killed_run_ends_with_the_same_weights() {
    kill(3, None);
}

#[test]
fn a_killed_run_with_an_open_block_ends_with_the_same_weights() {
    kill(3, Some(Block::Conv5));
}

#[test]
#[ignore = "takes minutes"]
fn a_hundred_killed_runs_end_with_the_same_weights() {
    kill(50, None);
    kill(50, Some(Block::Conv5));
}
