//! An exported classifier in another program: rten runs it, this crate has nothing of headstart's.

use std::path::Path;

use image::imageops::FilterType;
use rten::Model;
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Each class's name and probability, the likeliest first.
pub fn predict(model: &Path, picture: &Path) -> Result<Vec<(String, f32)>> {
    let model = Model::load_file(model)?;
    let metadata = |key: &str| model.metadata().get(key).map(str::to_owned).ok_or(key.to_owned());
    let (height, width) = (metadata("height")?.parse()?, metadata("width")?.parse()?);
    let classes: Vec<String> = serde_json::from_str(&metadata("classes")?)?;

    // The resize alone is ours to do: `image`'s filters are Pillow's but for rounding.
    let filter = match metadata("resize")?.as_str() {
        "nearest" => FilterType::Nearest,
        "bilinear" => FilterType::Triangle,
        _ => FilterType::CatmullRom,
    };
    let picture = image::open(picture)?.resize_exact(width, height, filter).into_rgb8();
    let shape = [1, height as usize, width as usize, 3];
    let pictures = NdTensor::from_data(shape, picture.into_raw());

    let output = model.run_one(pictures.view().into(), None)?;
    let probabilities: NdTensor<f32, 2> = output.try_into()?;
    let mut ranked: Vec<_> = classes.into_iter().zip(probabilities.into_data()).collect();
    ranked.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    Ok(ranked)
}

#[cfg(test)]
mod tests {
    use headstart::model::Pooling;
    use headstart::{Classifier, ConvBase, Device, Head, Resize, Weights};

    use super::*;

    #[test]
    fn it_says_what_headstart_says() {
        let base = ConvBase::mobilenet_v3_small(Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
        let head = Head::softmax(3).pooling(Pooling::GlobalAverage);
        let model = Classifier::new(base.frozen(), head, &["ant", "bee", "cat"]).unwrap();
        // What is left to the caller is no part of the comparison: the picture has the size already.
        let model = model.input_size(96, 128).unwrap().resize(Resize::Nearest);
        let folder = tempfile::tempdir().unwrap();
        let (onnx, png) = (folder.path().join("model.onnx"), folder.path().join("picture.png"));
        model.export_onnx(&onnx).unwrap();
        let pixel = |x, y| image::Rgb([(3 * x % 256) as u8, (5 * y % 256) as u8, ((x * y) % 256) as u8]);
        image::RgbImage::from_fn(128, 96, pixel).save(&png).unwrap();
        let expected = model.predict(&png).unwrap();
        let ranked = predict(&onnx, &png).unwrap();
        assert_eq!(ranked.len(), 3);
        for (name, probability) in ranked {
            let expected = expected.probability(&name).unwrap();
            assert!((probability - expected).abs() < 1e-5, "{name}: {probability}, {expected}");
        }
    }
}
