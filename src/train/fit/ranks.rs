//! The ranks of a run, which go on together or end together.
//!
//! Between two sums, whatever a rank has to say goes through [`Ranks::gather`]: so one that fails can tell the others
//! at whatever point they wait for it, and none waits for ever.

use std::cell::Cell;
use std::sync::Arc;

use candle_core::{Device, Tensor, Var};
use safetensors::View as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::data::Batch;
use crate::error::{Error, Result};
use crate::train::communicator::{Alone, Communicator};

pub(super) struct Ranks {
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
pub(super) struct Share {
    /// None where this rank has no picture of it.
    pub(super) batch: Option<Batch>,
    /// How many pictures all ranks have of it together.
    pub(super) pictures: usize,
}

impl Ranks {
    pub(super) fn new(communicator: Arc<dyn Communicator>) -> Self {
        Self {
            communicator,
            ended: Cell::new(false),
        }
    }

    pub(super) fn alone() -> Self {
        Self::new(Arc::new(Alone))
    }

    pub(super) fn rank(&self) -> usize {
        self.communicator.rank()
    }

    pub(super) fn size(&self) -> usize {
        self.communicator.size()
    }

    pub(super) fn is_alone(&self) -> bool {
        self.size() == 1
    }

    /// Whether this is the rank that decides, prints and writes.
    pub(super) fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// What each rank says, by rank; an error if one of them failed.
    pub(super) fn gather<T: Serialize + DeserializeOwned>(&self, own: Result<T>) -> Result<Vec<T>> {
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
    pub(super) fn decide<T: Serialize + DeserializeOwned>(&self, own: Result<T>) -> Result<T> {
        Ok(self.gather(own)?.swap_remove(0))
    }

    /// Tells the others that this rank ends with an error, unless they know.
    pub(super) fn leave(&self, error: &Error) {
        if !self.is_alone() && !self.ended.replace(true) {
            // Whether they hear it or not, the error is the user's.
            let _ = self.exchange::<()>(&Word::<()>::Failed(error.to_string()));
        }
    }

    /// This rank's share of a batch, when it is known how many pictures the others have of it.
    pub(super) fn share(&self, batch: Result<Option<Batch>>) -> Result<Share> {
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
    pub(super) fn follow(&self, variables: &[(String, Var)]) -> Result<()> {
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

    pub(super) fn communicator(&self) -> &Arc<dyn Communicator> {
        &self.communicator
    }
}
