//! One call that does what an expert would.

use super::adamw::AdamW;
use super::features::FeatureCache;
use super::history::History;
use super::phase::Phase;
use super::schedule::Schedule;
use super::trainer::Trainer;
use crate::model::{Backbone, Classifier};
use crate::{Augmenter, DirectoryDataset, Result};

/// Variations of each picture that are drawn once.
const VIEWS: usize = 10;

impl Trainer {
    /// A trainer for a few hundred to a few thousand pictures on a pretrained base, set up as for
    /// [`fine_tune`](Self::fine_tune); what it sets may be set otherwise before [`fit`](Self::fit).
    ///
    /// 1. The head alone for 5 epochs, all blocks frozen: one-cycle AdamW up to 1e-3. A fresh head's gradients would
    ///    only spoil the base.
    /// 2. Head and last block for 15 epochs: one-cycle AdamW up to 1e-4.
    ///
    /// In both, weight decay 0.01, labels smoothed by 0.1, gradients clipped to norm 1, batches of 32, and ten fixed
    /// variations of each picture (rotation ±15°, shifts of a tenth, zoom 0.85 to 1.15, mirrored half of the time)
    /// whose way through the frozen blocks is computed once. Give the head dropout: `.hidden(256).dropout(0.5)`.
    ///
    /// What the frozen blocks made of the variations is in memory, 10·4·C·h·w bytes for each training picture when the
    /// last block is open: with VGG19, a third of a megabyte at 64×64 and four at 224×224. Where that is too much, set
    /// [`FeatureCache::on_disk`] with `views(10)`.
    ///
    /// One-cycle: Smith 2018, "A disciplined approach to neural network hyper-parameters"; head first: Howard & Ruder
    /// 2018, "ULMFiT".
    pub fn fine_tuning<B: Backbone>(model: &Classifier<B>) -> Self {
        let last = model.base().blocks().pop().map(|block| block.name);
        Self::new(AdamW::new(1e-3).weight_decay(0.01))
            .phases([
                Phase::new(5).open_none().schedule(Schedule::one_cycle()),
                Phase::new(15)
                    .open(last)
                    .learning_rate(1e-4)
                    .schedule(Schedule::one_cycle()),
            ])
            .batch_size(32)
            .label_smoothing(0.1)
            .clip(crate::Clip::Norm(1.0))
            .augment(
                Augmenter::new()
                    .rotation(15.0)
                    .shift(0.1, 0.1)
                    .zoom(0.15)
                    .horizontal_flip(true),
            )
            .feature_cache(FeatureCache::in_memory().views(VIEWS))
    }

    /// Fine-tunes a model whose base is pretrained, in one call: see [`fine_tuning`](Self::fine_tuning) for what it
    /// does. The last block is left open.
    ///
    /// ```no_run
    /// use candle_core::Device;
    /// use headstart::{Classifier, ConvBase, DirectoryDataset, Head, Trainer, Weights};
    ///
    /// let train = DirectoryDataset::open("pictures/train")?;
    /// let validation = DirectoryDataset::open_with_classes("pictures/validation", train.class_names())?;
    /// let head = Head::softmax(train.class_names().len()).hidden(256).dropout(0.5);
    /// let base = ConvBase::vgg19(Weights::ImageNet, &Device::Cpu)?;
    /// let mut model = Classifier::new(base, head, train.class_names())?.input_size(128, 128)?;
    /// Trainer::fine_tune(&mut model, &train, &validation)?;
    /// # Ok::<(), headstart::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`fit`](Self::fit).
    pub fn fine_tune<B: Backbone>(
        model: &mut Classifier<B>,
        train: &DirectoryDataset,
        validation: &DirectoryDataset,
    ) -> Result<History> {
        Self::fine_tuning(model).fit(model, train, validation)
    }
}
