//! `headstart bases` and `headstart fetch`: which bases there are, and their weights on this machine.

use headstart::model::Arch;
use headstart::{ConvBase, Device, Weights, bases};

use crate::{End, Failure, say, usage};

/// Lists the bases there are.
#[derive(clap::Args)]
pub(crate) struct BasesOptions {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Prints one line a base.
pub(crate) fn list(options: &BasesOptions) -> Result<End, Failure> {
    let bases = bases();
    if options.json {
        return say::json(&bases);
    }
    let mut text = format!(
        "{:24}{:>12}{:>17}{:>7}{:>17}  {}\n",
        "base", "parameters", "multiplications", "size", "ImageNet top-1", "licence of the weights"
    );
    for base in bases {
        let top1 = base
            .top1
            .map_or("–".to_owned(), |top1| match top1.size == base.size {
                true => format!("{:.1} %", top1.percent),
                false => format!("{:.1} % at {}", top1.percent, top1.size),
            });
        text += &format!(
            "{:24}{:>10.1} M{:>15.2} G{:>7}{top1:>17}  {}\n",
            base.name,
            base.parameters as f64 / 1e6,
            base.multiplications as f64 / 1e9,
            base.size,
            base.licence
        );
    }
    say::text(&text)
}

/// Fetches the ImageNet weights of a base into the cache, so that it can be used without the network later.
///
/// The cache is the Hugging Face hub's: HF_HUB_CACHE says where it is, HF_ENDPOINT where weights come from. Copy the
/// folder to a machine without the network, and set HF_HUB_OFFLINE=1 there.
#[derive(clap::Args)]
pub(crate) struct FetchOptions {
    /// The base, by its name: `headstart bases` lists them.
    base: String,
}

/// Loads the weights once, which leaves them in the cache.
pub(crate) fn fetch(options: &FetchOptions) -> Result<End, Failure> {
    let arch: Arch = options.base.parse().map_err(usage)?;
    let Some(weights) = arch.weights() else {
        return Err(Failure::Usage(format!(
            "{arch}: the hub has no weights for it"
        )));
    };
    let repository = weights.repository();
    ConvBase::new(arch.clone(), Weights::ImageNet, &Device::Cpu)?;
    say::text(&format!(
        "the weights of {arch} ({repository}) are in the cache\n"
    ))
}
