//! `headstart export`: a model as other frameworks read it.

use std::path::{Path, PathBuf};

use headstart::Dataset;
use headstart::export::{Onnx, TorchNames};
use headstart::run::Config;

use crate::options::{load, model_file, parts};
use crate::{End, Failure, evaluate, say};

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
    /// What an ONNX file computes in: `f32`; `f16`, half of the size; or `int8`, a quarter of it, which loses a little
    /// [default: f32]
    #[arg(long, value_name = "f32|f16|int8", conflicts_with = "torch")]
    precision: Option<Precision>,
    /// For int8: class folders, or a tar archive of them, with pictures like those to come, of which up to 128 say what
    /// range each value has [default: the training pictures of a run's folder]
    #[arg(long, value_name = "DIR", conflicts_with = "torch")]
    calibrate: Option<PathBuf>,
    /// Where it is written [default: the model's name, ending in .onnx or .torch.safetensors]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Precision {
    #[default]
    F32,
    F16,
    Int8,
}

impl Options {
    /// The pictures that say what range each value has, where they are needed.
    fn calibration(&self, class_names: &[String]) -> Result<Option<Dataset>, Failure> {
        let needed = self.precision == Some(Precision::Int8);
        match (&self.calibrate, needed) {
            (None, false) => Ok(None),
            (Some(_), false) => Err(Failure::Usage(
                "--calibrate is for --precision int8 alone".into(),
            )),
            (Some(pictures), true) => Ok(Some(evaluate::open(pictures, class_names)?)),
            (None, true) => match run_config(&self.model) {
                Some(config) => Ok(Some(parts(&Config::load(config)?)?.train)),
                None => Err(Failure::Usage(
                    "--precision int8 needs pictures to calibrate on: add --calibrate DIR".into(),
                )),
            },
        }
    }
}

/// What says which pictures a run was trained on.
fn run_config(model: &Path) -> Option<PathBuf> {
    Some(model.join("config.toml")).filter(|path| path.exists())
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
    let pictures = options.calibration(model.class_names())?;
    let onnx = match (options.precision.unwrap_or_default(), &pictures) {
        (Precision::F16, _) => Onnx::new().half(),
        (_, Some(pictures)) => Onnx::new().int8(pictures),
        _ => Onnx::new(),
    };
    match options.onnx {
        true => onnx.write(&model, &out)?,
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
