//! What a trained base sees in every picture, kept on disk: the targets of distillation (Romero et al. 2015,
//! "FitNets").

use candle_core::{DType, Device, Tensor};
use headstart::{ConvBase, Preprocess, Weights};

use crate::pictures::{Batch, Pictures};
use crate::{Options, Result};

/// Pictures per file of targets: what an interrupted run does again at most.
const SHARD: usize = 5000;

/// Features of every training picture. Their roots are what is taught: a few large values would outweigh all else.
pub(crate) struct Teacher {
    /// (pictures, 512·2·2), f16
    features: Tensor,
    /// (1, 512, 1, 1): after these, the roots of every channel have mean 0 and deviation 1 over the pictures.
    mean: Tensor,
    deviation: Tensor,
}

impl Teacher {
    /// Reads the targets, making first what is missing.
    pub(crate) fn teach(options: &Options, train: &Pictures, device: &Device) -> Result<Self> {
        let mut base = None;
        let mut shards = Vec::new();
        for (index, first) in (0..train.len()).step_by(SHARD).enumerate() {
            let file = options.out.join(format!(
                "targets-{}-{index:03}.safetensors",
                options.teacher_size
            ));
            if !file.exists() {
                let base = match &base {
                    Some(base) => base,
                    None => base.insert(
                        ConvBase::vgg16(Weights::file(&options.teacher), device)?
                            .with_preprocess(Preprocess::Caffe)
                            .frozen(),
                    ),
                };
                let places = first as u32..(first + SHARD).min(train.len()) as u32;
                let features = see(base, options.teacher_size, train, places, device)?;
                let unfinished = file.with_extension("unfinished");
                candle_core::safetensors::save(&[("features", features)].into(), &unfinished)?;
                std::fs::rename(&unfinished, &file)?;
                println!(
                    "teacher: {} of {} pictures",
                    (first + SHARD).min(train.len()),
                    train.len()
                );
            }
            let mut shard = candle_core::safetensors::load(&file, &Device::Cpu)?;
            shards.push(
                shard
                    .remove("features")
                    .ok_or("a file of targets without features")?,
            );
        }
        let features = Tensor::cat(&shards, 0)?;
        let (mean, deviation) = statistics(&shards)?;
        Ok(Self {
            features,
            mean: mean.to_device(device)?,
            deviation: deviation.to_device(device)?,
        })
    }

    /// The targets (N, 512, 2, 2) of a batch; a mirrored picture's are mirrored.
    pub(crate) fn targets(&self, batch: &Batch, device: &Device) -> Result<Tensor> {
        let places = Tensor::new(batch.places.as_slice(), &Device::Cpu)?;
        let rows = self
            .features
            .index_select(&places, 0)?
            .to_dtype(DType::F32)?
            .sqrt()?;
        let mut values: Vec<Vec<f32>> = rows.to_vec2()?;
        for (row, mirrored) in values.iter_mut().zip(&batch.mirrored) {
            if *mirrored {
                for pair in row.chunks_exact_mut(2) {
                    pair.swap(0, 1);
                }
            }
        }
        let targets = Tensor::new(values, device)?.reshape((batch.places.len(), (), 2, 2))?;
        Ok(targets
            .broadcast_sub(&self.mean)?
            .broadcast_div(&self.deviation)?)
    }
}

/// Features of some pictures, averaged to 2×2 places: (n, 512·2·2), f16.
fn see(
    base: &ConvBase,
    size: usize,
    train: &Pictures,
    places: std::ops::Range<u32>,
    device: &Device,
) -> Result<Tensor> {
    let mut rows = Vec::new();
    for batch in train.range(places, size, Preprocess::Caffe, 20) {
        let features = base.forward(&batch?.tensor(device)?)?;
        let features = features.avg_pool2d(size / 64)?.flatten_from(1)?;
        rows.push(features.to_dtype(DType::F16)?.to_device(&Device::Cpu)?);
    }
    Ok(Tensor::cat(&rows, 0)?)
}

/// Mean and deviation of every channel.
fn statistics(shards: &[Tensor]) -> Result<(Tensor, Tensor)> {
    let (mut sum, mut squares, mut count) = (
        Tensor::zeros(512, DType::F32, &Device::Cpu)?,
        Tensor::zeros(512, DType::F32, &Device::Cpu)?,
        0.0,
    );
    for shard in shards {
        let values = shard.to_dtype(DType::F32)?.sqrt()?.reshape(((), 512, 4))?;
        sum = (sum + values.sum((0, 2))?)?;
        squares = (squares + values.sqr()?.sum((0, 2))?)?;
        count += (values.elem_count() / 512) as f64;
    }
    let mean = (sum / count)?;
    let deviation = (((squares / count)? - mean.sqr()?)? + 1e-3)?.sqrt()?;
    Ok((
        mean.reshape((1, 512, 1, 1))?,
        deviation.reshape((1, 512, 1, 1))?,
    ))
}
