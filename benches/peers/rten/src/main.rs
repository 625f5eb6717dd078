//! rten, the fastest engine for ONNX that is written in Rust: weights packed while loading, all graph optimizations.
//! Answers the lines that `compare.py` writes to its standard input; `peer.py` says what they are.

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rten::{Model, ModelOptions};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How many of the features are shown beside their sum and their squares' sum.
const SAMPLES: usize = 61;

/// A model and the pictures that pass it.
struct Work {
    model: Model,
    images: NdTensor<f32, 4>,
}

fn main() -> Result<()> {
    let models = std::env::args_os().nth(1).map(PathBuf::from);
    let models = models.ok_or("benches/peers/run.sh starts this")?;
    let mut work = None;
    say("ready 0.27.0")?;
    for line in std::io::stdin().lock().lines() {
        match answer(&models, &line?, &mut work) {
            Ok(answer) => say(&format!("ok {answer}"))?,
            Err(error) => say(&format!("error {error}"))?,
        }
    }
    Ok(())
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn answer(models: &Path, line: &str, work: &mut Option<Work>) -> Result<String> {
    match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["prepare", name] => {
            *work = None;
            let ready = Work::new(models, name)?;
            let answer = fingerprint(&ready.features()?);
            *work = Some(ready);
            Ok(answer)
        }
        ["run", _, times] => {
            let work = work.as_ref().ok_or("nothing is prepared")?;
            Ok(work.median_ms(times.parse()?)?.to_string())
        }
        _ => Err(format!("no command {line}").into()),
    }
}

impl Work {
    /// The work `BASE_NxS`.
    fn new(models: &Path, name: &str) -> Result<Self> {
        let (base, shape) = name
            .rsplit_once('_')
            .ok_or("a work is like resnet18_8x224")?;
        let (pictures, side) = shape.split_once('x').ok_or("a shape is like 8x224")?;
        let shape = [pictures.parse()?, 3, side.parse()?, side.parse()?];
        let mut options = ModelOptions::with_all_ops();
        options.prepack_weights(true);
        Ok(Self {
            model: options.load_file(models.join(format!("{base}.onnx")))?,
            images: NdTensor::from_data(shape, pixels(shape.iter().product())),
        })
    }

    fn features(&self) -> Result<Vec<f32>> {
        let output = self.model.run_one(self.images.view().into(), None)?;
        let output: NdTensor<f32, 4> = output.try_into()?;
        Ok(output.into_data())
    }

    /// One untimed turn, which fetches what the other frameworks have pushed out of the caches, then the median.
    fn median_ms(&self, times: usize) -> Result<f64> {
        self.features()?;
        let mut taken = Vec::with_capacity(times);
        for _ in 0..times {
            let start = Instant::now();
            self.features()?;
            taken.push(1000.0 * start.elapsed().as_secs_f64());
        }
        taken.sort_by(f64::total_cmp);
        Ok((taken[(times - 1) / 2] + taken[times / 2]) / 2.0)
    }
}

/// The same values in 0 to 1 as `pixels` in `peer.py`: a multiplicative hash of the position.
fn pixels(count: usize) -> Vec<f32> {
    let hash = |position: usize| (position as u32).wrapping_mul(2_654_435_761) >> 8;
    (0..count)
        .map(|position| hash(position) as f32 / (1 << 24) as f32)
        .collect()
}

/// What `compare.py` compares: the sum, the squares' sum, and some of the features.
fn fingerprint(features: &[f32]) -> String {
    let values = features.iter().map(|value| f64::from(*value));
    let squares: f64 = values.clone().map(|value| value * value).sum();
    let samples = (0..SAMPLES).map(|sample| f64::from(features[sample * features.len() / SAMPLES]));
    let all = [values.sum(), squares].into_iter().chain(samples);
    let words: Vec<_> = all.map(|value| format!("{value:e}")).collect();
    words.join(" ")
}
