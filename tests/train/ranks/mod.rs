//! Several ranks do what one does.

mod hub;
#[cfg(feature = "mpi")]
mod mpi;
mod shares;
mod tensors;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use headstart::model::{Backbone, Vgg};
use headstart::train::callback::{Callback, StepEnd};
use headstart::train::communicator::{Alone, Communicator};
use headstart::train::metrics::History;
use headstart::train::optimizer::{AnyOptimizer, Clip, Schedule};
use headstart::train::{Checkpoints, Phase};
use headstart::{
    AdamW, Augmenter, Block, Classifier, ConvBase, Dataset, Device, EarlyStopping, Error,
    FeatureCache, Head, Result, RmsProp, Sgd, Trainer, Weights,
};

use self::hub::{Member, together};
use crate::common;
use crate::common::numbers::{bits, norm, values};

/// 11 pictures a class: with batches of 6 the last has 4.
const PICTURES: u32 = 11;

/// A way to train: its name, the model and the trainer.
///
/// AdamW moves what has next to no gradient as far as all else, in a direction that rounding decides: with open blocks
/// of random weights two instruction sets, and candle's own operations, differ by 3e-4 after three epochs on one rank.
/// So it has a head to train here.
type Case = (&'static str, fn() -> Classifier, fn() -> Trainer);

fn vgg(first: Option<Block>) -> Classifier {
    let vgg = Vgg::Vgg11.width(0.125).unwrap();
    let base = ConvBase::new(vgg, Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    let base = match first {
        Some(first) => base.frozen().unfreeze_from(first).unwrap(),
        None => base.frozen(),
    };
    let head = Head::sigmoid().hidden(8).dropout(0.3);
    model(base, head)
}

fn model(base: ConvBase, head: Head) -> Classifier {
    let model = Classifier::new(base, head, &["blue", "red"]).unwrap();
    model.input_size(32, 32).unwrap()
}

fn trainer(optimizer: impl Into<AnyOptimizer>) -> Trainer {
    Trainer::new(optimizer).epochs(3).batch_size(6).seed(5)
}

fn varied(optimizer: impl Into<AnyOptimizer>) -> Trainer {
    trainer(optimizer)
        .augment(Augmenter::notebook())
        .class_weights([1.0, 2.5])
}

const CASES: [Case; 8] = [
    ("frozen", || vgg(None), || varied(RmsProp::new(1e-3))),
    (
        "last block open",
        || vgg(Some(Block::Conv5)),
        || varied(RmsProp::new(1e-4)),
    ),
    (
        "all open",
        || vgg(Some(Block::Conv1)),
        || varied(Sgd::new(1e-3).momentum(0.9)).clip(Clip::Norm(1.0)),
    ),
    (
        "cached",
        || vgg(Some(Block::Conv5)),
        || varied(RmsProp::new(1e-4)).feature_cache(FeatureCache::in_memory().views(2)),
    ),
    (
        "cached, all frozen, plain",
        || vgg(None),
        || {
            let cache = FeatureCache::in_memory();
            trainer(AdamW::new(1e-3))
                .feature_cache(cache)
                .label_smoothing(0.1)
        },
    ),
    (
        "in phases",
        || vgg(None),
        || {
            let last = Phase::new(1).unfreeze([Block::Conv5]).learning_rate(1e-4);
            let phases = [Phase::new(2), last.schedule(Schedule::cosine(0.0))];
            Trainer::new(RmsProp::new(1e-3))
                .phases(phases)
                .batch_size(6)
        },
    ),
    (
        "a network",
        || {
            let base = ConvBase::resnet18(Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
            model(
                base.frozen().unfreeze_from("layer4").unwrap(),
                Head::softmax(2),
            )
        },
        || varied(Sgd::new(1e-3)),
    ),
    (
        "batches of one picture and two",
        || vgg(Some(Block::Conv5)),
        || trainer(Sgd::new(1e-3)).batch_size(3).epochs(1),
    ),
];

/// The mean loss after each step.
#[derive(Clone, Default)]
struct Losses(Arc<Mutex<Vec<f64>>>);

impl Callback for Losses {
    fn on_step_end(&mut self, step: &StepEnd) -> Result<ControlFlow<()>> {
        self.0.lock().unwrap().push(step.loss);
        Ok(ControlFlow::Continue(()))
    }
}

/// How a run ended: the losses of its steps, its history and all weights.
struct End {
    losses: Vec<f64>,
    history: History,
    weights: Vec<Vec<f32>>,
    bits: Vec<Vec<u32>>,
}

fn end(mut model: Classifier, trainer: Trainer, dataset: &Dataset) -> Result<End> {
    let losses = Losses::default();
    let trainer = trainer.callback(losses.clone());
    let history = trainer.fit(&mut model, dataset, dataset)?;
    let (base, head) = (model.base().tensors(), model.head().tensors());
    let tensors: Vec<_> = base
        .into_iter()
        .chain(head)
        .map(|(_, tensor)| tensor)
        .collect();
    let losses = losses.0.lock().unwrap().clone();
    Ok(End {
        losses,
        history,
        weights: tensors.iter().map(values).collect(),
        bits: tensors.iter().map(bits).collect(),
    })
}

fn run((_, model, trainer): &Case, ranks: usize, dataset: &Dataset) -> Vec<End> {
    together(ranks, |member| {
        end(model(), trainer().communicator(member), dataset).unwrap()
    })
}

/// The relative distance of two lists of numbers.
fn distance(found: impl Iterator<Item = f64>, expected: impl Iterator<Item = f64> + Clone) -> f64 {
    let differences = found.zip(expected.clone()).map(|(a, b)| a - b);
    norm(differences) / norm(expected).max(1e-30)
}

fn flat(weights: &[Vec<f32>]) -> impl Iterator<Item = f64> + Clone {
    weights.iter().flatten().map(|x| f64::from(*x))
}

/// Compares with one rank's end, and returns the larger distance, of losses or of weights.
fn check_near(what: &str, found: &End, expected: &End) -> f64 {
    assert_eq!(found.losses.len(), expected.losses.len(), "{what}");
    let losses = found.losses.iter().zip(&expected.losses);
    let losses = losses
        .map(|(a, b)| (a - b).abs() / b.abs())
        .fold(0.0, f64::max);
    let weights = distance(flat(&found.weights), flat(&expected.weights));
    assert!(losses < 1e-5, "{what}: losses {losses:e}");
    assert!(weights < 1e-5, "{what}: weights {weights:e}");
    for (a, b) in found.history.epochs.iter().zip(&expected.history.epochs) {
        let (a_loss, b_loss) = (a.val_loss.unwrap(), b.val_loss.unwrap());
        assert!(
            (a_loss - b_loss).abs() < 1e-5 * b_loss,
            "{what}: {a:?} {b:?}"
        );
        assert_eq!(
            (a.accuracy, a.val_accuracy),
            (b.accuracy, b.val_accuracy),
            "{what}"
        );
    }
    losses.max(weights)
}

#[test]
fn two_three_and_four_ranks_train_as_one() {
    let (_folder, dataset) = common::colours(PICTURES);
    let mut largest = 0f64;
    for case in &CASES {
        let (name, model, trainer) = case;
        let expected = end(model(), trainer(), &dataset).unwrap();
        for ranks in [2, 3, 4] {
            let what = format!("{name}, {ranks} ranks");
            let ends = run(case, ranks, &dataset);
            largest = largest.max(check_near(&what, &ends[0], &expected));
            for other in &ends[1..] {
                assert!(
                    other.bits == ends[0].bits,
                    "{what}: ranks have other weights"
                );
                assert!(
                    other.losses.is_empty(),
                    "{what}: rank 0 alone has callbacks"
                );
            }
        }
    }
    println!("largest relative distance {largest:e}");
}

#[test]
fn the_same_number_of_ranks_gives_the_same_bits() {
    let (_folder, dataset) = common::colours(PICTURES);
    for case in &CASES[1..4] {
        let (a, b) = (run(case, 2, &dataset), run(case, 2, &dataset));
        assert!(
            a[0].bits == b[0].bits && a[0].losses == b[0].losses,
            "{}",
            case.0
        );
    }
}

#[test]
fn one_rank_is_alone_to_the_bit() {
    let (_folder, dataset) = common::colours(PICTURES);
    for case in &CASES {
        let (name, model, trainer) = case;
        let expected = end(model(), trainer().communicator(Alone), &dataset).unwrap();
        let found = &run(case, 1, &dataset)[0];
        assert!(
            found.bits == expected.bits && found.losses == expected.losses,
            "{name}"
        );
    }
}

/// A run of so many ranks that resumes from a folder, and stops at the flag.
fn resumed(ranks: usize, folder: &Path, dataset: &Dataset, stop_after: Option<usize>) -> Vec<End> {
    together(ranks, |member| {
        let stop = Arc::new(AtomicBool::new(false));
        let trainer = varied(RmsProp::new(1e-4))
            .checkpoint(Checkpoints::new(folder).every_steps(1))
            .resume(folder)
            .stop_flag(stop.clone());
        let trainer = match stop_after {
            Some(steps) => trainer.callback(StopAfter(steps, stop)),
            None => trainer,
        };
        end(
            vgg(Some(Block::Conv5)),
            trainer.communicator(member),
            dataset,
        )
        .unwrap()
    })
}

/// Raises a flag after so many steps.
struct StopAfter(usize, Arc<AtomicBool>);

impl Callback for StopAfter {
    fn on_step_end(&mut self, _: &StepEnd) -> Result<ControlFlow<()>> {
        self.0 -= 1;
        self.1.store(self.0 == 0, Ordering::Relaxed);
        Ok(ControlFlow::Continue(()))
    }
}

#[test]
fn another_number_of_ranks_resumes_a_run() {
    let (_folder, dataset) = common::colours(PICTURES);
    let expected = end(
        vgg(Some(Block::Conv5)),
        varied(RmsProp::new(1e-4)),
        &dataset,
    )
    .unwrap();
    let kept = tempfile::tempdir().unwrap();
    // Four steps an epoch: three of the first, three to the middle of the second, and the rest.
    for (ranks, steps) in [(3, Some(3)), (1, Some(3)), (2, None)] {
        let ends = resumed(ranks, kept.path(), &dataset, steps);
        if let Some(steps) = steps {
            assert_eq!(ends[0].losses.len(), steps);
            continue;
        }
        let weights = distance(flat(&ends[0].weights), flat(&expected.weights));
        assert!(weights < 1e-5, "{weights:e}");
        assert_eq!(ends[0].losses.len(), 6);
        assert!(ends[1].bits == ends[0].bits);
        assert_eq!(ends[0].history.epochs.len(), 3);
    }
}

#[test]
fn rank_0_decides_when_to_stop_and_gives_the_best_weights_to_all() {
    let (_folder, dataset) = common::colours(PICTURES);
    // A rate so high that the first epoch stays the best.
    let trainer = || {
        let stopping = EarlyStopping::new(1);
        trainer(Sgd::new(0.5)).epochs(6).callback(stopping)
    };
    let expected = end(vgg(None), trainer(), &dataset).unwrap();
    assert!(expected.history.epochs.len() < 6, "{:?}", expected.history);
    let ends = together(3, |member| {
        end(vgg(None), trainer().communicator(member), &dataset).unwrap()
    });
    for found in &ends {
        assert_eq!(found.history.epochs.len(), expected.history.epochs.len());
        assert!(found.bits == ends[0].bits);
    }
    let weights = distance(flat(&ends[0].weights), flat(&expected.weights));
    assert!(weights < 1e-4, "{weights:e}");
}

#[test]
fn a_picture_that_cannot_be_used_is_known_to_all_ranks() {
    // The same pictures in another folder, as on another machine.
    let (folder, elsewhere) = (common::colours(PICTURES).0, common::colours(PICTURES).0);
    for name in ["blue/1.png", "red/4.png", "red/5.png"] {
        for folder in [&folder, &elsewhere] {
            std::fs::write(folder.path().join(name), b"no picture").unwrap();
        }
    }
    let open = || Dataset::open(folder.path()).unwrap();
    let expected = end(vgg(Some(Block::Conv5)), varied(RmsProp::new(1e-4)), &open()).unwrap();
    for cached in [false, true] {
        let found = together(2, |member| {
            let dataset = match member.rank() {
                0 => open(),
                _ => Dataset::open(elsewhere.path()).unwrap(),
            };
            let mut trainer = varied(RmsProp::new(1e-4));
            if cached {
                trainer = trainer.feature_cache(FeatureCache::in_memory().views(3));
            }
            let end = end(
                vgg(Some(Block::Conv5)),
                trainer.communicator(member),
                &dataset,
            );
            (end.unwrap(), dataset.problems().len())
        });
        check_near("three bad pictures", &found[0].0, &expected);
        assert_eq!((found[0].1, found[1].1), (3, 3));
    }
    // Under the other policy all end, and the others hear of it from the rank that met it.
    let errors = together(3, |member| {
        let dataset = open().policy(headstart::data::Policy::Fail).unwrap();
        let trainer = varied(RmsProp::new(1e-4)).communicator(member);
        end(vgg(None), trainer, &dataset).err().unwrap().to_string()
    });
    assert!(
        errors.iter().all(|error| error.contains(".png")),
        "{errors:?}"
    );
    assert!(
        errors.iter().any(|error| error.starts_with("rank ")),
        "{errors:?}"
    );
}

#[test]
fn ranks_keep_the_features_of_their_own_pictures() {
    let (_folder, dataset) = common::colours(PICTURES);
    let kept = tempfile::tempdir().unwrap();
    let cache = || FeatureCache::on_disk(kept.path()).views(2);
    let trainer = || varied(RmsProp::new(1e-4)).feature_cache(cache());
    let expected = end(vgg(Some(Block::Conv5)), trainer(), &dataset).unwrap();
    let files = || -> Vec<u64> {
        let files = std::fs::read_dir(kept.path()).unwrap();
        files
            .map(|file| file.unwrap().metadata().unwrap().len())
            .collect()
    };
    // Two views, and the validation pictures.
    let whole = files();
    assert_eq!(whole.len(), 3);
    for _ in 0..2 {
        let found = together(2, |member| {
            end(
                vgg(Some(Block::Conv5)),
                trainer().communicator(member),
                &dataset,
            )
            .unwrap()
        });
        check_near("cached on disk", &found[0], &expected);
        // Each rank's, found again the second time: half as large as one's.
        assert_eq!(files().len(), 3 + 2 * 3);
        let (all, one): (u64, u64) = (files().iter().sum(), whole.iter().sum());
        assert!(all < 2 * one + one / 5, "{all} {one}");
    }
}

/// What each rank says when one of them does something else.
fn differing(work: impl Fn(Member) -> Result<End> + Sync) -> Vec<String> {
    together(3, |member| work(member).err().unwrap().to_string())
}

#[test]
fn ranks_that_differ_are_named() {
    let (folder, dataset) = common::colours(PICTURES);
    let (other_folder, _) = common::colours(PICTURES);
    std::fs::rename(
        other_folder.path().join("red/3.png"),
        other_folder.path().join("red/33.png"),
    )
    .unwrap();
    let seed = differing(|member| {
        let seed = if member.rank() == 1 { 9 } else { 5 };
        end(
            vgg(None),
            varied(RmsProp::new(1e-4)).seed(seed).communicator(member),
            &dataset,
        )
    });
    let files = differing(|member| {
        let root = if member.rank() == 2 {
            &other_folder
        } else {
            &folder
        };
        let dataset = Dataset::open(root.path()).unwrap();
        end(
            vgg(None),
            varied(RmsProp::new(1e-4)).communicator(member),
            &dataset,
        )
    });
    let weights = differing(|member| {
        let model = match member.rank() {
            1 => {
                let vgg = Vgg::Vgg11.width(0.125).unwrap();
                let base = ConvBase::new(vgg, Weights::Random { seed: 4 }, &Device::Cpu).unwrap();
                model(base.frozen(), Head::sigmoid().hidden(8).dropout(0.3))
            }
            _ => vgg(None),
        };
        end(
            model,
            varied(RmsProp::new(1e-4)).communicator(member),
            &dataset,
        )
    });
    for (errors, said) in [
        (
            seed,
            "rank 1: setting `seed`: found 9; expected 5, as on rank 0",
        ),
        (files, "rank 2: training pictures: found 22 with hash"),
        (weights, "rank 1: frozen weights: found with checksum"),
    ] {
        assert!(
            errors.iter().all(|error| error.starts_with(said)),
            "{errors:?}"
        );
    }
    let many = together(23, |member| {
        let trainer = varied(RmsProp::new(1e-4)).communicator(member);
        end(vgg(None), trainer, &dataset).err().unwrap().to_string()
    });
    assert!(many[0].contains("at most 22"), "{}", many[0]);
}

/// Fails in a step.
struct Fails(usize);

impl Callback for Fails {
    fn on_step_end(&mut self, _: &StepEnd) -> Result<ControlFlow<()>> {
        self.0 -= 1;
        match self.0 {
            0 => Err(Error::Run {
                path: "the test".into(),
                source: "enough".into(),
            }),
            _ => Ok(ControlFlow::Continue(())),
        }
    }
}

#[test]
fn no_rank_waits_for_one_that_fails() {
    let (_folder, dataset) = common::colours(PICTURES);
    // In a callback of rank 0, in the middle of the second epoch.
    let ends = together(3, |member| {
        let trainer = varied(RmsProp::new(1e-4))
            .callback(Fails(6))
            .communicator(member);
        end(vgg(Some(Block::Conv5)), trainer, &dataset)
            .err()
            .unwrap()
    });
    assert!(
        ends[0].to_string().contains("run the test: enough"),
        "{}",
        ends[0]
    );
    for other in &ends[1..] {
        assert!(
            other
                .to_string()
                .starts_with("rank 0: run the test: enough"),
            "{other}"
        );
        assert_eq!(other.history().map(|history| history.epochs.len()), Some(1));
    }
    // Before anything began.
    let ends = together(2, |member| {
        let batch = if member.rank() == 1 { 0 } else { 6 };
        let trainer = varied(RmsProp::new(1e-4))
            .batch_size(batch)
            .communicator(member);
        end(vgg(None), trainer, &dataset).err().unwrap().to_string()
    });
    assert!(
        ends[0].starts_with("rank 1: option `batch_size`"),
        "{}",
        ends[0]
    );
    // One leaves without a word.
    let ends = together(2, |member| match member.rank() {
        0 => end(
            vgg(None),
            varied(RmsProp::new(1e-4)).communicator(member),
            &dataset,
        )
        .err(),
        _ => None,
    });
    let said = ends[0].as_ref().unwrap().to_string();
    assert_eq!(said, "rank 1: it ended before the others");
    // The loss of all is no number on one of them.
    let ends = together(2, |member| {
        let trainer = varied(Sgd::new(1e30)).communicator(member);
        end(vgg(Some(Block::Conv5)), trainer, &dataset)
            .err()
            .unwrap()
            .to_string()
    });
    assert!(
        ends.iter().all(|error| error.contains("became")),
        "{ends:?}"
    );
}

/// Asks for the ranks that a launcher would have started.
#[test]
#[cfg(not(feature = "mpi"))]
#[ignore = "is run by the other"]
fn child() {
    println!(
        "{:?}",
        headstart::train::communicator::world().map(|ranks| ranks.size())
    );
}

/// Each process would train by itself, and all write to the same files.
#[test]
#[cfg(not(feature = "mpi"))]
fn several_processes_of_a_program_without_mpi_are_refused() {
    let told = |size: &str| {
        let program = std::env::current_exe().unwrap();
        let output = std::process::Command::new(program)
            .args(["ranks::child", "--exact", "--ignored", "--nocapture"])
            .env("OMPI_COMM_WORLD_SIZE", size)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    assert!(told("1").contains("Ok(1)"), "{}", told("1"));
    let said =
        "without the feature `mpi`; expected one with it, since it was started as 2 processes";
    assert!(told("2").contains(said), "{}", told("2"));
}
