//! Fine-tuning in one call.

use candle_core::Device;
use headstart::model::Vgg;
use headstart::{Classifier, ConvBase, Dataset, Error, Head, Trainer, Weights};

use crate::common;
use crate::common::numbers::values;

fn model() -> Classifier {
    let vgg = Vgg::Vgg11.width(1.0 / 16.0).unwrap();
    let base = ConvBase::new(vgg, Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    Classifier::new(base, Head::sigmoid().hidden(8), &["blue", "red"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

fn weights(model: &Classifier) -> Vec<Vec<f32>> {
    let variables = model.variables().into_iter();
    variables.map(|(_, var)| values(&var)).collect()
}

/// One dataset is split as documented: a fifth of each class, by seed 0.
#[test]
fn one_dataset_is_split_into_four_fifths_and_one() {
    let (_folder, dataset) = common::colours(10);
    let (mut one, mut two) = (model(), model());
    let history = Trainer::fine_tune(&mut one, &dataset).unwrap();
    assert_eq!(history.epochs.len(), 20);
    let (train, validation) = dataset.split(0.2, 0).unwrap();
    assert_eq!(
        (train.counts(), validation.counts()),
        (vec![8, 8], vec![2, 2])
    );
    let again = Trainer::fine_tune_with(&mut two, &train, &validation).unwrap();
    assert!(weights(&one) == weights(&two));
    assert_eq!(history.epochs[19].val_loss, again.epochs[19].val_loss);
}

#[test]
fn a_dataset_of_which_nothing_can_be_held_out_is_named() {
    let (folder, _) = common::colours(1);
    let dataset = Dataset::open(folder.path()).unwrap();
    let error = Trainer::fine_tune(&mut model(), &dataset).unwrap_err();
    assert!(matches!(error, Error::Dataset { .. }), "{error}");
}

/// What a phase sets cannot be set beside the phases too.
#[test]
fn epochs_beside_phases_are_an_error() {
    let (_folder, dataset) = common::colours(2);
    let mut model = model();
    let trainer = Trainer::fine_tuning(&model).epochs(3);
    let error = trainer.fit(&mut model, &dataset, &dataset).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    assert!(error.to_string().contains("`epochs`"), "{error}");
}
