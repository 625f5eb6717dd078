//! `headstart export`: a model as other frameworks read it.

use std::path::PathBuf;

use headstart::export::{Onnx, TorchNames};

use crate::options::{load, model_file};
use crate::{End, Failure, say};

/// Writes a model for other frameworks: ONNX, which most engines run, or the weights under PyTorch's names.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("form").required(true).args(["onnx", "torch"]))]
pub(crate) struct Options {
    /// A saved model, or the folder of a run.
    model: PathBuf,
    /// Writes ONNX: bytes (N, H, W, 3) in, probabilities out.
    #[arg(long)]
    onnx: bool,
    /// Writes safetensors with PyTorch's names: timm's, which every base has, or torchvision's.
    #[arg(
        long,
        value_name = "timm|torchvision",
        num_args = 0..=1,
        default_missing_value = "timm",
        value_parser = ["timm", "torchvision"]
    )]
    torch: Option<String>,
    /// Half precision, half of the size.
    #[arg(long, conflicts_with = "torch")]
    half: bool,
    /// Where it is written [default: the model's name, ending in .onnx or .torch.safetensors]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Writes the file.
pub(crate) fn run(options: &Options) -> Result<End, Failure> {
    let model = load(&options.model)?;
    let ending = if options.onnx {
        "onnx"
    } else {
        "torch.safetensors"
    };
    let default = || model_file(&options.model).with_extension(ending);
    let out = options.out.clone().unwrap_or_else(default);
    match options.onnx {
        true if options.half => Onnx::new().half().write(&model, &out)?,
        true => Onnx::new().write(&model, &out)?,
        false => {
            let names = match options.torch.as_deref() {
                Some("torchvision") => TorchNames::Torchvision,
                _ => TorchNames::Timm,
            };
            model.export_torch(&out, names)?;
        }
    }
    say::text(&format!("the model is in {}\n", out.display()))
}
