//! Where every variable's gradient lies among those that are added up together.

use std::collections::HashMap;

use candle_core::{TensorId, Var};

use crate::model::names;

/// The numbers in a bucket, 4 MB: large enough that a sum's latency does not count, small enough to begin early.
const BUCKET: usize = 1 << 20;

/// The numbers of a gradient that has a bucket to itself: it need not be copied there and back.
const LARGE: usize = BUCKET / 4;

pub(super) struct Plan {
    /// Of each variable.
    pub(super) places: Vec<Place>,
    pub(super) by_id: HashMap<TensorId, usize>,
    /// The numbers of each bucket.
    pub(super) lengths: Vec<usize>,
    /// The variables of each bucket, in their order there.
    pub(super) members: Vec<Vec<usize>>,
}

#[derive(Default)]
pub(super) struct Place {
    pub(super) bucket: usize,
    pub(super) start: usize,
    pub(super) length: usize,
}

impl Plan {
    /// Buckets from the base's last variable to its first, then the head's, in the order in which they are full.
    pub(super) fn new(variables: &[(String, Var)]) -> Self {
        let length = |index: usize| variables[index].1.elem_count();
        let is_head = |index: &usize| variables[*index].0.starts_with(names::HEAD);
        let (head, base): (Vec<_>, Vec<_>) = (0..variables.len()).rev().partition(is_head);
        let mut buckets: Vec<Vec<usize>> = Vec::new();
        for part in [base, head] {
            let (mut small, mut numbers) = (Vec::new(), 0);
            for index in part {
                if length(index) >= LARGE {
                    buckets.push(vec![index]);
                    continue;
                }
                small.push(index);
                numbers += length(index);
                if numbers >= BUCKET {
                    buckets.push(std::mem::take(&mut small));
                    numbers = 0;
                }
            }
            buckets.extend((!small.is_empty()).then_some(small));
        }
        let mut places: Vec<Place> = variables.iter().map(|_| Place::default()).collect();
        let mut lengths = vec![0; buckets.len()];
        for (bucket, members) in buckets.iter().enumerate() {
            for index in members {
                places[*index] = Place {
                    bucket,
                    start: lengths[bucket],
                    length: length(*index),
                };
                lengths[bucket] += length(*index);
            }
        }
        let ids = variables.iter().enumerate();
        Self {
            places,
            by_id: ids.map(|(index, (_, var))| (var.id(), index)).collect(),
            lengths,
            members: buckets,
        }
    }
}
