//! A classifier → ONNX, from pixels to probabilities.

mod classifier;
mod file;
mod graph;
mod half;
mod int8;
mod layers;
mod proto;
mod run;

use std::path::Path;

use self::file::Description;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::model::Classifier;

/// Weights of more bytes go to a file of their own: a protobuf message has at most 2 GiB.
const WITHIN: usize = 2_000_000_000;

/// What type the pixels of an exported classifier's input have, red, green and blue in [0, 255].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pixels {
    /// Bytes (`uint8`), as decoders give them.
    #[default]
    Bytes,
    /// Floats (`float`).
    Floats,
}

/// How the pixels of an exported classifier's input lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// (N, H, W, 3), as decoders give them.
    #[default]
    ChannelsLast,
    /// (N, 3, H, W).
    ChannelsFirst,
}

#[derive(Clone, Copy, Debug)]
enum Precision<'a> {
    Float,
    Half,
    Int8(&'a Dataset),
}

/// How a classifier becomes an ONNX file: opset 17, for any number of pictures at a time.
///
/// The input `pictures` has pixels of the classifier's size as they come from a decoder; what the weights expect of
/// them is computed inside, and so are the probabilities of the output, `probabilities` (N, K), in the order of the
/// classes. Only the resize is the caller's, by the filter that the metadata names. Metadata are `classes` (a JSON
/// list), `height`, `width`, `resize`, `preprocess`, `architecture` and the base's `licence`.
///
/// ```no_run
/// use headstart::export::{Layout, Onnx};
/// use headstart::{Classifier, Device};
///
/// let model = Classifier::load("santa.safetensors", &Device::Cpu)?;
/// model.export_onnx("santa.onnx")?;
/// // The same of half the size, for (N, 3, H, W).
/// Onnx::new().layout(Layout::ChannelsFirst).half().write(&model, "santa-f16.onnx")?;
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Onnx<'a> {
    pixels: Pixels,
    layout: Layout,
    precision: Precision<'a>,
    within: usize,
}

impl Default for Onnx<'_> {
    fn default() -> Self {
        Self {
            pixels: Pixels::default(),
            layout: Layout::default(),
            precision: Precision::Float,
            within: WITHIN,
        }
    }
}

impl<'a> Onnx<'a> {
    /// Bytes (N, H, W, 3), computed in `float`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the type of the pixels; the default is [`Pixels::Bytes`].
    pub fn pixels(mut self, pixels: Pixels) -> Self {
        self.pixels = pixels;
        self
    }

    /// Sets how the pixels lie; the default is [`Layout::ChannelsLast`].
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// Weights and sums in half precision (`float16`): half of the size. Engines on CPUs often turn them into floats
    /// again.
    pub fn half(mut self) -> Self {
        self.precision = Precision::Half;
        self
    }

    /// Products of eight-bit integers: a quarter of the size. How much they lose must be measured; up to 128 pictures,
    /// which should be like those to come, say what range each value has.
    pub fn int8(mut self, pictures: &'a Dataset) -> Self {
        self.precision = Precision::Int8(pictures);
        self
    }

    /// Writes the file, whole or not at all. Weights of more than 2 GB are written beside it, to a file with `.data`
    /// added to its name.
    ///
    /// # Errors
    /// [`Error::Io`] naming a file that cannot be written; [`Error::NotFinite`] for weights that are no finite numbers,
    /// or none of half precision; [`Error::Picture`] for a picture that cannot be read.
    pub fn write(&self, model: &Classifier, path: impl AsRef<Path>) -> Result<()> {
        if let Some((name, value)) = crate::finite::first_tensor(model.tensors())? {
            return Err(Error::NotFinite {
                what: format!("the weights `{name}`"),
                value,
            });
        }
        let graph = classifier::graph(model, self.pixels, self.layout)?;
        let graph = match self.precision {
            Precision::Float => graph,
            Precision::Half => half::convert(graph)?,
            Precision::Int8(pictures) => int8::convert(graph, model, pictures)?,
        };
        let description = Description {
            pixels: self.pixels,
            layout: self.layout,
            size: model.size(),
            classes: model.class_names().len(),
            metadata: metadata(model)?,
        };
        file::write(path.as_ref(), graph, &description, self.within)
    }
}

fn metadata(model: &Classifier) -> Result<Vec<(&'static str, String)>> {
    let classes = serde_json::to_string(model.class_names());
    let classes = classes.map_err(|error| Error::option("class_names", error, "names"))?;
    let (height, width) = model.size();
    let arch = model.base().arch();
    let mut metadata = vec![
        ("architecture", arch.name().to_owned()),
        ("classes", classes),
        ("height", height.to_string()),
        ("width", width.to_string()),
        ("resize", model.resize_filter().to_string()),
        ("preprocess", model.preprocess().to_string()),
    ];
    if let Some(weights) = arch.weights() {
        metadata.push(("licence", weights.licence.to_owned()));
    }
    Ok(metadata)
}

impl Classifier {
    /// Writes an ONNX file with [`Onnx`]'s defaults: bytes (N, H, W, 3) in, probabilities out.
    ///
    /// # Errors
    /// Those of [`Onnx::write`].
    pub fn export_onnx(&self, path: impl AsRef<Path>) -> Result<()> {
        Onnx::new().write(self, path)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use prost::Message;

    use super::*;
    use crate::model::{ConvBase, Head, Vgg, Weights};

    /// Beyond 2 GB that no test has: the bound is lower here.
    #[test]
    fn weights_too_large_for_a_message_lie_beside_it() {
        let vgg = Vgg::Vgg11.width(1.0 / 64.0).unwrap();
        let base = ConvBase::new(vgg, Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
        let model = Classifier::new(base, Head::sigmoid(), &["cat", "dog"]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (whole, split) = (
            folder.path().join("whole"),
            folder.path().join("split.onnx"),
        );
        let read = |path| proto::Model::decode(&*std::fs::read(path).unwrap()).unwrap();
        Onnx::new().write(&model, &whole).unwrap();
        Onnx {
            within: 1000,
            ..Onnx::new()
        }
        .write(&model, &split)
        .unwrap();
        let data = std::fs::read(folder.path().join("split.onnx.data")).unwrap();
        let (whole, split) = (read(&whole).graph.unwrap(), read(&split).graph.unwrap());
        assert_eq!(whole.node, split.node);
        for (inside, beside) in whole.initializer.iter().zip(&split.initializer) {
            assert_eq!((&inside.name, &inside.dims), (&beside.name, &beside.dims));
            let entry = |key: &str| {
                let entry = beside
                    .external_data
                    .iter()
                    .find(|entry| entry.key == key)
                    .unwrap();
                entry.value.as_str()
            };
            assert_eq!(
                (beside.data_location, &beside.raw_data),
                (proto::EXTERNAL, &None)
            );
            assert_eq!(entry("location"), "split.onnx.data");
            let number = |key| entry(key).parse::<usize>().unwrap();
            let range = number("offset")..number("offset") + number("length");
            assert_eq!(inside.raw_data.as_deref(), data.get(range));
        }
    }
}
