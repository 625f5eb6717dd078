//! Which of many pictures are alike: by definition every two are compared, and nearly all are ruled out by a bound.

use std::collections::HashMap;

use rayon::prelude::*;

use super::fingerprints::Fingerprint;
use super::product::dot;
use super::thumbnail::Low;
use crate::progress;
use crate::words::count;

/// Pairs are looked at closely whose thumbnails agree so well at 8 × 8, or less well if their features agree too
/// (cosine, after the mean picture's are taken away). Features see through cropping, thumbnails through a change of
/// size.
const CERTAIN: f32 = 0.9;
const COARSE: f32 = 0.7;
const FEATURES: f32 = 0.25;

/// Near-duplicates correlate so well at least where they lie on each other best.
const CLOSE: f32 = 0.93;

/// How many pictures are compared with all later ones in one go, by each thread.
const TILE: usize = 64;

/// How many pairs are kept in memory before they are looked at closely.
const PAIRS: usize = 1 << 22;

/// A picture as others are compared with it.
pub(super) struct Look<'a> {
    pub(super) print: &'a Fingerprint,
    /// Without the mean picture's, and of length 1.
    pub(super) features: Vec<f32>,
}

/// Two pictures that are one, by their positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Alike {
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) is_exact: bool,
    pub(super) similarity: f32,
}

/// Positions of two pictures, the lower one first.
type Pair = (u32, u32);

/// All pairs of pictures that are one, in the order of positions.
pub(super) fn pairs(looks: &[Look<'_>]) -> Vec<Alike> {
    let mut found = same_files(looks);
    let shown: Vec<u32> = (0..looks.len())
        .filter(|i| !looks[*i].print.is_blank())
        .map(|i| i as u32)
        .collect();
    let lows: Vec<Low> = shown
        .par_iter()
        .map(|i| looks[*i as usize].print.thumbnail.low())
        .collect();
    let bound = Bound::new(&lows);
    let close: Vec<Low> = looks
        .par_iter()
        .map(|look| look.print.thumbnail.close_low())
        .collect();
    let bar = progress::bar(
        shown.len() as u64,
        "{prefix} {bar:24} {pos}/{len} {eta} left",
    );
    bar.set_prefix("duplicates");
    progress::line(&format!("duplicates: {}", count(looks.len(), "picture")));
    let mut candidates: Vec<Pair> = Vec::new();
    let tiles: Vec<usize> = (0..shown.len()).step_by(TILE).collect();
    for round in tiles.chunks(2 * rayon::current_num_threads()) {
        let more = round.par_iter().flat_map_iter(|begin| {
            let rows = *begin..(begin + TILE).min(shown.len());
            of_tile(looks, &shown, &lows, &bound, rows)
        });
        candidates.par_extend(more);
        bar.inc((TILE * round.len()) as u64);
        if candidates.len() >= PAIRS {
            found.extend(closely(looks, &close, &candidates));
            candidates.clear();
        }
    }
    found.extend(closely(looks, &close, &candidates));
    bar.finish_and_clear();
    found.sort_unstable_by_key(|pair| (pair.first, pair.second));
    found
}

/// The pairs of files with the same bytes.
fn same_files(looks: &[Look<'_>]) -> Vec<Alike> {
    let mut by_hash = HashMap::<&[u8; 32], Vec<usize>>::new();
    for (position, look) in looks.iter().enumerate() {
        by_hash.entry(&look.print.hash).or_default().push(position);
    }
    let mut pairs = Vec::new();
    for positions in by_hash.values() {
        for (n, first) in positions.iter().enumerate() {
            pairs.extend(positions[n + 1..].iter().map(|second| Alike {
                first: *first,
                second: *second,
                is_exact: true,
                similarity: 1.0,
            }));
        }
    }
    pairs
}

/// The pairs of these pictures with later ones that deserve a closer look.
fn of_tile(
    looks: &[Look<'_>],
    shown: &[u32],
    lows: &[Low],
    bound: &Bound,
    rows: std::ops::Range<usize>,
) -> Vec<Pair> {
    let mut candidates = Vec::new();
    // Block by block, so that what is compared stays at hand.
    for block in rows.start / LANES..bound.blocks.len() {
        for row in rows.clone() {
            bound.each_within_reach(&lows[row], block, |column| {
                let (i, j) = (shown[row], shown[column]);
                if column > row && is_candidate(&looks[i as usize], &looks[j as usize]) {
                    candidates.push((i, j));
                }
            });
        }
    }
    candidates
}

/// Whether two pictures, the first one earlier, deserve a closer look. Files of the same bytes need none.
fn is_candidate(first: &Look<'_>, second: &Look<'_>) -> bool {
    let coarsely = first.print.thumbnail.coarsely(&second.print.thumbnail);
    let is_alike = coarsely >= CERTAIN
        || coarsely >= COARSE && dot(&first.features, &second.features) >= FEATURES;
    is_alike && first.print.hash != second.print.hash
}

/// Those of the candidates that are one picture: one is a part of the other, or the whole. What a picture looks like in
/// all its parts is made once for all pairs that it is in.
fn closely(looks: &[Look<'_>], lows: &[Low], candidates: &[Pair]) -> Vec<Alike> {
    // The position of the whole, then that of its part, and the pair's number.
    let numbered = candidates.iter().zip(0u32..);
    let mut directed: Vec<(u32, u32, u32)> = numbered
        .flat_map(|((first, second), n)| [(*first, *second, n), (*second, *first, n)])
        .collect();
    directed.par_sort_unstable();
    let judged: Vec<(u32, f32)> = directed
        .par_chunk_by(|a, b| a.0 == b.0)
        .flat_map_iter(|group| {
            let windows = looks[group[0].0 as usize].print.thumbnail.windows();
            let judge = move |(_, part, n): &(u32, u32, u32)| {
                let thumbnail = &looks[*part as usize].print.thumbnail;
                (
                    *n,
                    thumbnail.best_of(&lows[*part as usize], &windows, CLOSE),
                )
            };
            group.iter().map(judge)
        })
        .collect();
    let mut similarities = vec![-1f32; candidates.len()];
    for (n, similarity) in judged {
        let best = &mut similarities[n as usize];
        *best = best.max(similarity);
    }
    let pairs = candidates.iter().zip(similarities);
    let alike = pairs.map(|((first, second), similarity)| Alike {
        first: *first as usize,
        second: *second as usize,
        is_exact: false,
        similarity,
    });
    alike.filter(|pair| pair.similarity >= CLOSE).collect()
}

/// How many pictures are bounded side by side.
const LANES: usize = 16;

/// Rounding may be off by less than this.
const SLACK: f32 = 1e-4;

/// Above what the correlations of one picture with many others cannot be, by their lowest frequencies, as a [`Low`]
/// tells it of two.
struct Bound {
    blocks: Vec<Block>,
}

/// Frequencies of some pictures, side by side.
#[derive(Clone)]
struct Block {
    even: [[f32; LANES]; 8],
    odd: [[f32; LANES]; 8],
    rest: [f32; LANES],
}

impl Bound {
    #[allow(
        clippy::needless_range_loop,
        reason = "numbers of several arrays, side by side"
    )]
    fn new(lows: &[Low]) -> Self {
        // Where there is no picture, nothing is within reach.
        let none = Block {
            even: [[0.0; LANES]; 8],
            odd: [[0.0; LANES]; 8],
            rest: [0.0; LANES],
        };
        let block = |lows: &[Low]| {
            let mut block = none.clone();
            for (lane, low) in lows.iter().enumerate() {
                for n in 0..8 {
                    block.even[n][lane] = low.even[n];
                    block.odd[n][lane] = low.odd[n];
                }
                block.rest[lane] = low.rest;
            }
            block
        };
        Self {
            blocks: lows.chunks(LANES).map(block).collect(),
        }
    }

    /// The pictures of a block whose coarse thumbnails may correlate with a picture's, as it is or mirrored.
    #[allow(
        clippy::needless_range_loop,
        reason = "numbers of several arrays, side by side"
    )]
    fn each_within_reach(&self, own: &Low, number: usize, mut each: impl FnMut(usize)) {
        let block = &self.blocks[number];
        let (mut even, mut odd) = ([0.0; LANES], [0.0; LANES]);
        for n in 0..8 {
            for lane in 0..LANES {
                even[lane] += own.even[n] * block.even[n][lane];
                odd[lane] += own.odd[n] * block.odd[n][lane];
            }
        }
        let mut bounds = [0f32; LANES];
        for lane in 0..LANES {
            bounds[lane] = even[lane] + odd[lane].abs() + own.rest * block.rest[lane];
        }
        if bounds.iter().all(|bound| *bound < COARSE - SLACK) {
            return;
        }
        for (lane, bound) in bounds.iter().enumerate() {
            if *bound >= COARSE - SLACK {
                each(number * LANES + lane);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use image::GrayImage;
    use image::imageops::{FilterType, crop_imm, flip_horizontal, resize};
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::thumbnail::Thumbnail;
    use super::*;

    /// How well one correlates with the best part of the other, without a bound.
    fn part_of(a: &Thumbnail, b: &Thumbnail) -> f32 {
        // Nothing is ruled out by frequencies that are all left.
        let all = Low {
            even: [0.0; 8],
            odd: [0.0; 8],
            rest: f32::INFINITY,
        };
        a.best_of(&all, &b.windows(), -1.0)
    }

    /// The definition, without a bound: whether two pictures, the first one earlier, are one, and how alike.
    fn compare(first: &Look<'_>, second: &Look<'_>) -> Option<f32> {
        let (a, b) = (&first.print.thumbnail, &second.print.thumbnail);
        if first.print.hash == second.print.hash {
            return Some(1.0);
        }
        if first.print.is_blank() || second.print.is_blank() {
            return None;
        }
        let coarsely = a.coarsely(b);
        let is_candidate = coarsely >= CERTAIN
            || coarsely >= COARSE && dot(&first.features, &second.features) >= FEATURES;
        let closely = || part_of(a, b).max(part_of(b, a));
        let similarity = if is_candidate { closely() } else { 0.0 };
        (similarity >= CLOSE).then_some(similarity)
    }

    /// A picture of a few waves, most of them long.
    fn waves(rng: &mut ChaCha8Rng) -> GrayImage {
        let mut wave = || {
            let size: f64 = rng.random_range(5.0..40.0);
            let [x, y]: [f64; 2] = [(); 2].map(|()| rng.random_range(-0.12..0.12));
            (size, x, y, rng.random_range(0.0..6.3))
        };
        let waves = [(); 4].map(|()| wave());
        GrayImage::from_fn(60, 50, |x, y| {
            let level = |(size, across, down, phase): &(f64, f64, f64, f64)| {
                size * (f64::from(x) * across + f64::from(y) * down + phase).sin()
            };
            image::Luma([(128.0 + waves.iter().map(level).sum::<f64>()) as u8])
        })
    }

    /// The same in another form, or as it is.
    fn copy(picture: &GrayImage, kind: u32) -> GrayImage {
        match kind {
            0 => flip_horizontal(picture),
            1 => resize(picture, 33, 41, FilterType::Triangle),
            2 => crop_imm(picture, 2, 1, 56, 48).to_image(),
            3 => crop_imm(picture, 0, 12, 60, 38).to_image(),
            _ => picture.clone(),
        }
    }

    #[test]
    fn the_pairs_are_those_of_comparing_every_two() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut pictures = vec![GrayImage::from_pixel(9, 9, image::Luma([3])); 2];
        let mut features: Vec<Vec<f32>> = vec![vec![1.0, 0.0, 0.0]; 2];
        for number in 0..500 {
            let picture = match number % 3 {
                0 => copy(&pictures[rng.random_range(0..pictures.len())], number % 6),
                _ => waves(&mut rng),
            };
            pictures.push(picture);
            let row: Vec<f32> = (0..3).map(|_| rng.random_range(-1.0..1.0)).collect();
            let length = dot(&row, &row).sqrt();
            features.push(row.iter().map(|x| x / length).collect());
        }
        let print = |picture: &GrayImage| Fingerprint {
            hash: *blake3::hash(picture.as_raw()).as_bytes(),
            width: picture.width(),
            height: picture.height(),
            deviation: if picture.width() == 9 { 0.0 } else { 20.0 },
            thumbnail: Thumbnail::of(picture),
        };
        let prints: Vec<Fingerprint> = pictures.iter().map(print).collect();
        let both = prints.iter().zip(features);
        let looks: Vec<Look<'_>> = both
            .map(|(print, features)| Look { print, features })
            .collect();
        let mut expected = Vec::new();
        for (first, look) in looks.iter().enumerate() {
            for (second, other) in looks.iter().enumerate().skip(first + 1) {
                expected.extend(compare(look, other).map(|similarity| Alike {
                    first,
                    second,
                    is_exact: look.print.hash == other.print.hash,
                    similarity,
                }));
            }
        }
        let exact = expected.iter().filter(|pair| pair.is_exact).count();
        assert!(
            exact > 10 && expected.len() > exact + 50,
            "{exact} of {}",
            expected.len()
        );
        assert_eq!(pairs(&looks), expected);
    }
}
