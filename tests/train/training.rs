//! The training loop: it learns, it repeats itself, and it stops when there is no point in going on.

use crate::common;
use crate::common::numbers::bits;

use candle_core::Device;
use headstart::data::Policy;
use headstart::model::Backbone;
use headstart::train::metrics::History;
use headstart::{
    Augmenter, Block, Classifier, ConvBase, Dataset, Error, Head, RmsProp, Trainer, Weights,
};

fn model(open: &[Block]) -> Classifier {
    let mut base = ConvBase::vgg11(Weights::Random { seed: 3 }, &Device::Cpu)
        .unwrap()
        .frozen();
    for block in open {
        base = base.unfreeze(*block).unwrap();
    }
    let head = Head::sigmoid().hidden(16).dropout(0.2);
    Classifier::new(base, head, &["blue", "red"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

fn trainer(learning_rate: f64) -> Trainer {
    Trainer::new(RmsProp::new(learning_rate))
        .epochs(2)
        .batch_size(6)
        .seed(7)
}

/// A history without its clock.
fn losses(history: &History) -> Vec<[u64; 4]> {
    let bits = |e: &headstart::train::metrics::EpochRecord| {
        [
            e.loss,
            e.accuracy,
            e.val_loss.unwrap(),
            e.val_accuracy.unwrap(),
        ]
        .map(f64::to_bits)
    };
    history.epochs.iter().map(bits).collect()
}

#[test]
fn it_learns_to_tell_colours_apart() {
    let (_folder, dataset) = common::colours(20);
    let (train, validation) = dataset.split(0.3, 1).unwrap();
    let mut model = model(&[]);
    let history = trainer(1e-3)
        .epochs(5)
        .fit(&mut model, &train, &validation)
        .unwrap();
    assert_eq!(history.epochs.len(), 5);
    assert!(
        history.epochs[4].loss < 0.5 * history.epochs[0].loss,
        "{history:?}"
    );
    assert_eq!(model.evaluate(&validation).unwrap().accuracy, Some(1.0));
    // The last record's validation is the score of the model as it is left.
    let score = model.evaluate(&validation).unwrap();
    let last = history.last().unwrap();
    assert_eq!(last.val_accuracy, score.accuracy);
    assert!((last.val_loss.unwrap() - score.loss.unwrap()).abs() < 1e-6);
}

#[test]
fn one_seed_gives_one_history_on_any_number_of_threads() {
    let (_folder, dataset) = common::colours(10);
    let run = |threads: usize, seed: u64| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let mut model = model(&[Block::Conv5]);
            let trainer = trainer(1e-4).seed(seed).augment(Augmenter::notebook());
            let history = trainer.fit(&mut model, &dataset, &dataset).unwrap();
            let weights: Vec<_> = model.variables().iter().map(|(_, var)| bits(var)).collect();
            (losses(&history), weights)
        })
    };
    let first = run(1, 7);
    assert!(first == run(1, 7), "a second run differs");
    assert!(first == run(3, 7), "three threads differ");
    assert!(first.0 != run(1, 8).0, "another seed should");
}

#[test]
fn only_what_is_trainable_changes() {
    let (_folder, dataset) = common::colours(5);
    let mut model = model(&[Block::Conv4]);
    let all_bits = |model: &Classifier| -> Vec<(String, Vec<u32>)> {
        let tensors = model.base().tensors().into_iter();
        tensors
            .map(|(name, tensor)| (name, bits(&tensor)))
            .collect()
    };
    let before = all_bits(&model);
    trainer(1e-3)
        .epochs(1)
        .fit(&mut model, &dataset, &dataset)
        .unwrap();
    for ((name, before), (_, after)) in before.iter().zip(all_bits(&model)) {
        // A bias that no picture excites may stay; a frozen tensor must.
        if !name.starts_with("block4") {
            assert!(*before == after, "{name} is frozen");
        } else if name.ends_with("weight") {
            assert!(*before != after, "{name} is open");
        }
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run() {
    let (_folder, dataset) = common::colours(6);
    let mut model = model(&[]);
    let error = trainer(1e30)
        .epochs(3)
        .fit(&mut model, &dataset, &dataset)
        .unwrap_err();
    let Error::Diverged {
        epoch, step, value, ..
    } = error
    else {
        panic!("{error}");
    };
    assert!(
        !value.is_finite() && epoch == 1,
        "epoch {epoch}, step {step}"
    );
}

#[test]
fn bad_pictures_are_left_out_or_stop_the_run() {
    let (folder, _) = common::colours(6);
    std::fs::write(folder.path().join("red/broken.jpg"), b"not a jpeg").unwrap();
    let dataset = Dataset::open(folder.path()).unwrap();
    assert_eq!(dataset.len(), 13);
    let mut fitted = model(&[]);
    trainer(1e-4).fit(&mut fitted, &dataset, &dataset).unwrap();
    let summary = dataset.problem_summary().unwrap();
    assert!(summary.contains("broken.jpg"), "{summary}");
    assert_eq!(
        fitted
            .evaluate(&dataset)
            .unwrap()
            .confusion
            .iter()
            .flatten()
            .sum::<usize>(),
        12
    );

    let strict = Dataset::open(folder.path())
        .unwrap()
        .policy(Policy::Fail)
        .unwrap();
    let error = trainer(1e-4)
        .fit(&mut model(&[]), &strict, &strict)
        .unwrap_err()
        .to_string();
    assert!(error.contains("broken.jpg"), "{error}");
}

#[test]
fn nonsense_is_named_before_any_work() {
    let (_folder, dataset) = common::colours(2);
    let error = |trainer: Trainer| {
        trainer
            .fit(&mut model(&[]), &dataset, &dataset)
            .unwrap_err()
            .to_string()
    };
    assert!(error(trainer(1e-4).epochs(0)).contains("epochs"));
    assert!(error(trainer(1e-4).batch_size(0)).contains("batch_size"));
    assert!(error(trainer(-1.0)).contains("learning_rate"));
    assert!(error(trainer(1e-4).augment(Augmenter::new().rotation(999.0))).contains("rotation"));
    let names = ["cold", "warm"];
    let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &Device::Cpu)
        .unwrap()
        .frozen();
    let mut other = Classifier::new(base, Head::sigmoid(), &names).unwrap();
    let error = trainer(1e-4)
        .fit(&mut other, &dataset, &dataset)
        .unwrap_err()
        .to_string();
    assert!(error.contains("cold, warm"), "{error}");
}

#[test]
fn a_history_reads_back_as_it_was() {
    let (folder, dataset) = common::colours(4);
    let history = trainer(1e-4)
        .fit(&mut model(&[]), &dataset, &dataset)
        .unwrap();
    let file = folder.path().join("history.csv");
    history.save_csv(&file).unwrap();
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines = text.lines();
    assert_eq!(
        lines.next(),
        Some("epoch,loss,accuracy,val_loss,val_accuracy,seconds")
    );
    for (line, record) in lines.zip(&history.epochs) {
        let numbers: Vec<f64> = line
            .split(',')
            .map(|number| number.parse().unwrap())
            .collect();
        assert_eq!(
            numbers[..5],
            [
                record.epoch as f64,
                record.loss,
                record.accuracy,
                record.val_loss.unwrap(),
                record.val_accuracy.unwrap()
            ]
        );
    }
    assert_eq!(text.lines().count(), 3);
}
