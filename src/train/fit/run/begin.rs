//! How a run begins: at its beginning or at a checkpoint, on every rank alike.

use std::collections::BTreeSet;
use std::path::Path;

use super::Run;
use super::skipped::PARTS;
use crate::error::{Error, Result};
use crate::model::Backbone;
use crate::train::callback::{CallbackState, TrainBegin};
use crate::train::checksum::checksum_without;
use crate::train::fit::checkpoint::Checkpoint;
use crate::train::fit::intention;
use crate::train::fit::position::Next;
use crate::train::fit::{enough, pictures};

impl<B: Backbone> Run<'_, B> {
    /// Resumes from the newest checkpoint, and notifies the callbacks.
    pub(super) fn begin(&mut self) -> Result<()> {
        // Rank 0 has the folder ready.
        self.ranks.gather(Ok(()))?;
        if self.checkpoints.is_some() {
            self.pictures = Some([self.train, self.validation].map(pictures::list));
        }
        let (mut states, mut warnings) = (None, enough::warnings(self.train, self.validation));
        if let Some(folder) = self.options.resume.as_deref() {
            let (newest, skipped) = Checkpoint::newest(folder)?;
            warnings.extend(skipped);
            if let Some(checkpoint) = newest {
                states = Some(self.resume_from(checkpoint, folder)?);
            }
        }
        for (index, what) in PARTS.into_iter().enumerate() {
            let dataset = self.part(index);
            self.told[index] = dataset.skipped().len();
            warnings.extend(dataset.skipped_summary(what));
        }
        self.agree()?;
        self.warn(&warnings);
        let mut begin = TrainBegin::new(self.epochs(), &self.position.history);
        begin.warnings = &warnings;
        self.callbacks
            .each(|callback| callback.on_train_begin(&begin))?;
        match states {
            Some(states) if self.ranks.is_first() => self.callbacks.restore(states),
            _ => Ok(()),
        }
    }

    /// Makes sure that all ranks are about to do the same.
    pub(super) fn agree(&self) -> Result<()> {
        if self.ranks.is_alone() {
            return Ok(());
        }
        let (ranks, pictures) = (self.ranks.size(), self.train.len());
        if ranks > pictures {
            let allowed = format!("at most {pictures}, as there are training pictures");
            return Err(Error::option(
                "communicator",
                format!("of {ranks} ranks"),
                allowed,
            ));
        }
        let datasets = (self.train, self.validation);
        let own = || intention::of_run(&self.settings, &self.position, self.model, datasets);
        self.ranks.agree(own)
    }

    /// Resumes where a checkpoint was: unfreezes what its phases unfroze, and restores weights and state. Returns the
    /// callbacks' state, for after `on_train_begin`.
    pub(super) fn resume_from(
        &mut self,
        checkpoint: Checkpoint,
        folder: &Path,
    ) -> Result<Vec<CallbackState>> {
        let pictures = self.pictures.clone().unwrap_or_default();
        if self.ranks.is_first() {
            checkpoint.check_settings(folder, &self.settings, &pictures)?;
        }
        let unfit = |reason: String| Error::Checkpoint {
            path: folder.to_owned(),
            source: reason.into(),
        };
        let names = checkpoint.weights.iter().map(|(name, _)| name.clone());
        let names: BTreeSet<String> = names.collect();
        if checksum_without(&self.model.tensors(), &names) != checkpoint.frozen {
            return Err(unfit(
                "the frozen weights are not those the run was begun with".into(),
            ));
        }
        let steps = self.train.len().div_ceil(self.options.batch_size);
        let impossible = |reason| {
            unfit(format!(
                "the run cannot be where the checkpoint says: {reason}"
            ))
        };
        let checked = checkpoint
            .position
            .check(&self.phases, steps, self.train.len());
        checked.map_err(impossible)?;
        // A block that an earlier phase trained and a later one froze takes its weights while it is trainable.
        for phase in self.phases.iter().take(checkpoint.position.phase + 1) {
            phase.set_trainable(self.model)?;
            for (name, var) in self.model.variables() {
                let saved = checkpoint.weights.iter().find(|(own, _)| *own == name);
                let (_, tensor) = saved.ok_or_else(|| unfit(format!("no weights of {name}")))?;
                if tensor.shape() != var.shape() {
                    return Err(unfit(format!("{name} has shape {:?}", tensor.dims())));
                }
                var.set(&tensor.to_device(var.device())?.to_dtype(var.dtype())?)?;
            }
        }
        let planned = checkpoint.phase_epochs();
        self.trained = names;
        self.frozen = checkpoint.frozen;
        self.position = checkpoint.position;
        self.make_longer(planned);
        self.optimizer = checkpoint.optimizer;
        Ok(checkpoint.callbacks)
    }

    /// Goes on with a phase that came to its end, where it has more epochs now than the ones it was `planned` with.
    fn make_longer(&mut self, planned: Option<u64>) {
        let position = &mut self.position;
        let (made, wanted) = (position.phase_epochs, self.phases[position.phase].epochs);
        // One that a callback ended stays so.
        let ran_out = planned == Some(made as u64);
        if matches!(position.next, Next::PhaseEnd | Next::Nothing) && ran_out && wanted > made {
            position.next = Next::Epoch;
        } else if position.next == Next::Epoch && made == wanted && position.step == 0 {
            position.next = Next::PhaseEnd;
        }
    }
}
