//! What a folder of pictures is good for, before anything is trained: a page of text, and JSON beside it.
//!
//! ```text
//! cargo run --release --example study                            # the bundled pictures with the bundled base
//! cargo run --release --example study -- PICTURES BASE WEIGHTS   # yours: tf_efficientnet_lite0 FILE
//! ```
//!
//! PICTURES has class folders, or folders `train`, `validation` and `test` with class folders each. It is only read.

use std::path::Path;

use headstart::model::Arch;
use headstart::prelude::*;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/santa/pictures");
    let root = Path::new(arguments.first().map_or(bundled, String::as_str));
    let base = match &arguments[..] {
        [_, base, weights, ..] => {
            ConvBase::new(base.parse::<Arch>()?, Weights::file(weights), &Device::Cpu)?
        }
        _ => ConvBase::compact(&Device::Cpu)?,
    };
    let is_split = root.join("train").is_dir();
    let train = match is_split {
        true => Dataset::open(root.join("train"))?,
        false => Dataset::open(root)?,
    };
    let mut options = Study::options();
    for name in ["validation", "test"] {
        if is_split && root.join(name).is_dir() {
            let part = Dataset::open_with_classes(root.join(name), train.class_names())?;
            options = options.part(name, &part);
        }
    }
    let study = options.run(&base, &train)?;
    println!("{study}");

    let create = |source| Error::Io {
        path: "runs".into(),
        source,
    };
    std::fs::create_dir_all("runs").map_err(create)?;
    study.write_json("runs/study.json")?;
    study.suspects().write_csv("runs/suspects.csv")?;
    study.model.save("runs/study.safetensors")?;
    println!("\nruns/study.json, runs/suspects.csv and runs/study.safetensors were written.");
    Ok(())
}
