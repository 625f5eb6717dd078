//! What frozen means: a flag for each block, the summary, and a base's bits before and after training.
//!
//! ```text
//! cargo run --release --example freeze
//! ```

use std::collections::BTreeMap;

use headstart::prelude::*;

fn main() -> Result<()> {
    let pictures = DirectoryDataset::open("examples/santa/pictures/train")?;
    let (train, validation) = pictures.split(0.2, 1)?;

    // Every block of a fresh base is trainable. `frozen` freezes all of them; `unfreeze` makes one trainable by its
    // name, `unfreeze_from` that one and all after it. VGG's blocks also have names that the compiler knows:
    // `unfreeze(Block::Conv5)`.
    let base = ConvBase::compact(&Device::Cpu)?
        .frozen()
        .unfreeze("block5")?;
    for block in base.blocks() {
        let state = if block.trainable {
            "trainable"
        } else {
            "frozen"
        };
        println!("{}: {state}", block.name);
    }

    // The head is always trainable. The summary's last column says which layers training may change: Y or N.
    let head = Head::sigmoid().hidden(32);
    let mut model = Classifier::new(base, head, train.class_names())?;
    println!("\n{}", model.summary());

    let before = bits(&model)?;
    let trainer = Trainer::new(RmsProp::new(5e-4)).epochs(2).batch_size(20);
    trainer.fit(&mut model, &train, &validation)?;

    // A frozen block gets no gradient and no optimizer state, and nothing that it computes is kept for the way back.
    // Its tensors are the same bits as before; a trainable block's have moved, every one of them.
    for (name, after) in bits(&model)? {
        let moved = after != before[&name];
        let what = if moved { "moved" } else { "the same bits" };
        println!("{name:20} {what}");
        assert_eq!(moved, name.starts_with("block5"), "{name}");
    }

    // Between two runs, flags are set in place; `Phase` sets them in the middle of a run.
    model.base_mut().set_block("block5", false)?;
    println!(
        "\n{} numbers are trainable now: the head's.",
        model.trainable_parameters()
    );
    Ok(())
}

/// Every tensor of the base to the last bit, by name.
fn bits(model: &Classifier) -> Result<BTreeMap<String, Vec<u32>>> {
    let mut bits = BTreeMap::new();
    for (name, tensor) in model.base().tensors() {
        let numbers: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
        bits.insert(name, numbers.into_iter().map(f32::to_bits).collect());
    }
    Ok(bits)
}
