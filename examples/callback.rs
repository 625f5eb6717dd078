//! A callback of one's own: it looks at every epoch, draws what it sees, and may end the run.
//!
//! ```text
//! cargo run --release --example callback
//! ```

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use headstart::prelude::*;

/// Ends the run once the training loss has been less than `share` times the validation loss for `patience` epochs in a
/// row: the model is overfitting.
struct Overfitting {
    share: f64,
    patience: usize,
    /// Epochs in a row so far.
    run: usize,
    /// Steps seen, to show that a callback may hear of those too.
    steps: usize,
}

// Every method of the trait does nothing by default: write those that you need.
impl Callback for Overfitting {
    /// Options are looked at before a run touches anything.
    fn check(&self) -> Result<()> {
        if self.share > 0.0 && self.share < 1.0 {
            return Ok(());
        }
        Err(Error::InvalidOption {
            option: "share",
            found: self.share.to_string(),
            allowed: "above 0 and below 1".into(),
        })
    }

    fn on_step_end(&mut self, _step: &StepEnd) -> Result<ControlFlow<()>> {
        self.steps += 1;
        Ok(ControlFlow::Continue(()))
    }

    fn on_epoch_end(&mut self, epoch: &mut EpochEnd<'_>) -> Result<ControlFlow<Stop>> {
        let record = epoch.record;
        let bar = |loss: f64| "▪".repeat((loss * 40.0).min(60.0) as usize);
        println!(
            "epoch {:2}  training   {:.3} {}",
            record.epoch,
            record.loss,
            bar(record.loss)
        );
        // Without validation pictures there is no figure.
        let Some(val_loss) = record.val_loss else {
            return Ok(ControlFlow::Continue(()));
        };
        println!("          validation {val_loss:.3} {}", bar(val_loss));
        let runs_away = record.loss < self.share * val_loss;
        self.run = if runs_away { self.run + 1 } else { 0 };
        // `Stop::Phase` would go on with the next phase, where there is one.
        Ok(match self.run < self.patience {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(Stop::Run),
        })
    }
}

fn main() -> Result<()> {
    let pictures = DirectoryDataset::open("examples/santa/pictures/train")?;
    let (train, validation) = pictures.split(0.3, 1)?;
    let base = ConvBase::compact(&Device::Cpu)?.frozen();
    let mut model = Classifier::new(base, Head::sigmoid().hidden(64), train.class_names())?;

    // A trainer takes a callback as it is. To look into it after the run, share it.
    let watch = Arc::new(Mutex::new(Overfitting {
        share: 0.5,
        patience: 2,
        run: 0,
        steps: 0,
    }));
    let history = Trainer::new(AdamW::new(2e-3))
        .epochs(40)
        .feature_cache(FeatureCache::in_memory())
        .callback(watch.clone())
        .fit(&mut model, &train, &validation)?;

    let steps = watch.lock().expect("the run is over").steps;
    println!("{} of 40 epochs, {steps} steps.", history.epochs.len());
    Ok(())
}
