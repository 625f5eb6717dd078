//! From a folder of pictures to a saved classifier, on one page.
//!
//! ```text
//! cargo run --release --example quickstart              # the drawings that come with the repository
//! cargo run --release --example quickstart -- PICTURES  # yours: one folder of pictures per class
//! ```

use headstart::prelude::*;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1);
    let folder = folder.unwrap_or("examples/santa/pictures/train".into());

    // Each folder in it is a class. A fifth of each is put aside, for the classifier to be tested on.
    let (train, test) = DirectoryDataset::open(folder)?.split(0.2, 1)?;

    // The base has learnt to see from other pictures. This one travels with the crate; `headstart::bases()` lists
    // better ones, such as `ConvBase::resnet50(Weights::ImageNet, &Device::Cpu)?`, which is fetched once.
    let base = ConvBase::compact(&Device::Cpu)?;

    // The head is new, and learns to tell your classes apart by what the base sees.
    let head = Head::softmax(train.class_names().len())
        .hidden(64)
        .dropout(0.5);
    let mut model = Classifier::new(base, head, train.class_names())?;

    // The head first, on a frozen base; then head and last blocks together, gently.
    Trainer::fine_tune(&mut model, &train)?;
    println!("{}", model.evaluate(&test)?);

    // One file holds the weights, the class names, and how a picture becomes what the base takes.
    std::fs::create_dir_all("runs")?;
    model.save("runs/quickstart.safetensors")?;

    let model = Classifier::load("runs/quickstart.safetensors", &Device::Cpu)?;
    let picture = &test.items()[0].path;
    println!("{}: {}", picture.display(), model.predict(picture)?);
    Ok(())
}
