//! A thousand damaged pictures among good ones: exactly the good ones are trained on, exactly the bad ones are listed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use candle_core::Device;
use headstart::data::{Loader, Policy};
use headstart::model::{Pooling, Vgg};
use headstart::{Classifier, ConvBase, Dataset, Error, Head, Sgd, Trainer, Weights};
use image::{Rgb, RgbImage};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tempfile::TempDir;

use crate::targets::encode;

const GOOD: usize = 1200;
const BAD: usize = 1000;

const FORMATS: [&str; 6] = ["png", "jpg", "bmp", "gif", "tif", "webp"];

/// A picture that any program reads.
fn whole(extension: &str, rng: &mut impl Rng) -> Vec<u8> {
    let (width, height) = (rng.random_range(9..30), rng.random_range(9..30));
    let tint: [u8; 3] = rng.random();
    let picture = RgbImage::from_fn(width, height, |x, y| {
        Rgb([0, 1, 2].map(|c| tint[c].wrapping_add((x * 7 + y * 5) as u8 >> c)))
    });
    encode(&picture, extension)
}

/// Where the chunk of this kind begins in a PNG.
fn chunk(png: &[u8], kind: &[u8]) -> usize {
    png.windows(4).position(|window| window == kind).unwrap()
}

/// What becomes of files: the kinds of damage that no reader could make good.
fn damaged(kind: usize, rng: &mut impl Rng) -> (&'static str, Vec<u8>) {
    let format = FORMATS[rng.random_range(0..FORMATS.len())];
    match kind % 10 {
        // A copy that was broken off at once, or that a full disk left.
        0 => (format, Vec::new()),
        1 => (format, vec![0; rng.random_range(1..2000)]),
        // Another program's file under the name of a picture.
        2 => (
            format,
            b"<!DOCTYPE html><title>404 Not Found</title>".repeat(3),
        ),
        3 => (format, b"PK\x03\x04 not a picture at all".to_vec()),
        // The start of a picture.
        4 => {
            let mut bytes = whole(format, rng);
            bytes.truncate(rng.random_range(1..12));
            (format, bytes)
        }
        // A picture whose pixels end in the middle.
        5 => {
            let format = ["png", "jpg", "bmp"][rng.random_range(0..3)];
            let mut bytes = whole(format, rng);
            let keep = bytes.len() * 2 / 3;
            bytes.truncate(keep);
            (format, bytes)
        }
        // A bit of the pixels that their checksum notices.
        6 => {
            let mut bytes = whole("png", rng);
            let data = chunk(&bytes, b"IDAT") + 4;
            let end = bytes.len() - 16;
            bytes[rng.random_range(data..end)] ^= 1 << rng.random_range(0..8);
            ("png", bytes)
        }
        // No pixels, and more than there can be.
        7 => ("png", with_width(0, rng)),
        8 => ("png", with_width(u32::MAX >> rng.random_range(1..8), rng)),
        // Noise, by a name that promises something.
        _ => {
            let mut bytes = vec![0; rng.random_range(16..4000)];
            rng.fill(&mut bytes[..]);
            bytes[0] = 7;
            (format, bytes)
        }
    }
}

/// A PNG that says it is so wide, with the right checksum.
fn with_width(width: u32, rng: &mut impl Rng) -> Vec<u8> {
    let mut bytes = whole("png", rng);
    let header = chunk(&bytes, b"IHDR");
    bytes[header + 4..header + 8].copy_from_slice(&width.to_be_bytes());
    let sum = crc32fast::hash(&bytes[header..header + 17]);
    bytes[header + 17..header + 21].copy_from_slice(&sum.to_be_bytes());
    bytes
}

struct Pictures {
    folder: TempDir,
    good: BTreeSet<PathBuf>,
    bad: BTreeSet<PathBuf>,
}

/// Two classes of good and bad pictures in random order.
fn pictures(seed: u64) -> Pictures {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let folder = tempfile::tempdir().unwrap();
    let classes = ["cat", "dog"].map(|class| folder.path().join(class));
    classes
        .iter()
        .for_each(|class| std::fs::create_dir(class).unwrap());
    let (mut good, mut bad) = (BTreeSet::new(), BTreeSet::new());
    while good.len() + bad.len() < GOOD + BAD {
        let number: u32 = rng.random();
        let left = (GOOD - good.len()) as f64;
        let is_good = rng.random_bool(left / (left + (BAD - bad.len()) as f64));
        let (extension, bytes) = if is_good {
            let format = FORMATS[good.len() % FORMATS.len()];
            (format, whole(format, &mut rng))
        } else {
            damaged(bad.len(), &mut rng)
        };
        let path = classes[rng.random_range(0..2)].join(format!("{number:010}.{extension}"));
        std::fs::write(&path, bytes).unwrap();
        let kind = if is_good { &mut good } else { &mut bad };
        assert!(kind.insert(path));
    }
    Pictures { folder, good, bad }
}

fn model() -> Classifier {
    let vgg = Vgg::Vgg11.width(1.0 / 64.0).unwrap();
    let base = ConvBase::new(vgg, Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
    let model = Classifier::new(base.frozen(), head, &["cat", "dog"]).unwrap();
    model.input_size(32, 32).unwrap()
}

fn listed(dataset: &Dataset) -> BTreeSet<PathBuf> {
    let problems = dataset.problems();
    assert!(problems.iter().all(|problem| !problem.reason.is_empty()));
    problems.into_iter().map(|problem| problem.path).collect()
}

fn assert_same(found: &BTreeSet<PathBuf>, expected: &BTreeSet<PathBuf>, what: &str) {
    let differ: Vec<&PathBuf> = found.symmetric_difference(expected).collect();
    assert!(
        differ.is_empty(),
        "{what}: {} differ: {differ:?}",
        differ.len()
    );
}

#[test]
fn skip_trains_on_exactly_the_good_pictures_and_lists_exactly_the_bad_ones() {
    let Pictures { folder, good, bad } = pictures(5);
    // What a loader gives, in whatever order.
    let dataset = Dataset::open(folder.path()).unwrap();
    let loader = Loader::new(&dataset, 8, 8).batch_size(7).shuffle(3);
    for epoch in 0..2 {
        let batches = loader.epoch(epoch).map(Result::unwrap);
        let ids: Vec<u64> = batches.flat_map(|batch| batch.ids).collect();
        let path = |id: &u64| dataset.items()[*id as usize].path.clone();
        assert_eq!(ids.len(), GOOD, "each once");
        assert_same(&ids.iter().map(path).collect(), &good, "given");
    }
    assert_same(&listed(&dataset), &bad, "listed by a loader");
    // And what a run does with them.
    let dataset = Dataset::open(folder.path()).unwrap();
    let trainer = Trainer::new(Sgd::new(1e-3)).batch_size(64);
    trainer.fit(&mut model(), &dataset, &dataset).unwrap();
    assert_same(&listed(&dataset), &bad, "listed by a run");
    let evaluation = model().evaluate(&dataset).unwrap();
    let seen: u64 = evaluation
        .confusion
        .iter()
        .flatten()
        .copied()
        .map(|n| n as u64)
        .sum();
    assert_eq!(seen, GOOD as u64);
    // Fewer usable pictures than are asked for is an error.
    let strict = Dataset::open(folder.path()).unwrap().least_usable(0.6);
    let error = trainer.fit(&mut model(), &strict, &strict).unwrap_err();
    assert!(error.to_string().contains("1200"), "{error}");
}

#[test]
fn fail_names_the_first_damaged_picture() {
    for seed in 6..9 {
        let Pictures { folder, bad, .. } = pictures(seed);
        let dataset = Dataset::open(folder.path())
            .unwrap()
            .policy(Policy::Fail)
            .unwrap();
        let items = dataset.items().iter();
        let first = items
            .map(|item| &item.path)
            .find(|path| bad.contains(*path));
        let named = |error: Error| match error {
            Error::Picture { path, .. } => path,
            other => panic!("{other}"),
        };
        let mut batches = Loader::new(&dataset, 8, 8).batch_size(5).epoch(0);
        let error = batches.find_map(Result::err).unwrap();
        assert_eq!(Some(&named(error)), first);
        let trainer = Trainer::new(Sgd::new(1e-3)).batch_size(64);
        let error = trainer.fit(&mut model(), &dataset, &dataset).unwrap_err();
        assert!(bad.contains(Path::new(&named(error))));
    }
}
