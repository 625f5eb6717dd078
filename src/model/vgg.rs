//! VGG as a table: how many 3×3 convolutions each of the five blocks has, and how wide they are.
//!
//! Source: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
//! 2015, table 1, columns A, B, D, E.

use crate::{Error, Result};

/// The four VGG architectures, by their number of weight layers (the three dense ones included, which a
/// base leaves off).
///
/// ```
/// use headstart::Vgg;
///
/// assert_eq!(Vgg::Vgg19.convolutions(), [2, 2, 4, 4, 4]);
/// assert_eq!(Vgg::Vgg16.to_string(), "vgg16");
/// assert_eq!("vgg11".parse::<Vgg>()?, Vgg::Vgg11);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vgg {
    /// 8 convolutions.
    Vgg11,
    /// 10 convolutions.
    Vgg13,
    /// 13 convolutions.
    Vgg16,
    /// 16 convolutions.
    Vgg19,
}

impl Vgg {
    /// All four, from the shallowest.
    pub const ALL: [Self; 4] = [Self::Vgg11, Self::Vgg13, Self::Vgg16, Self::Vgg19];

    /// The number of convolutions in each block.
    pub fn convolutions(self) -> [usize; 5] {
        match self {
            Self::Vgg11 => [1, 1, 2, 2, 2],
            Self::Vgg13 => [2, 2, 2, 2, 2],
            Self::Vgg16 => [2, 2, 3, 3, 3],
            Self::Vgg19 => [2, 2, 4, 4, 4],
        }
    }

    /// The output channels of each block.
    pub fn channels(self) -> [usize; 5] {
        [64, 128, 256, 512, 512]
    }

    /// `vgg11`, `vgg13`, `vgg16` or `vgg19`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vgg11 => "vgg11",
            Self::Vgg13 => "vgg13",
            Self::Vgg16 => "vgg16",
            Self::Vgg19 => "vgg19",
        }
    }

    /// Every convolution in order, with its names and shape.
    pub(crate) fn layers(self) -> Vec<ConvLayer> {
        let mut layers = Vec::new();
        let mut in_channels = 3;
        // torchvision numbers every module of `features`: convolution, ReLU, …, pool.
        let mut torch_index = 0;
        for (block, (count, out_channels)) in Block::ALL
            .into_iter()
            .zip(self.convolutions().into_iter().zip(self.channels()))
        {
            for k in 1..=count {
                layers.push(ConvLayer {
                    block,
                    name: format!("{}_conv{k}", block.name()),
                    torch_name: format!("features.{torch_index}"),
                    in_channels,
                    out_channels,
                });
                in_channels = out_channels;
                torch_index += 2;
            }
            torch_index += 1;
        }
        layers
    }
}

impl std::fmt::Display for Vgg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Vgg {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|vgg| vgg.name() == name)
            .ok_or_else(|| Error::option("arch", name, "vgg11, vgg13, vgg16 or vgg19"))
    }
}

/// One of the five blocks: some convolutions, then a 2×2 max-pool.
///
/// ```
/// use headstart::Block;
///
/// assert!(Block::Conv4 < Block::Conv5);
/// assert_eq!(Block::Conv5.name(), "block5");
/// ```
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Block {
    /// The first block: half the input's size out.
    Conv1,
    /// The second block: a quarter of the input's size out.
    Conv2,
    /// The third block: an eighth of the input's size out.
    Conv3,
    /// The fourth block: a sixteenth of the input's size out.
    Conv4,
    /// The last block: a thirty-second of the input's size out.
    Conv5,
}

impl Block {
    /// All five, from the input on.
    pub const ALL: [Self; 5] = [
        Self::Conv1,
        Self::Conv2,
        Self::Conv3,
        Self::Conv4,
        Self::Conv5,
    ];

    /// Position, from 0.
    pub fn index(self) -> usize {
        self as usize
    }

    /// Keras's name: `block1` … `block5`.
    pub fn name(self) -> &'static str {
        ["block1", "block2", "block3", "block4", "block5"][self.index()]
    }
}

impl std::fmt::Display for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Block {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|block| block.name() == name)
            .ok_or_else(|| Error::option("block", name, "block1, block2, block3, block4 or block5"))
    }
}

/// One convolution of the table.
#[derive(Clone, Debug)]
pub(crate) struct ConvLayer {
    pub(crate) block: Block,
    /// Keras's name, such as `block1_conv1`.
    pub(crate) name: String,
    /// torchvision's and timm's name, such as `features.0`.
    pub(crate) torch_name: String,
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
}
