//! What frozen blocks make of a picture never changes: compute it once, and train on that.
//!
//! ```text
//! cargo run --release --example feature_cache
//! ```

use headstart::prelude::*;

fn main() -> Result<()> {
    let pictures = DirectoryDataset::open("examples/santa/pictures/train")?;
    let (train, validation) = pictures.split(0.2, 1)?;

    let fit = |trainer: &Trainer| -> Result<History> {
        // Blocks 1 to 4 are frozen and stand before the first trainable one: what they compute can be kept.
        let base = ConvBase::compact(&Device::Cpu)?
            .frozen()
            .unfreeze("block5")?;
        let head = Head::sigmoid().hidden(32).dropout(0.3);
        let mut model = Classifier::new(base, head, train.class_names())?;
        trainer.fit(&mut model, &train, &validation)
    };
    let trainer = Trainer::new(AdamW::new(1e-3)).epochs(6);

    // Without an augmenter a picture is the same each epoch. Then a cache saves time and changes nothing else: order,
    // batches and dropout are those of training without one, and so is the result, to the last bit.
    let without = fit(&trainer)?;
    let with = fit(&trainer.clone().feature_cache(FeatureCache::in_memory()))?;
    report("as they are, without a cache", &without);
    report("as they are, with a cache", &with);
    let losses = |history: &History| {
        history
            .epochs
            .iter()
            .map(|epoch| epoch.val_loss)
            .collect::<Vec<_>>()
    };
    assert_eq!(losses(&with), losses(&without));

    // With an augmenter each epoch would see another variation of a picture. A cache draws a fixed number of them,
    // its views, and the epochs take turns: less variety, but most of the computing time is saved.
    let augmented = trainer.augment(
        Augmenter::new()
            .rotation(15.0)
            .zoom(0.1)
            .horizontal_flip(true),
    );
    let every_epoch = fit(&augmented)?;
    let three_views = fit(&augmented
        .clone()
        .feature_cache(FeatureCache::in_memory().views(3)))?;
    report("another variation each epoch", &every_epoch);
    report("three variations in turn, with a cache", &three_views);

    // `FeatureCache::on_disk(folder)` keeps them for later runs, and where they do not fit the memory.
    Ok(())
}

fn report(what: &str, history: &History) {
    let seconds: f64 = history.epochs.iter().map(|epoch| epoch.seconds).sum();
    let accuracy = history.last().and_then(|epoch| epoch.val_accuracy);
    let accuracy = accuracy.map_or("–".to_owned(), |accuracy| format!("{accuracy:.3}"));
    println!("{what:38} {seconds:5.1} s, validation accuracy {accuracy}");
}
