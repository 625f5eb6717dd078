//! How many pictures a second several processes train on, and what their sums cost.
//!
//! ```text
//! mpirun -n 2 cargo bench --features mpi --bench ranks -- vgg19 64 last
//! ```
//!
//! A base by its name with random weights, the side of the pictures, and what is trained with the head: `frozen` for
//! nothing, `last`, or `all`. Batches have 32 pictures over all processes together; threads are `RAYON_NUM_THREADS`.
//! One line is printed: processes and threads, pictures a second in the median step, and for each step the megabytes
//! that a process sums, the milliseconds during which a sum is on its way, and those of a round of small messages.

use std::ops::ControlFlow;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use headstart::model::{Arch, Backbone, Pooling};
use headstart::progress::{Verbosity, set_verbosity};
use headstart::train::callback::{Callback, StepEnd};
use headstart::train::communicator::{self, Communicator, Sum};
use headstart::{Classifier, ConvBase, Dataset, Device, Head, Result, RmsProp, Trainer, Weights};
use image::{DynamicImage, RgbImage};

const BATCH: usize = 32;
/// Steps of an epoch, of which the first are not measured, and epochs.
const STEPS: usize = 12;
const WARM_UP: usize = 3;
const EPOCHS: usize = 2;

fn main() {
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [base, side, open] = arguments.as_slice() else {
        println!("what to train: BASE SIDE frozen|last|all");
        return;
    };
    set_verbosity(Verbosity::Silent);
    let side = side.parse().unwrap();
    let ranks = Timed::new(communicator::world().unwrap());
    let times = StepTimes::default();
    let picture = |number: usize| {
        let tint = |x: u32, y: u32| image::Rgb([x as u8, y as u8, (number % 251) as u8]);
        let image = RgbImage::from_fn(side, side, tint);
        (DynamicImage::from(image), number % 2)
    };
    let pictures = |count| Dataset::from_images((0..count).map(picture), &["even", "odd"]).unwrap();
    let (train, validation) = (pictures(BATCH * STEPS), pictures(2));
    Trainer::new(RmsProp::new(1e-6))
        .epochs(EPOCHS)
        .batch_size(BATCH)
        .communicator(ranks.clone())
        .callback(times.clone())
        .fit(&mut model(base, side as usize, open), &train, &validation)
        .unwrap();
    if ranks.rank() == 0 {
        let threads = std::env::var("RAYON_NUM_THREADS").unwrap_or_default();
        let seconds = times.median().as_secs_f64();
        let rate = BATCH as f64 / seconds;
        println!(
            "{base} {side} {open}: {} x {threads} threads, {rate:.2} pictures/s, {:.1} ms a step; {}",
            ranks.size(),
            1e3 * seconds,
            ranks.account()
        );
    }
}

/// A classifier whose base has random weights.
fn model(name: &str, side: usize, open: &str) -> Classifier {
    let arch: Arch = name.parse().unwrap();
    let base = ConvBase::new(arch, Weights::Random { seed: 1 }, &Device::Cpu)
        .unwrap()
        .frozen();
    let blocks = base.blocks();
    let base = match open {
        "frozen" => base,
        "last" => base.unfreeze_from(&blocks[blocks.len() - 1].name).unwrap(),
        "all" => base.unfreeze_from(&blocks[0].name).unwrap(),
        other => panic!("frozen, last or all, not {other}"),
    };
    let head = match name.starts_with("vgg") {
        true => Head::sigmoid().hidden(132),
        false => Head::sigmoid().pooling(Pooling::GlobalAverage),
    };
    let model = Classifier::new(base, head, &["even", "odd"]).unwrap();
    model.input_size(side, side).unwrap()
}

/// Notes when each step ends.
#[derive(Clone, Default)]
struct StepTimes(Arc<Mutex<(Option<Instant>, Vec<Duration>)>>);

impl Callback for StepTimes {
    fn on_step_end(&mut self, step: &StepEnd) -> Result<ControlFlow<()>> {
        let mut times = self.0.lock().unwrap();
        let now = Instant::now();
        if let Some(before) = times.0.replace(now)
            && step.step > WARM_UP
        {
            times.1.push(now - before);
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl StepTimes {
    fn median(&self) -> Duration {
        let mut times = self.0.lock().unwrap().1.clone();
        times.sort();
        times[times.len() / 2]
    }
}

/// A sum, when it began, and where it goes.
type Begun = (Instant, Sum, Sender<Result<Vec<f32>>>);

/// A communicator that notes what its calls cost.
#[derive(Clone, Debug)]
struct Timed {
    inner: Arc<dyn Communicator>,
    /// Hands sums to a thread that waits for them.
    sums: Arc<Mutex<Sender<Begun>>>,
    cost: Arc<Mutex<Cost>>,
}

#[derive(Debug, Default)]
struct Cost {
    bytes: usize,
    summing: Duration,
    gathers: usize,
    gathering: Vec<Duration>,
}

impl Timed {
    fn new(inner: Arc<dyn Communicator>) -> Self {
        let cost = Arc::<Mutex<Cost>>::default();
        let noted = cost.clone();
        let (sums, begun) = channel::<Begun>();
        thread::spawn(move || {
            let mut free = Instant::now();
            for (begun, sum, to) in begun {
                let sum = sum.wait();
                let now = Instant::now();
                // One is on its way at a time.
                noted.lock().unwrap().summing += now - begun.max(free);
                free = now;
                let _ = to.send(sum);
            }
        });
        Self {
            inner,
            sums: Arc::new(Mutex::new(sums)),
            cost,
        }
    }

    /// What a step costs.
    fn account(&self) -> String {
        let mut cost = self.cost.lock().unwrap();
        let steps = (EPOCHS * STEPS) as f64;
        cost.gathering.sort();
        let gather = cost
            .gathering
            .get(cost.gathering.len() / 2)
            .copied()
            .unwrap_or_default();
        format!(
            "{:.2} MB summed in {:.1} ms a step, {:.3} ms a small message of {}",
            cost.bytes as f64 / 1e6 / steps,
            1e3 * cost.summing.as_secs_f64() / steps,
            1e3 * gather.as_secs_f64(),
            cost.gathers,
        )
    }
}

impl Communicator for Timed {
    fn rank(&self) -> usize {
        self.inner.rank()
    }

    fn size(&self) -> usize {
        self.inner.size()
    }

    fn begin_sum(&self, buffer: Vec<f32>) -> Result<Sum> {
        self.cost.lock().unwrap().bytes += 4 * buffer.len();
        let (sender, receiver) = channel();
        let sum = self.inner.begin_sum(buffer)?;
        let _ = self
            .sums
            .lock()
            .unwrap()
            .send((Instant::now(), sum, sender));
        Ok(Sum::new(receiver))
    }

    fn broadcast(&self, bytes: Vec<u8>, from: usize) -> Result<Vec<u8>> {
        self.inner.broadcast(bytes, from)
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let begun = Instant::now();
        let all = self.inner.gather(bytes);
        let mut cost = self.cost.lock().unwrap();
        cost.gathers += 1;
        cost.gathering.push(begun.elapsed());
        all
    }
}
