//! A base, a head, and everything needed to use them on a picture later, in one file.

use std::collections::HashSet;

use candle_core::{Tensor, Var};

use super::backbone::{Backbone, Mode};
use super::base::ConvBase;
use super::familiarity::Familiarity;
use super::head::{Dropout, Head, HeadLayers};
use super::names;
use super::summary::Summary;
use crate::data::{Preprocess, Resize};
use crate::error::{Error, Result};
use crate::words::count;
use crate::{bounds, finite};

/// A picture classifier: a convolutional base, a head, and what they need to take a picture from a file to a
/// class name (class names, input size, resize filter, preprocess).
///
/// ```
/// use candle_core::Device;
/// use headstart::{Classifier, ConvBase, Head, Weights};
/// use image::DynamicImage;
///
/// let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &Device::Cpu)?.frozen();
/// let model = Classifier::new(base, Head::sigmoid().hidden(8), &["cat", "dog"])?.input_size(32, 48)?;
/// let prediction = model.predict(&DynamicImage::new_rgb8(300, 200))?;
/// assert!(prediction.probability("cat").is_some());
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Classifier<B = ConvBase> {
    pub(super) base: B,
    pub(super) head: HeadLayers,
    pub(super) class_names: Vec<String>,
    pub(super) input_size: (usize, usize),
    pub(super) resize: Resize,
    pub(super) preprocess: Preprocess,
    pub(super) familiarity: Option<Familiarity>,
}

impl<B: Backbone> Classifier<B> {
    /// Puts a fresh head on a base.
    ///
    /// Size and resize filter of the pictures are those the base's weights were trained with, 64×64 for VGG:
    /// [`input_size`](Self::input_size) and [`resize`](Self::resize) set others. The preprocess is the one the weights
    /// carry.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] unless the head has one output per class (one sigmoid unit for two classes) and the
    /// class names are distinct.
    pub fn new(base: B, head: Head, class_names: &[impl AsRef<str>]) -> Result<Self> {
        let class_names: Vec<String> = class_names
            .iter()
            .map(|name| name.as_ref().to_owned())
            .collect();
        check_classes(&class_names, &head)?;
        let (height, width) = base.input_size();
        bounds::input_size(height, width)?;
        let head = head.build(base.output_shape(height, width)?, &base.device())?;
        let (resize, preprocess) = (base.resize(), base.preprocess());
        Ok(Self {
            base,
            head,
            class_names,
            input_size: (height, width),
            resize,
            preprocess,
            familiarity: None,
        })
    }

    /// Sets the size pictures are resized to, in pixels: up to 8192 on a side, and 4096 × 4096 in all. The head keeps
    /// what it has learnt where it fits: at the size it has, and with [`Pooling::GlobalAverage`] at any. A head that
    /// flattens features of another shape is made afresh as long as it is as it was made.
    ///
    /// [`Pooling::GlobalAverage`]: crate::model::Pooling::GlobalAverage
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a size the base cannot take; [`Error::Mismatch`] for one where a head that was
    /// trained would be lost: [`fresh_head`](Self::fresh_head) gives it up.
    pub fn input_size(mut self, height: usize, width: usize) -> Result<Self> {
        bounds::input_size(height, width)?;
        let features = self.base.output_shape(height, width)?;
        self.head = match self.head.on_features(features)? {
            Some(head) => head,
            None if self.head.is_fresh()? => {
                self.head.config().build(features, &self.base.device())?
            }
            None => {
                let [c, h, w] = features;
                let [_, own_h, own_w] = self.head.features();
                return Err(Error::mismatch(
                    "`input_size`",
                    format!("{height}×{width}, which gives features of {c}×{h}×{w}"),
                    format!(
                        "features of {c}×{own_h}×{own_w}, which the head has learnt to flatten: a head with global \
                         average pooling takes any size, and `fresh_head` makes a new one"
                    ),
                ));
            }
        };
        self.input_size = (height, width);
        self.familiarity = None;
        Ok(self)
    }

    /// Sets the size pictures are resized to, as [`input_size`](Self::input_size), and makes the head afresh: what it
    /// has learnt is lost.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a size the base cannot take.
    pub fn fresh_head(mut self, height: usize, width: usize) -> Result<Self> {
        bounds::input_size(height, width)?;
        let features = self.base.output_shape(height, width)?;
        self.head = self.head.config().build(features, &self.base.device())?;
        self.input_size = (height, width);
        self.familiarity = None;
        Ok(self)
    }

    /// The same classifier with a head that was made for pictures of this size.
    pub(crate) fn with_head(mut self, head: HeadLayers, size: (usize, usize)) -> Result<Self> {
        check_classes(&self.class_names, head.config())?;
        bounds::input_size(size.0, size.1)?;
        self.head = head;
        self.input_size = size;
        Ok(self)
    }

    /// Sets the resize filter; the default is the base's.
    pub fn resize(mut self, resize: Resize) -> Self {
        self.resize = resize;
        self.familiarity = None;
        self
    }

    /// Class names in the order of their labels.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// Height and width, in pixels, that pictures are resized to.
    pub fn size(&self) -> (usize, usize) {
        self.input_size
    }

    /// The filter pictures are resized with.
    pub fn resize_filter(&self) -> Resize {
        self.resize
    }

    /// What pixels are turned into for the base.
    pub fn preprocess(&self) -> Preprocess {
        self.preprocess
    }

    /// The base.
    pub fn base(&self) -> &B {
        &self.base
    }

    /// The base, to set its flags.
    pub fn base_mut(&mut self) -> &mut B {
        &mut self.base
    }

    /// The head.
    pub fn head(&self) -> &HeadLayers {
        &self.head
    }

    /// Puts another head of the same classes on the base; what was familiar was so by the one before.
    pub(crate) fn set_head(&mut self, head: HeadLayers) {
        self.head = head;
        self.familiarity = None;
    }

    /// What pictures are familiar: none once base or head are trained.
    pub(crate) fn set_familiarity(&mut self, familiarity: Option<Familiarity>) {
        self.familiarity = familiarity;
    }

    /// The vectors (N, D) that the head reads of preprocessed images (N, 3, H, W): all features or their means, as the
    /// head's pooling says.
    pub(crate) fn vectors(&self, images: &Tensor) -> Result<Tensor> {
        let features = self.features_from(0, images, Mode::Infer)?;
        self.head.vectors(&features)
    }

    /// The same classifier with its one sigmoid unit written as two softmax units: equal probabilities.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] when the head is not a sigmoid unit.
    pub fn to_softmax(mut self) -> Result<Self> {
        self.head = self.head.to_softmax()?;
        Ok(self)
    }

    /// The same classifier with its two softmax units written as one sigmoid unit: equal probabilities.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] when the head has not two softmax units.
    pub fn to_sigmoid(mut self) -> Result<Self> {
        self.head = self.head.to_sigmoid()?;
        Ok(self)
    }

    /// The trainable parameters by name: the base's from the input on, then the head's. The order is always
    /// the same.
    pub fn variables(&self) -> Vec<(String, Var)> {
        let variables = self.variables_by_block().into_iter();
        variables.map(|(_, name, var)| (name, var)).collect()
    }

    /// The same with the name of the block that each belongs to, `head` for the head's.
    pub(crate) fn variables_by_block(&self) -> Vec<(String, String, Var)> {
        let blocks = self.base.blocks();
        let base = self.base.parameters().into_iter().filter_map(|parameter| {
            let block = blocks[parameter.block].name.clone();
            Some((
                block,
                format!("{}{}", names::BASE, parameter.name),
                parameter.variable?,
            ))
        });
        let head = self.head.variables().into_iter();
        let block = || names::HEAD_BLOCK.to_owned();
        base.chain(head.map(|(name, var)| (block(), format!("{}{name}", names::HEAD), var)))
            .collect()
    }

    /// Every tensor by the name it has in files, without a graph.
    pub(crate) fn tensors(&self) -> Vec<(String, Tensor)> {
        let base = self.base.tensors().into_iter();
        let head = self.head.tensors().into_iter();
        base.map(|(name, tensor)| (format!("{}{name}", names::BASE), tensor))
            .chain(head.map(|(name, tensor)| (format!("{}{name}", names::HEAD), tensor)))
            .collect()
    }

    /// How many numbers training may change.
    pub fn trainable_parameters(&self) -> usize {
        self.variables()
            .iter()
            .map(|(_, var)| var.elem_count())
            .sum()
    }

    /// The table of layers: output shapes, parameters, and what training may change.
    pub fn summary(&self) -> Summary {
        let (height, width) = self.input_size;
        let base = self.base.layers(height, width);
        let mut layers = base.expect("the size was checked when it was set");
        layers.extend(self.head.layers());
        Summary::new(format!("{} classifier", self.base.architecture()), layers)
    }

    /// Logits of preprocessed images: (N, 3, H, W) → (N, 1) or (N, K), for use.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another shape.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.forward_from(0, images)
    }

    /// Logits of what the base's block `first` reads, for use.
    pub(crate) fn forward_from(&self, first: usize, input: &Tensor) -> Result<Tensor> {
        let features = self.features_from(first, input, Mode::Infer)?;
        self.head.forward(&features, Mode::Infer, None)
    }

    /// Logits of what the base's block `first` reads, with a graph, for training.
    pub(crate) fn forward_train(
        &self,
        first: usize,
        input: &Tensor,
        dropout: &Dropout<'_>,
    ) -> Result<Tensor> {
        let features = self.features_from(first, input, Mode::Train)?;
        self.head.forward(&features, Mode::Train, Some(dropout))
    }

    pub(super) fn features_from(&self, first: usize, input: &Tensor, mode: Mode) -> Result<Tensor> {
        let blocks = first..self.base.blocks().len();
        self.base.forward_blocks(input, blocks, mode)
    }

    /// The error of a number that is NaN or infinite: it names the first weight that is, if any, or else `what`.
    pub(crate) fn not_finite(&self, what: String, value: f32) -> Error {
        match finite::first_tensor(self.tensors()) {
            Ok(Some((name, value))) => Error::NotFinite {
                what: format!("the weights `{name}`"),
                value,
            },
            Ok(None) => Error::NotFinite { what, value },
            Err(error) => error,
        }
    }
}

/// As many outputs as classes, with distinct names.
pub(super) fn check_classes(class_names: &[String], head: &Head) -> Result<()> {
    head.check()?;
    if class_names.len() != head.classes() {
        let number = class_names.len();
        let allowed = match head.is_sigmoid() {
            true => format!(
                "2: Head::sigmoid() tells two classes apart, Head::softmax({number}) {number}"
            ),
            false => format!("{}, one for each class of the head", head.classes()),
        };
        return Err(Error::option("class_names", count(number, "name"), allowed));
    }
    let mut known = HashSet::with_capacity(class_names.len());
    match class_names.iter().find(|name| !known.insert(*name)) {
        None => Ok(()),
        Some(name) => {
            let found = format!("`{name}` twice");
            Err(Error::option("class_names", found, "distinct names"))
        }
    }
}
