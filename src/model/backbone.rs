//! What a classifier and a trainer ask of a base: the only door between them and an architecture.

use std::ops::Range;

use candle_core::{Device, Tensor, Var};

use crate::{Preprocess, Result};

/// Whether a forward pass is for training or for use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Trainable parts record a graph for the gradient.
    Train,
    /// No graph is recorded and no activation is kept.
    Infer,
}

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

/// A convolutional base: pictures in, feature maps out, in blocks that can be frozen.
pub trait Backbone {
    /// The architecture's name, such as `vgg19`.
    fn architecture(&self) -> String;

    /// Features of preprocessed images: (N, 3, H, W) → (N, C, h, w).
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for images of another shape or too small.
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        self.forward_blocks(images, 0..self.blocks().len(), mode)
    }

    /// Some of the blocks alone: what the first of them reads, (N, 3, H, W) for block 0 and the output of the block
    /// before for the others, to what the last of them gives. No blocks give back what they are given.
    ///
    /// Running the blocks in parts gives what running them all gives. In [`Mode::Train`] a picture's features are to
    /// depend on the batch it comes in as little as the device allows: those of frozen blocks are
    /// [cached](crate::FeatureCache) and used in other batches.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for input of another shape or too small,
    /// [`Error::Option`](crate::Error::Option) for blocks the base does not have.
    fn forward_blocks(&self, input: &Tensor, blocks: Range<usize>, mode: Mode) -> Result<Tensor>;

    /// The shape (C, h, w) of the features of an image of `height` × `width` pixels.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for a size the base cannot take.
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
    /// [`Error::Option`](crate::Error::Option) for a position past the last block.
    fn set_trainable(&mut self, block: usize, trainable: bool) -> Result<()>;

    /// The trainable parameters by name, from the input on: the order is always the same.
    fn variables(&self) -> Vec<(String, Var)>;

    /// Every parameter by name, from the input on, without a graph.
    fn tensors(&self) -> Vec<(String, Tensor)>;

    /// The layers for an image of `height` × `width` pixels, from the input on.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for a size the base cannot take.
    fn layers(&self, height: usize, width: usize) -> Result<Vec<LayerInfo>>;

    /// Where the base lives.
    fn device(&self) -> Device;

    /// What pixels must look like for the weights the base holds.
    fn preprocess(&self) -> Preprocess;
}
