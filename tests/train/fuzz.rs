//! The doors of `fuzz/targets.rs` under the committed corpus and under damage made at random, without cargo-fuzz.
//!
//! Plain `cargo test` tries a few hundred inputs a door. `HEADSTART_FUZZ_SECONDS=600 cargo test --test train fuzz:: --
//! --nocapture --test-threads 1` tries them for ten minutes of the processor's time each and says how many that were.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::targets::{TARGETS, Target};

/// The longest that one input may take: an input that takes longer counts as one that hangs.
const LIMIT: Duration = Duration::from_secs(5);

/// Words that formats are made of.
const WORDS: [&[u8]; 24] = [
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\0\0\0\0\x80",
    b"\x00\x00\xc0\x7f",
    b"\x00\x00\x80\xff",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551615",
    b"4294967296",
    b"[]",
    b"{}",
    b"\"F64\"",
    b"\"BF16\"",
    b"\"BOOL\"",
    b"[0,0]",
    b"00000000000",
    b"ustar  \0",
    b"\r\n\r\n",
    b"content-length: 99999999999999",
    b"Exif\0\0MM\0*",
    b"IDAT",
    b"\xff\xd9",
];

/// The processor's time that this process took, where the system tells it (Linux, in hundredths of a second).
fn processor_time() -> Option<Duration> {
    let told = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in brackets, may hold anything.
    let (_, fields) = told.rsplit_once(')')?;
    let ticks = |field: usize| fields.split_whitespace().nth(field)?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
}

/// Damages bytes in one to eight ways.
fn damage(bytes: &mut Vec<u8>, others: &[Vec<u8>], rng: &mut impl Rng) {
    for _ in 0..=rng.random_range(0..3u32).pow(2) {
        let length = bytes.len();
        let at = rng.random_range(0..=length);
        let some = rng.random_range(1..=16.min(length.max(1)));
        let end = (at + some).min(length);
        match rng.random_range(0..10) {
            0 if at < length => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < length => bytes[at] = rng.random(),
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
            5 => {
                let word = WORDS[rng.random_range(0..WORDS.len())];
                let end = (at + word.len()).min(length);
                let end = if rng.random() { at } else { end };
                drop(bytes.splice(at..end, word.iter().copied()));
            }
            6 => {
                let other = &others[rng.random_range(0..others.len())];
                let from = rng.random_range(0..=other.len());
                drop(bytes.splice(at.., other[from..].iter().copied()));
            }
            // A number of a header becomes another one.
            7 | 8 => {
                let digit = (at..length).find(|place| bytes[*place].is_ascii_digit());
                if let Some(place) = digit {
                    bytes[place] = rng.random_range(b'0'..=b'9');
                }
            }
            _ => {
                let number: u64 = rng.random::<u64>() >> rng.random_range(0..64);
                let size = [1, 2, 4, 8][rng.random_range(0..4)];
                let end = (at + size).min(length);
                bytes[at..end].copy_from_slice(&number.to_le_bytes()[..end - at]);
            }
        }
    }
}

/// Runs one input. A failure leaves it beside the build, to be looked at.
fn try_one(target: &Target, bytes: &[u8]) -> Duration {
    let begun = Instant::now();
    let outcome = catch_unwind(AssertUnwindSafe(|| (target.run)(bytes)));
    let taken = begun.elapsed();
    if outcome.is_err() || taken > LIMIT {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{}", target.name));
        std::fs::write(&path, bytes).unwrap();
        let what = if outcome.is_err() {
            "panics"
        } else {
            "takes too long"
        };
        panic!("{} {what} ({taken:?}) with {}", target.name, path.display());
    }
    taken
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(name);
    let entries = std::fs::read_dir(&folder).map(Iterator::collect::<Result<Vec<_>, _>>);
    let mut paths: Vec<_> = entries
        .unwrap()
        .unwrap()
        .into_iter()
        .map(|e| e.path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

fn fuzz(name: &str, tries: usize) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let mut begin = corpus(name);
    assert!(!begin.is_empty(), "fuzz/corpus/{name} is empty");
    begin.extend((target.seeds)());
    let seconds = std::env::var("HEADSTART_FUZZ_SECONDS").ok();
    let seconds = seconds.map(|text| Duration::from_secs(text.parse().unwrap()));
    if seconds.is_some() {
        headstart::progress::set_verbosity(headstart::progress::Verbosity::Silent);
    }
    let seed = std::env::var("HEADSTART_FUZZ_SEED").map_or(1, |text| text.parse().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (begun, processor) = (Instant::now(), processor_time());
    let taken = || match (processor_time(), processor) {
        (Some(now), Some(before)) => now - before,
        _ => begun.elapsed(),
    };
    let mut slowest = begin
        .iter()
        .map(|bytes| try_one(target, bytes))
        .max()
        .unwrap();
    let mut tried = begin.len();
    let mut told = Duration::ZERO;
    while seconds.map_or(tried < tries, |seconds| taken() < seconds) {
        let mut bytes = begin[rng.random_range(0..begin.len())].clone();
        damage(&mut bytes, &begin, &mut rng);
        slowest = slowest.max(try_one(target, &bytes));
        tried += 1;
        // Of a run that is broken off, the count is known to the minute.
        if seconds.is_some() && taken() >= told + Duration::from_secs(60) {
            told = taken();
            println!("{name}: {tried} inputs so far, in {told:?} of the processor");
        }
    }
    println!(
        "{name}: {tried} inputs in {:?} ({:?} of the processor), the slowest {slowest:?}",
        begun.elapsed(),
        taken()
    );
    #[cfg(target_os = "linux")]
    if seconds.is_some() {
        let peak = crate::many::megabytes("VmHWM:");
        println!("{name}: {peak:.0} MB at most");
        assert!(peak < 3000.0, "{name} takes {peak:.0} MB");
    }
}

#[test]
fn fuzz_model() {
    fuzz("model", 300);
}

#[test]
fn fuzz_weights() {
    fuzz("weights", 300);
}

#[test]
fn fuzz_checkpoint() {
    fuzz("checkpoint", 40);
}

#[test]
fn fuzz_features() {
    fuzz("features", 40);
}

#[test]
fn fuzz_gallery() {
    fuzz("gallery", 300);
}

#[test]
fn fuzz_picture() {
    fuzz("picture", 2000);
}

#[test]
fn fuzz_tar() {
    fuzz("tar", 300);
}

#[test]
#[cfg(feature = "hub")]
fn fuzz_hub() {
    fuzz("hub", 40);
}

#[test]
fn fuzz_history() {
    fuzz("history", 300);
}

#[test]
fn fuzz_metrics() {
    fuzz("metrics", 300);
}

#[test]
fn fuzz_study() {
    fuzz("study", 300);
}

#[test]
#[cfg(feature = "cli")]
fn fuzz_config() {
    fuzz("config", 300);
}

#[test]
fn fuzz_options() {
    fuzz("options", 2000);
}

/// Writes the seeds that cargo-fuzz begins with, as the present formats have them: `cargo test --test train
/// write_the_corpus -- --ignored`.
#[test]
#[ignore = "writes into the checkout"]
fn write_the_corpus() {
    for target in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target.name);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, bytes) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("whole-{number}")), bytes).unwrap();
        }
    }
}
