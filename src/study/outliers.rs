//! Pictures that are like no other of their class.

use std::path::PathBuf;

use rayon::prelude::*;

use super::features::Features;
use super::product::{direction, dot, mean};

/// How many of the nearest pictures of its class a picture is compared with.
const NEIGHBOURS: usize = 5;

/// A picture is an outlier from so many deviations above its class's median on; a median absolute deviation times
/// 1.4826 is a deviation of normal numbers.
const DEVIATIONS: f32 = 4.0;

/// A picture that is far from all others of its class.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Outlier {
    /// The picture's path.
    #[serde(serialize_with = "crate::words::path")]
    pub path: PathBuf,
    /// Its class.
    pub class: String,
    /// Its mean distance to the five nearest pictures of its class: 1 − cosine of features, 0 to 2.
    pub distance: f32,
    /// The median of that in its class.
    pub typical: f32,
}

/// The pictures that lie more than four robust deviations farther from the nearest of their class than its pictures do,
/// the farthest first. Classes of fewer than ten pictures have none.
pub fn outliers(features: &Features) -> Vec<Outlier> {
    let rows = (0..features.len()).map(|i| features.row(i));
    let mean = mean(rows, features.width());
    let mut found: Vec<(f32, Outlier)> = Vec::new();
    for (label, class) in features.class_names().iter().enumerate() {
        let own: Vec<usize> = (0..features.len())
            .filter(|i| features.labels()[*i] == label)
            .collect();
        if own.len() < 2 * NEIGHBOURS {
            continue;
        }
        let rows: Vec<Vec<f32>> = own
            .iter()
            .map(|i| direction(features.row(*i), &mean))
            .collect();
        let distances: Vec<f32> = (0..rows.len())
            .into_par_iter()
            .map(|i| distance(&rows, i))
            .collect();
        let typical = median(distances.clone());
        let spread = 1.4826 * median(distances.iter().map(|d| (d - typical).abs()).collect());
        for (picture, distance) in own.into_iter().zip(distances) {
            let deviations = (distance - typical) / spread.max(1e-6);
            if deviations > DEVIATIONS {
                let path = features.paths()[picture].clone();
                let class = class.clone();
                found.push((
                    deviations,
                    Outlier {
                        path,
                        class,
                        distance,
                        typical,
                    },
                ));
            }
        }
    }
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found.into_iter().map(|(_, outlier)| outlier).collect()
}

/// The mean distance of a row to its nearest.
fn distance(rows: &[Vec<f32>], i: usize) -> f32 {
    let others = rows.iter().enumerate().filter(|(j, _)| *j != i);
    let mut distances: Vec<f32> = others.map(|(_, row)| 1.0 - dot(&rows[i], row)).collect();
    distances.sort_by(f32::total_cmp);
    distances[..NEIGHBOURS].iter().sum::<f32>() / NEIGHBOURS as f32
}

fn median(mut numbers: Vec<f32>) -> f32 {
    numbers.sort_by(f32::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() % 2 {
        0 => (numbers[middle - 1] + numbers[middle]) / 2.0,
        _ => numbers[middle],
    }
}
