//! What a classifier and a trainer ask of a base: the only door between them and an architecture.

use std::ops::Range;
use std::sync::Arc;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};

use crate::data::{Preprocess, Resize};
use crate::error::{Error, Result};

/// Whether a forward pass is for training or for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Trainable parts record a graph for the gradient.
    Train,
    /// No graph is recorded and no activation is kept.
    Infer,
}

/// Takes a variable and its gradient, from any thread.
pub type GradientListener = Arc<dyn Fn(&Tensor, &Tensor) + Send + Sync>;

/// A part of a base that is frozen or trained as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockInfo {
    /// The block's name, such as `block5`.
    pub name: String,
    /// Whether training may change it.
    pub trainable: bool,
}

/// One line of a summary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerInfo {
    /// The layer's name, such as `block1_conv1`.
    pub name: String,
    /// The kind of layer, such as `Conv2D`.
    pub kind: &'static str,
    /// Its output shape without the batch: (C, H, W) or (features).
    pub output: Vec<usize>,
    /// How many numbers it holds.
    pub parameters: usize,
    /// Whether training may change it.
    pub trainable: bool,
}

/// A tensor of a base.
#[derive(Clone, Debug)]
pub struct BlockParameter {
    /// The position of its block.
    pub block: usize,
    /// Its name, the same in every base of the architecture.
    pub name: String,
    /// Its values, without a graph.
    pub tensor: Tensor,
    /// The variable that training updates; none while the block is frozen, and none ever for a running statistic.
    pub variable: Option<Var>,
}

/// A convolutional base: pictures in, feature maps out, in blocks that can be frozen.
///
/// Whoever implements it can be trained, cached, evaluated and predicted with; a [`SavedBackbone`] can be saved and
/// loaded too. The crate relies on these rules, which [`check_backbone`](super::check_backbone) tests:
///
/// 1. Blocks, parameters and their names come in one order, from the input on, which never changes.
/// 2. Running the blocks in parts gives what running them all gives.
/// 3. A frozen block has no variables: no graph is recorded for it, and training leaves its tensors as they are.
/// 4. A trainable block has variables, and the gradient of its output reaches each of them.
/// 5. [`output_shape`](Self::output_shape) is the shape of the features.
/// 6. A picture's features do not depend on the other pictures of its batch.
pub trait Backbone {
    /// The architecture's name, such as `vgg19`.
    fn architecture(&self) -> String;

    /// Some of the blocks: what the first of them reads, (N, 3, H, W) for block 0 and the output of the block before
    /// for the others, to what the last of them gives. An empty range returns its input.
    ///
    /// In [`Mode::Train`] a picture's features should not depend, to the last bit, on the batch it comes in, as far as
    /// the device allows: those of frozen blocks are [cached](crate::FeatureCache) and used in other batches.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for input of another shape or too small,
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for blocks the base does not have.
    fn forward_blocks(&self, input: &Tensor, blocks: Range<usize>, mode: Mode) -> Result<Tensor>;

    /// The features of preprocessed images: (N, 3, H, W) → (N, C, h, w), through all blocks.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for images of another shape or too small.
    fn features(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_blocks(images, 0..self.blocks().len(), mode)
    }

    /// The shape (C, h, w) of the features of an image of `height` × `width` pixels.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for a size the base cannot take.
    fn output_shape(&self, height: usize, width: usize) -> Result<[usize; 3]>;

    /// The blocks from the input on, with their flags.
    fn blocks(&self) -> Vec<BlockInfo>;

    /// How many blocks, from the input on, are frozen before the first trainable one: training leaves what they make
    /// of a picture as it is.
    fn frozen_prefix(&self) -> usize {
        let blocks = self.blocks();
        blocks.iter().take_while(|block| !block.trainable).count()
    }

    /// Sets one block's flag, by its position.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for a position past the last block.
    fn set_trainable(&mut self, block: usize, trainable: bool) -> Result<()>;

    /// Every tensor from the input on, with the block it belongs to.
    fn parameters(&self) -> Vec<BlockParameter>;

    /// The trainable parameters by name, from the input on.
    fn variables(&self) -> Vec<(String, Var)> {
        let parameters = self.parameters().into_iter();
        parameters
            .filter_map(|parameter| Some((parameter.name, parameter.variable?)))
            .collect()
    }

    /// Every tensor by name, from the input on, without a graph.
    fn tensors(&self) -> Vec<(String, Tensor)> {
        let parameters = self.parameters().into_iter();
        parameters
            .map(|parameter| (parameter.name, parameter.tensor))
            .collect()
    }

    /// The gradients of a loss that came from this base. `recycled` holds gradients of an earlier step that nobody
    /// needs any more: their memory may be used again.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) for an operation without a gradient.
    fn backward(&self, loss: &Tensor, recycled: &mut Vec<Tensor>) -> Result<GradStore> {
        recycled.clear();
        Ok(loss.backward()?)
    }

    /// As [`backward`](Self::backward), where several processes add up their gradients: hands a variable and its
    /// gradient to `listener` as soon as it is made, so that it can be sent while those of earlier blocks are still
    /// computed. By default none is handed over, and all follow at the end.
    ///
    /// # Errors
    /// Those of [`backward`](Self::backward).
    fn backward_announced(
        &self,
        loss: &Tensor,
        recycled: &mut Vec<Tensor>,
        listener: GradientListener,
    ) -> Result<GradStore> {
        let _ = listener;
        self.backward(loss, recycled)
    }

    /// What decides the last bits of features beside the weights, such as the instructions that compute them: features
    /// that were cached under other numerics are computed afresh.
    fn numerics(&self) -> String {
        "candle".to_owned()
    }

    /// The layers for an image of `height` × `width` pixels, from the input on.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for a size the base cannot take.
    fn layers(&self, height: usize, width: usize) -> Result<Vec<LayerInfo>>;

    /// Where the base lives.
    fn device(&self) -> Device;

    /// What pixels must look like for the weights the base holds.
    fn preprocess(&self) -> Preprocess;

    /// Height and width in pixels of the pictures that a classifier takes unless it is told otherwise.
    fn input_size(&self) -> (usize, usize) {
        (224, 224)
    }

    /// How a classifier resizes pictures unless it is told otherwise.
    fn resize(&self) -> Resize {
        Resize::default()
    }

    /// For a [`SavedBackbone`] its kind and description, so that a run can save its classifier after an epoch
    /// ([`EpochEnd::save_weights`](crate::train::callback::EpochEnd::save_weights)); by default there is none.
    fn saved_as(&self) -> Option<Result<(&'static str, serde_json::Value)>> {
        None
    }
}

/// A base that a classifier's file can hold.
pub trait SavedBackbone: Backbone + Sized {
    /// The kind of base, which a file names: [`restore`](Self::restore) sees descriptions of its own kind only.
    const KIND: &'static str;

    /// What [`restore`](Self::restore) needs to know beside the tensors, such as the architecture's name.
    ///
    /// # Errors
    /// For a base that could not be restored: nothing is written then.
    fn describe(&self) -> Result<serde_json::Value>;

    /// A base of the description, all blocks frozen, from tensors that are asked for by name and shape.
    ///
    /// # Errors
    /// Those of `tensor`; what the description does not allow.
    fn restore(
        description: &serde_json::Value,
        tensor: &mut dyn FnMut(&str, &[usize]) -> Result<Tensor>,
        preprocess: Preprocess,
        device: &Device,
    ) -> Result<Self>;
}

/// The position of a block by its name.
pub(crate) fn block_position(base: &impl Backbone, name: &str) -> Result<usize> {
    let blocks = base.blocks();
    let position = blocks.iter().position(|block| block.name == name);
    position.ok_or_else(|| {
        let known: Vec<_> = blocks.into_iter().map(|block| block.name).collect();
        Error::option("block", format!("`{name}`"), known.join(", "))
    })
}
