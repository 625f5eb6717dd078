//! What every public type promises about threads: a change that takes it away does not compile.

use headstart::data::{AugmentParams, FillMode, Item, Loader, Problem};
use headstart::model::{
    BaseInfo, BlockInfo, BlockParameter, Dropout, GradCam, HeadLayers, LayerInfo, Picture, Summary,
    Top1,
};
use headstart::prelude::*;
use headstart::run::{
    HeadKind, LearningRate, Metrics, Parts, Recipe, Record, Run, Settings, Start,
};
use headstart::train::metrics::{Bin, ClassMetrics, Loss, LossOptions, PictureScore, Scores};
use headstart::train::optimizer::{
    AdamWRule, AnyOptimizer, EpsilonPlacement, Optimizer, RmsPropRule, SgdRule, Step,
};
use headstart::train::{LrRangeTest, RunFolder};

/// May be sent to another thread and be used from many.
fn is_shared<T: Send + Sync + Unpin>() {}

/// And outlives what it was made of.
fn is_owned<T: Send + Sync + Unpin + 'static>() {}

macro_rules! all {
    ($check:ident: $($type:ty),+ $(,)?) => { $($check::<$type>();)+ };
}

#[test]
fn data_may_be_shared_between_threads() {
    all!(is_owned: AugmentParams, Augmenter, Batch, Dataset, FillMode, Item, Loader, Policy, Preprocess, Problem, Resize);
}

#[test]
fn models_may_be_shared_between_threads() {
    all!(is_owned: Arch, BaseInfo, Block, BlockInfo, BlockParameter, Classifier, ConvBase, Head, HeadLayers, LayerInfo);
    all!(is_owned: Mode, Pooling, Prediction, Summary, Top1, Vgg, Weights);
    all!(is_shared: Dropout<'_>, Picture<'_>);
    #[cfg(feature = "hub")]
    all!(is_owned: headstart::model::Hub);
}

#[test]
fn trainers_and_their_options_may_be_shared_between_threads() {
    all!(is_owned: Checkpoints, FeatureCache, LrRangeTest, Phase, RunFolder, Trainer);
    all!(is_owned: AdamW, AdamWRule, AnyOptimizer, Clip, EpsilonPlacement, RmsProp, RmsPropRule, Schedule, Sgd, SgdRule);
    all!(is_owned: Optimizer<AdamWRule>, Optimizer<RmsPropRule>, Optimizer<SgdRule>, Step);
}

#[test]
fn callbacks_events_and_figures_may_be_shared_between_threads() {
    all!(is_owned: CallbackState, CsvLogger, EarlyStopping, JsonLinesLogger, Monitor, ReduceLrOnPlateau, Stop);
    all!(is_owned: ClassMetrics, EpochRecord, Evaluation, History, Loss, LossOptions, Verbosity);
    all!(is_owned: EpochBegin, StepEnd, TrainBegin);
    #[cfg(feature = "tensorboard")]
    all!(is_owned: headstart::train::callback::TensorBoard);
}

#[test]
fn runs_and_what_they_leave_may_be_shared_between_threads() {
    all!(is_owned: HeadKind, LearningRate, Metrics, Parts, Recipe, Record, Run, Settings, Start);
    all!(is_owned: Bin, GradCam, PictureScore, Scores);
    #[cfg(feature = "cli")]
    all!(is_owned: headstart::run::Config);
    #[cfg(feature = "report")]
    all!(is_shared: headstart::report::Report<'_>, headstart::report::Comparison);
}

#[test]
fn studies_may_be_shared_between_threads() {
    use headstart::study::*;
    all!(is_owned: Calibration, ClassEstimate, CrossValidation, CurvePoint, Doubt, Duplicate, Duplicates, Estimate);
    all!(is_owned: Features, Fingerprints, Gallery, Groups, Interval, LinearFit, LinearHead, Neighbour, OutOfFold, Outlier);
    all!(is_owned: Oddities, PartReport, PenaltyScore, Place, Study<ConvBase>, StudyOptions, Suspect, Suspects, Unfit);
    all!(is_shared: Split<'_>);
}

/// `?` in a thread, and in functions that return `anyhow`'s or a boxed error.
#[test]
fn errors_cross_threads() {
    all!(is_owned: Error);
    let boxed = |error: Error| -> Box<dyn std::error::Error + Send + Sync> { error.into() };
    let refused = std::thread::spawn(|| Head::softmax(1).check());
    let error = refused.join().unwrap().unwrap_err();
    assert!(boxed(error).to_string().contains("softmax"));
}
