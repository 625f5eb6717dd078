//! One bar per epoch on the standard error.

use std::ops::ControlFlow;

use super::events::{EpochBegin, EpochEnd, StepEnd, Stop};
use super::hooks::Callback;
use crate::error::Result;
use crate::progress;
use crate::words::figure;

/// A [`Callback`] that shows loss, accuracy and the time left of each epoch; every [`Trainer`](crate::Trainer) has it.
#[derive(Debug)]
pub(in crate::train) struct ProgressBar(indicatif::ProgressBar);

impl Default for ProgressBar {
    fn default() -> Self {
        Self(indicatif::ProgressBar::hidden())
    }
}

impl Callback for ProgressBar {
    fn on_epoch_begin(&mut self, epoch: &EpochBegin) -> Result<()> {
        let template = "{prefix} {bar:24} {pos}/{len} {msg} {eta} left";
        let bar = progress::bar(epoch.steps as u64, template);
        bar.set_prefix(format!("epoch {}/{}", epoch.epoch, epoch.epochs));
        self.0 = bar.with_position(epoch.done as u64);
        Ok(())
    }

    fn on_step_end(&mut self, step: &StepEnd) -> Result<ControlFlow<()>> {
        let (loss, accuracy) = (step.loss, step.accuracy);
        self.0
            .set_message(format!("loss {loss:.4} accuracy {accuracy:.3}"));
        self.0.inc(1);
        Ok(ControlFlow::Continue(()))
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        let record = epoch.record;
        progress::set_template(&self.0, "{prefix} {msg}");
        let (loss, accuracy, seconds) = (record.loss, record.accuracy, record.seconds);
        let val_loss = figure(record.val_loss, 4);
        let val_accuracy = figure(record.val_accuracy, 3);
        let message = format!(
            "loss {loss:.4} accuracy {accuracy:.3} val_loss {val_loss} val_accuracy {val_accuracy} in {seconds:.1} s"
        );
        progress::line(&format!("{} {message}", self.0.prefix()));
        self.0.finish_with_message(message);
        Ok(ControlFlow::Continue(()))
    }
}
