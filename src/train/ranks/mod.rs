//! The ranks of a run, or of other work that is shared, which go on together or end together.
//!
//! Between two sums, whatever a rank has to say goes through [`Ranks::gather`]: so one that fails can tell the others
//! at whatever point they wait for it, and none waits for ever.

mod intention;

use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use safetensors::View as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use self::intention::Intention;
use super::communicator::{Alone, Communicator};
use crate::data::{Batch, Dataset};
use crate::error::{Error, Result};

pub(crate) struct Ranks {
    communicator: Arc<dyn Communicator>,
    /// Whether the others know that this rank fails, or failed themselves: nobody listens any more.
    ended: Cell<bool>,
}

/// What a rank says.
#[derive(serde::Serialize, serde::Deserialize)]
enum Word<T> {
    Said(T),
    Failed(String),
}

/// This rank's part of a batch.
pub(crate) struct Share {
    /// None where this rank has no picture of it.
    pub(crate) batch: Option<Batch>,
    /// How many pictures all ranks have of it together.
    pub(crate) pictures: usize,
}

impl Ranks {
    pub(crate) fn new(communicator: Arc<dyn Communicator>) -> Self {
        Self {
            communicator,
            ended: Cell::new(false),
        }
    }

    pub(crate) fn alone() -> Self {
        Self::new(Arc::new(Alone))
    }

    pub(crate) fn rank(&self) -> usize {
        self.communicator.rank()
    }

    pub(crate) fn size(&self) -> usize {
        self.communicator.size()
    }

    pub(crate) fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// Whether this is the rank that decides, prints and writes.
    pub(crate) fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// What each rank says, by rank; an error if one of them failed.
    pub(crate) fn gather<T: Serialize + DeserializeOwned>(&self, own: Result<T>) -> Result<Vec<T>> {
        if self.is_alone() {
            return Ok(vec![own?]);
        }
        let word = match &own {
            Ok(said) => Word::Said(said),
            Err(error) => Word::Failed(error.to_string()),
        };
        let words = self.exchange(&word).inspect_err(|_| self.ended.set(true))?;
        let mut all = Vec::with_capacity(words.len());
        for (rank, word) in words.into_iter().enumerate() {
            match word {
                Word::Said(said) => all.push(said),
                Word::Failed(reason) => {
                    self.ended.set(true);
                    own?;
                    let rank = Some(rank);
                    return Err(Error::Rank { rank, reason });
                }
            }
        }
        Ok(all)
    }

    /// What each rank says, where that is long: as it is, by rank.
    pub(crate) fn gather_bytes(&self, own: &[u8]) -> Result<Vec<Vec<u8>>> {
        let all = self.communicator.gather(own);
        all.inspect_err(|_| self.ended.set(true))
    }

    fn exchange<T: DeserializeOwned>(&self, word: &impl Serialize) -> Result<Vec<Word<T>>> {
        let unreadable = |rank: usize| {
            move |error: serde_json::Error| Error::Rank {
                rank: Some(rank),
                reason: format!("what it says cannot be understood: {error}"),
            }
        };
        let bytes = serde_json::to_vec(word).map_err(unreadable(self.rank()))?;
        let all = self.communicator.gather(&bytes)?;
        let words = all.iter().enumerate();
        words
            .map(|(rank, bytes)| serde_json::from_slice(bytes).map_err(unreadable(rank)))
            .collect()
    }

    /// What rank 0 says, on every rank.
    pub(crate) fn decide<T: Serialize + DeserializeOwned>(&self, own: Result<T>) -> Result<T> {
        Ok(self.gather(own)?.swap_remove(0))
    }

    /// Makes sure that all ranks are about to do the same.
    pub(crate) fn agree(&self, own: impl FnOnce() -> Intention) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        intention::compare(&self.gather(Ok(own()))?)
    }

    /// This rank's pictures, where each has whole batches in turn.
    pub(crate) fn own_batches(&self, dataset: &Dataset, batch_size: usize) -> Dataset {
        if self.is_alone() {
            return dataset.clone();
        }
        let batches = dataset.items().chunks(batch_size);
        let own = batches.skip(self.rank()).step_by(self.size());
        dataset.with_items(own.flatten().cloned().collect())
    }

    /// Notes what other ranks skipped of a dataset, if this or another one skipped more than `known`. Pictures go by
    /// their ids: their folder may be another on each machine, and a path need not be text.
    pub(crate) fn hear_of_skipped(&self, dataset: &Dataset, known: usize) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        let mut skipped = dataset.skipped();
        if skipped.len() <= known {
            skipped.clear();
        }
        let skipped = skipped.into_iter();
        let reasons: HashMap<PathBuf, String> = skipped
            .map(|problem| (problem.path, problem.reason))
            .collect();
        let own = dataset.items().iter();
        let own = own.filter_map(|item| Some((item.id, reasons.get(&item.path)?.clone())));
        let all: Vec<Vec<(u64, String)>> = self.gather(Ok(own.collect()))?;
        let lost: HashMap<u64, String> = all.into_iter().flatten().collect();
        for item in dataset.items() {
            if let Some(reason) = lost.get(&item.id) {
                let (path, source) = (item.path.clone(), reason.clone().into());
                dataset.handle(&item.path, Error::Picture { path, source })?;
            }
        }
        Ok(())
    }

    /// Tells the others that this rank ends with an error, unless they know.
    pub(crate) fn leave(&self, error: &Error) {
        if !self.is_alone() && !self.ended.replace(true) {
            // Whether they hear it or not, the error is the user's.
            let _ = self.exchange::<()>(&Word::<()>::Failed(error.to_string()));
        }
    }

    /// This rank's share of a batch, when it is known how many pictures the others have of it.
    pub(crate) fn share(&self, batch: Result<Option<Batch>>) -> Result<Share> {
        let (batch, own) = match batch {
            Ok(batch) => {
                let pictures = batch.as_ref().map_or(0, |batch| batch.labels.len());
                (batch, Ok(pictures))
            }
            Err(error) => (None, Err(error)),
        };
        let pictures = self.gather(own)?.into_iter().sum();
        Ok(Share { batch, pictures })
    }

    /// Gives variables the numbers that rank 0's have.
    pub(crate) fn follow(&self, variables: &[(String, Var)]) -> Result<()> {
        if self.is_alone() {
            return Ok(());
        }
        for (_, var) in variables {
            let bytes = match self.is_first() {
                true => var.as_tensor().data().into_owned(),
                false => Vec::new(),
            };
            let bytes = self.communicator.broadcast(bytes, 0)?;
            if !self.is_first() {
                let tensor =
                    Tensor::from_raw_buffer(&bytes, var.dtype(), var.dims(), &Device::Cpu)?;
                var.set(&tensor.to_device(var.device())?)?;
            }
        }
        Ok(())
    }

    pub(crate) fn communicator(&self) -> &Arc<dyn Communicator> {
        &self.communicator
    }
}

/// What ranks made in turns, in its order.
pub(crate) fn in_turn<T>(parts: impl IntoIterator<Item = Vec<T>>) -> Vec<T> {
    let mut parts: Vec<_> = parts.into_iter().map(Vec::into_iter).collect();
    let mut all = Vec::new();
    loop {
        let before = all.len();
        all.extend(parts.iter_mut().filter_map(Iterator::next));
        if all.len() == before {
            return all;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_their_order() {
        assert_eq!(in_turn([vec![1, 4], vec![2, 5], vec![3]]), [1, 2, 3, 4, 5]);
        assert_eq!(in_turn([vec![1], vec![]]), [1]);
        assert!(in_turn::<usize>([]).is_empty());
    }
}
