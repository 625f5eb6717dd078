//! Pictures in k folds: of each class about as many in every fold, and pictures of one origin together.

use std::collections::HashMap;

use rand::seq::SliceRandom;

use crate::error::{Error, Result};
use crate::random::{Purpose, stream};

/// The fold of each picture, 0 to k − 1, fixed by the seed. `groups` says which pictures stay together: those with equal
/// numbers.
///
/// Groups come at random, the largest first, and each goes where its classes are rarest so far (scikit-learn's
/// `StratifiedGroupKFold` has this aim). Where each picture is a group of its own, the numbers of a class in two folds
/// differ by at most one.
///
/// # Errors
/// [`Error::InvalidOption`] for fewer than two folds, more than 1000, or more than a class that occurs has groups.
pub(super) fn assign(
    labels: &[usize],
    groups: &[usize],
    k: usize,
    seed: u64,
) -> Result<Vec<usize>> {
    let members = by_group(groups);
    let classes = labels.iter().max().map_or(0, |label| label + 1);
    let mut counts = vec![0; classes];
    let mut groups_of = vec![0; classes];
    let mut groups: Vec<(usize, Vec<(usize, usize)>)> = Vec::with_capacity(members.len());
    for (index, members) in members.iter().enumerate() {
        let mut own: Vec<(usize, usize)> = Vec::new();
        for picture in members {
            let label = labels[*picture];
            counts[label] += 1;
            match own.iter_mut().find(|(class, _)| *class == label) {
                Some((_, count)) => *count += 1,
                None => own.push((label, 1)),
            }
        }
        own.iter().for_each(|(class, _)| groups_of[*class] += 1);
        groups.push((index, own));
    }
    let most = groups_of.iter().copied().filter(|groups| *groups > 0).min();
    let most = most.unwrap_or(0).min(1000);
    if k < 2 || k > most {
        let allowed = match most {
            0 | 1 => {
                "none here: a class has a single picture, or all of its pictures stay together"
                    .to_owned()
            }
            most => format!("2 to {most}, so that every fold has of each class"),
        };
        return Err(Error::option("folds", k, allowed));
    }
    groups.shuffle(&mut stream(seed, Purpose::Folds, 0, 0));
    groups.sort_by_key(|(index, _)| std::cmp::Reverse(members[*index].len()));
    let mut in_fold = vec![vec![0; classes]; k];
    let mut sizes = vec![0; k];
    let mut folds = vec![0; labels.len()];
    for (index, own) in groups {
        let crowd = |fold: usize| -> f64 {
            let shares = own.iter().map(|(class, count)| {
                (count * in_fold[fold][*class]) as f64 / counts[*class] as f64
            });
            shares.sum()
        };
        let order = |a: &usize, b: &usize| {
            crowd(*a)
                .total_cmp(&crowd(*b))
                .then(sizes[*a].cmp(&sizes[*b]))
        };
        let Some(fold) = (0..k).min_by(order) else {
            continue;
        };
        for (class, count) in own {
            in_fold[fold][class] += count;
            sizes[fold] += count;
        }
        members[index]
            .iter()
            .for_each(|picture| folds[*picture] = fold);
    }
    Ok(folds)
}

/// The pictures of each group, in the order in which groups come first.
fn by_group(groups: &[usize]) -> Vec<Vec<usize>> {
    let mut places: HashMap<usize, usize> = HashMap::new();
    let mut members: Vec<Vec<usize>> = Vec::new();
    for (picture, group) in groups.iter().enumerate() {
        let place = *places.entry(*group).or_insert_with(|| {
            members.push(Vec::new());
            members.len() - 1
        });
        members[place].push(picture);
    }
    members
}

/// The pictures outside of a fold and in it.
pub(super) fn parts(folds: &[usize], fold: usize) -> (Vec<usize>, Vec<usize>) {
    (0..folds.len()).partition(|picture| folds[*picture] != fold)
}
