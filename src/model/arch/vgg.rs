//! VGG as a table: how many 3×3 convolutions each of the five blocks has, and how wide they are.
//!
//! Source: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition",
//! 2015, table 1, columns A, B, D, E.

use super::layer::{Activation, Conv, Layer};
use super::pretrained::{self, Pretrained, Top1};
use super::{Arch, BlockTable, Top, TopLayer};
use crate::data::{Preprocess, Resize};
use crate::error::{Error, Result};

/// The side in pixels of the pictures that the notebook this crate comes from gave to VGG19.
const NOTEBOOK_SIZE: usize = 64;

/// A VGG architecture: one of four depths, named by their number of weight layers (the three dense ones
/// included, which a base leaves off), at full [width](Self::width) or another.
///
/// ```
/// use headstart::model::Vgg;
///
/// assert_eq!(Vgg::Vgg19.convolutions(), [2, 2, 4, 4, 4]);
/// assert_eq!(Vgg::Vgg16.to_string(), "vgg16");
/// assert_eq!("vgg11".parse::<Vgg>()?, Vgg::Vgg11);
///
/// let slim = Vgg::Vgg19.width(0.25)?;
/// assert_eq!(slim.channels(), [16, 32, 64, 128, 128]);
/// assert_eq!(slim.to_string(), "vgg19-0.25");
/// assert_eq!("vgg19-0.25".parse::<Vgg>()?, slim);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Vgg {
    depth: Depth,
    /// Channels of the first block.
    first_channels: usize,
}

/// How deep an architecture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Depth {
    Eleven,
    Thirteen,
    Sixteen,
    Nineteen,
}

/// Channels of the first block at full width.
const FULL_WIDTH: usize = 64;

/// The widest a width may make the architecture.
const MOST_WIDTH: f64 = 16.0;

#[expect(
    non_upper_case_globals,
    reason = "they are the architectures' names and read as an enum's variants"
)]
impl Vgg {
    /// 8 convolutions.
    pub const Vgg11: Self = Self::full(Depth::Eleven);
    /// 10 convolutions.
    pub const Vgg13: Self = Self::full(Depth::Thirteen);
    /// 13 convolutions.
    pub const Vgg16: Self = Self::full(Depth::Sixteen);
    /// 16 convolutions.
    pub const Vgg19: Self = Self::full(Depth::Nineteen);
}

impl Vgg {
    /// The four of full width, from the shallowest.
    pub const ALL: [Self; 4] = [Self::Vgg11, Self::Vgg13, Self::Vgg16, Self::Vgg19];

    const fn full(depth: Depth) -> Self {
        Self {
            depth,
            first_channels: FULL_WIDTH,
        }
    }

    /// The same depth with `multiplier` times the channels, rounded to whole channels of the first block
    /// (Howard et al. 2017, "MobileNets", section 3.3).
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for a multiplier that is not above 0 and at most 16.
    pub fn width(self, multiplier: f64) -> Result<Self> {
        if !(multiplier > 0.0 && multiplier <= MOST_WIDTH) {
            let allowed = format!("above 0 and at most {MOST_WIDTH}");
            return Err(Error::option("width", multiplier, allowed));
        }
        let first_channels = ((multiplier * FULL_WIDTH as f64).round() as usize).max(1);
        Ok(Self {
            first_channels,
            ..self
        })
    }

    /// The number of convolutions in each block.
    pub fn convolutions(self) -> [usize; 5] {
        match self.depth {
            Depth::Eleven => [1, 1, 2, 2, 2],
            Depth::Thirteen => [2, 2, 2, 2, 2],
            Depth::Sixteen => [2, 2, 3, 3, 3],
            Depth::Nineteen => [2, 2, 4, 4, 4],
        }
    }

    /// The output channels of each block.
    pub fn channels(self) -> [usize; 5] {
        [1, 2, 4, 8, 8].map(|factor| factor * self.first_channels)
    }

    /// `vgg11`, `vgg13`, `vgg16` or `vgg19`, and the width if it is not 1: `vgg19-0.25`.
    pub fn name(self) -> String {
        let depth = self.depth.name();
        if self.first_channels == FULL_WIDTH {
            return depth.to_owned();
        }
        // Sixty-fourths are exact in binary and in decimal.
        format!("{depth}-{}", self.first_channels as f64 / FULL_WIDTH as f64)
    }
}

/// Every depth at full width.
pub(super) fn all() -> Vec<Arch> {
    Vgg::ALL.into_iter().map(Arch::from).collect()
}

fn top() -> Top {
    let hidden = |timm, torchvision| TopLayer::hidden(timm, torchvision, 4096, Activation::Relu);
    Top {
        flattened: Some(7),
        layers: vec![
            hidden(("pre_logits.fc1", 7), "classifier.0"),
            hidden(("pre_logits.fc2", 1), "classifier.3"),
            TopLayer::last("head.fc", Some("classifier.6")),
        ],
    }
}

impl From<Vgg> for Arch {
    fn from(vgg: Vgg) -> Self {
        let mut blocks = Vec::new();
        let mut inputs = 3;
        // torchvision numbers every module of `features`: convolution, ReLU, …, pool.
        let mut torch_index = 0;
        let rows = vgg.convolutions().into_iter().zip(vgg.channels());
        for (block, (count, outputs)) in Block::ALL.into_iter().zip(rows) {
            let mut layers = Vec::new();
            for number in 1..=count {
                let conv = Conv::new(format!("{block}_conv{number}"), inputs, outputs, 3)
                    .activation(Activation::Relu)
                    .torch_names(format!("features.{torch_index}"), "");
                layers.push(Layer::Conv(conv));
                inputs = outputs;
                torch_index += 2;
            }
            layers.push(Layer::MaxPool {
                name: format!("{block}_pool"),
                kernel: 2,
                stride: 2,
                padding: 0,
            });
            torch_index += 1;
            blocks.push(BlockTable::new(block.name(), layers));
        }
        let mut arch = Arch::new(vgg.name(), blocks);
        if vgg.first_channels == FULL_WIDTH {
            arch = arch.top(top()).pretrained(vgg.depth.weights());
        }
        arch.keras_names = true;
        arch.start_size = NOTEBOOK_SIZE;
        arch
    }
}

impl Depth {
    fn name(self) -> &'static str {
        match self {
            Self::Eleven => "vgg11",
            Self::Thirteen => "vgg13",
            Self::Sixteen => "vgg16",
            Self::Nineteen => "vgg19",
        }
    }

    /// torchvision's.
    fn weights(self) -> Pretrained {
        let (id, revision, top1) = match self {
            Self::Eleven => (
                "vgg11.tv_in1k",
                "38b46049b490ec2bdb6d4d32b8354c74977f3347",
                69.022,
            ),
            // No commit is known; the cache remembers what `main` stood for.
            Self::Thirteen => ("vgg13.tv_in1k", "main", 69.932),
            Self::Sixteen => (
                "vgg16.tv_in1k",
                "3394518cba29aee1ea82a49d971be90d2dd1dab7",
                71.592,
            ),
            Self::Nineteen => (
                "vgg19.tv_in1k",
                "128d4708565b3a414bcbb9bbad440b2fe37b9f18",
                72.378,
            ),
        };
        Pretrained {
            id,
            revision,
            preprocess: Preprocess::Torch,
            size: 224,
            resize: Resize::Bilinear,
            top1: Some(Top1::new(top1, 224)),
            licence: pretrained::BSD,
        }
    }
}

impl std::fmt::Display for Vgg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl std::str::FromStr for Vgg {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let (depth, width) = match name.split_once('-') {
            Some((depth, width)) => (depth, width.parse().unwrap_or(f64::NAN)),
            None => (name, 1.0),
        };
        Self::ALL
            .into_iter()
            .find(|vgg| vgg.depth.name() == depth)
            .and_then(|vgg| vgg.width(width).ok())
            .ok_or_else(|| {
                let allowed =
                    "vgg11, vgg13, vgg16 or vgg19, and a width if it is not 1: vgg19-0.25";
                Error::option("arch", name, allowed)
            })
    }
}

/// One of VGG's five blocks: some convolutions, then a 2×2 max-pool.
///
/// ```
/// use headstart::Block;
///
/// assert!(Block::Conv4 < Block::Conv5);
/// assert_eq!(Block::Conv5.name(), "block5");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

impl AsRef<str> for Block {
    fn as_ref(&self) -> &str {
        self.name()
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
