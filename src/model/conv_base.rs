//! VGG without its top: five blocks of 3×3 convolutions, each frozen or trainable.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor, Var};

use super::backbone::{Backbone, BlockInfo, LayerInfo, Mode};
use super::parameter::Parameter;
use super::summary::Summary;
use super::vgg::{Block, ConvLayer, Vgg};
use super::weights::Weights;
use crate::kernels::{self, Input, Isa, Layer, Maps, OpenLayer, Prepared, values};
use crate::{Error, Preprocess, Result, atomic_file};

/// The smallest picture side: five poolings leave one pixel of it.
const MIN_SIDE: usize = 32;

/// How many pictures the kernels' methods are chosen for while training, whatever the batch: what frozen blocks make of
/// a picture then does not depend, to the last bit, on the batch it lands in. Large batches are what it suits.
const TRAINING_BATCH: usize = 64;

/// A VGG base without its top, with a freeze flag for each of its five blocks.
///
/// Images (N, 3, H, W), H and W at least 32, become features (N, 512, H/32, W/32). Every block starts
/// trainable.
///
/// ```
/// use candle_core::{Device, Tensor};
/// use headstart::{Block, ConvBase, Weights};
///
/// let device = Device::Cpu;
/// let base = ConvBase::vgg11(Weights::Random { seed: 1 }, &device)?
///     .frozen()
///     .unfreeze(Block::Conv5)?;
/// assert!(base.is_trainable(Block::Conv5) && !base.is_trainable(Block::Conv4));
///
/// let images = Tensor::zeros((1, 3, 32, 48), candle_core::DType::F32, &device)?;
/// assert_eq!(base.forward(&images)?.dims(), [1, 512, 1, 1]);
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ConvBase {
    vgg: Vgg,
    preprocess: Preprocess,
    convolutions: Vec<Convolution>,
    /// What the CPU kernels made of the frozen weights.
    prepared: Arc<Prepared>,
}

/// One convolution of the base, with its parameters.
#[derive(Clone, Debug)]
struct Convolution {
    layer: ConvLayer,
    /// (out, in, 3, 3)
    weight: Parameter,
    /// (out)
    bias: Parameter,
}

impl ConvBase {
    /// A base of the given architecture.
    ///
    /// # Errors
    /// What [`Weights`] says of its source.
    pub fn new(vgg: Vgg, weights: Weights, device: &Device) -> Result<Self> {
        let vgg = weights.architecture(vgg)?;
        vgg.check()?;
        let layers = vgg.layers();
        let (tensors, preprocess) = weights.load(vgg, &layers, device)?;
        Self::from_tensors(vgg, tensors, preprocess)
    }

    /// A base from its weights and biases, in the table's order.
    pub(crate) fn from_tensors(
        vgg: Vgg,
        tensors: Vec<(Tensor, Tensor)>,
        preprocess: Preprocess,
    ) -> Result<Self> {
        let convolutions = vgg
            .layers()
            .into_iter()
            .zip(tensors)
            .map(|(layer, (weight, bias))| {
                Ok(Convolution {
                    layer,
                    weight: Parameter::Trainable(Var::from_tensor(&weight)?),
                    bias: Parameter::Trainable(Var::from_tensor(&bias)?),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            vgg,
            preprocess,
            convolutions,
            prepared: Arc::default(),
        })
    }

    /// VGG11: see [`ConvBase::new`].
    ///
    /// # Errors
    /// What [`Weights`] says of its source.
    pub fn vgg11(weights: Weights, device: &Device) -> Result<Self> {
        Self::new(Vgg::Vgg11, weights, device)
    }

    /// VGG13: see [`ConvBase::new`].
    ///
    /// # Errors
    /// What [`Weights`] says of its source.
    pub fn vgg13(weights: Weights, device: &Device) -> Result<Self> {
        Self::new(Vgg::Vgg13, weights, device)
    }

    /// VGG16: see [`ConvBase::new`].
    ///
    /// # Errors
    /// What [`Weights`] says of its source.
    pub fn vgg16(weights: Weights, device: &Device) -> Result<Self> {
        Self::new(Vgg::Vgg16, weights, device)
    }

    /// VGG19: see [`ConvBase::new`].
    ///
    /// # Errors
    /// What [`Weights`] says of its source.
    pub fn vgg19(weights: Weights, device: &Device) -> Result<Self> {
        Self::new(Vgg::Vgg19, weights, device)
    }

    /// Freezes every block: training leaves them bit for bit as they are.
    pub fn frozen(mut self) -> Self {
        for convolution in &mut self.convolutions {
            convolution.freeze();
        }
        self.prepared = Arc::default();
        self
    }

    /// Makes one block trainable and leaves the others as they are.
    ///
    /// # Errors
    /// candle's, when the device has no room for the variables.
    pub fn unfreeze(mut self, block: Block) -> Result<Self> {
        self.set_block(block, true)?;
        Ok(self)
    }

    /// Makes a block and all after it trainable and leaves those before as they are.
    ///
    /// # Errors
    /// candle's, when the device has no room for the variables.
    pub fn unfreeze_from(mut self, first: Block) -> Result<Self> {
        for block in Block::ALL.into_iter().filter(|block| *block >= first) {
            self.set_block(block, true)?;
        }
        Ok(self)
    }

    /// Sets one block's flag.
    ///
    /// # Errors
    /// candle's, when the device has no room for the variables.
    pub fn set_block(&mut self, block: Block, trainable: bool) -> Result<()> {
        for convolution in self
            .convolutions
            .iter_mut()
            .filter(|c| c.layer.block == block)
        {
            if trainable {
                convolution.weight.unfreeze()?;
                convolution.bias.unfreeze()?;
            } else {
                convolution.freeze();
            }
        }
        self.prepared = Arc::default();
        Ok(())
    }

    /// Whether training may change a block.
    pub fn is_trainable(&self, block: Block) -> bool {
        self.block(block).all(|c| c.weight.var().is_some())
    }

    /// Overrides what pixels must look like for these weights.
    pub fn with_preprocess(mut self, preprocess: Preprocess) -> Self {
        self.preprocess = preprocess;
        self
    }

    /// The same architecture with other weights (out, in, 3, 3) and biases (out), one pair per convolution from the
    /// input on. They stay the caller's: every block counts as frozen, but a tensor that tracks a graph, such as a
    /// variable or what was computed from some, passes its gradient on. So weights can be trained through a function of them, such as a
    /// normalisation.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor of another shape, or another number of pairs.
    pub fn with_parameters(mut self, parameters: &[(Tensor, Tensor)]) -> Result<Self> {
        if parameters.len() != self.convolutions.len() {
            return Err(Error::Shape {
                what: "parameters of a base".into(),
                expected: format!("{} pairs", self.convolutions.len()),
                found: vec![parameters.len()],
            });
        }
        for (convolution, (weight, bias)) in self.convolutions.iter_mut().zip(parameters) {
            let layer = &convolution.layer;
            let wanted = [layer.out_channels, layer.in_channels, 3, 3];
            for (kind, tensor, wanted) in [
                ("weight", weight, &wanted[..]),
                ("bias", bias, &wanted[..1]),
            ] {
                if tensor.dims() != wanted {
                    return Err(Error::Shape {
                        what: format!("{}.{kind}", layer.name),
                        expected: format!("{wanted:?}"),
                        found: tensor.dims().to_vec(),
                    });
                }
            }
            convolution.weight = Parameter::Frozen(weight.clone());
            convolution.bias = Parameter::Frozen(bias.clone());
        }
        self.prepared = Arc::default();
        Ok(self)
    }

    /// Writes the weights, as [`Weights::file`] reads them, to a safetensors file, whole or not at all. `dtype` is
    /// that of the file: [`DType::F16`] halves it. `notes` become metadata beside the preprocess: what the weights
    /// were trained on, their licence.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn save(&self, path: impl AsRef<Path>, dtype: DType, notes: &[(&str, &str)]) -> Result<()> {
        let path = path.as_ref();
        let tensors = Backbone::tensors(self)
            .into_iter()
            .map(|(name, tensor)| Ok((name, tensor.detach().to_dtype(dtype)?)))
            .collect::<Result<Vec<_>>>()?;
        let preprocess = serde_json::to_value(self.preprocess).map_err(std::io::Error::from);
        let preprocess = preprocess.map_err(Error::io(path))?;
        let metadata = [
            ("architecture", self.vgg.name()),
            (
                "preprocess",
                preprocess.as_str().unwrap_or_default().to_owned(),
            ),
        ]
        .into_iter()
        .chain(notes.iter().map(|(key, note)| (*key, (*note).to_owned())))
        .map(|(key, value)| (key.to_owned(), value))
        .collect::<HashMap<_, _>>();
        let bytes = safetensors::serialize(tensors, Some(metadata)).map_err(std::io::Error::other);
        let bytes = bytes.map_err(Error::io(path))?;
        atomic_file::write(path, |file| file.write_all(&bytes))
    }

    /// The architecture.
    pub fn vgg(&self) -> Vgg {
        self.vgg
    }

    /// The table of layers for pictures of (height, width) pixels, with totals.
    ///
    /// # Errors
    /// [`Error::Option`] for a size below 32×32.
    pub fn summary(&self, (height, width): (usize, usize)) -> Result<Summary> {
        let layers = self.layers(height, width)?;
        Ok(Summary::new(self.architecture(), layers))
    }

    /// Features of preprocessed images: (N, 3, H, W) → (N, 512, H/32, W/32).
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another shape, or smaller than 32×32.
    pub fn forward(&self, images: &Tensor) -> Result<Tensor> {
        self.forward_to(images, Block::Conv5)
    }

    /// The output of one block, its pooling included: (N, 3, H, W) → (N, C, H/2ᵇ, W/2ᵇ) for block b. Open blocks
    /// record a graph.
    ///
    /// # Errors
    /// [`Error::Shape`] for images of another shape, or smaller than 32×32.
    pub fn forward_to(&self, images: &Tensor, block: Block) -> Result<Tensor> {
        let blocks = 0..block.index() + 1;
        let mut used = self.convolutions.iter();
        let open = used.any(|c| c.layer.block <= block && c.tracks());
        let mode = if open { Mode::Train } else { Mode::Infer };
        self.run(images, blocks, mode)
    }

    /// Runs some of the blocks. A frozen block before the first trainable one has no graph, because neither its
    /// input nor its parameters have one: nothing of it is kept.
    fn run(&self, input: &Tensor, blocks: Range<usize>, mode: Mode) -> Result<Tensor> {
        self.check_input(input, &blocks)?;
        if blocks.is_empty() {
            return Ok(input.clone());
        }
        if let Some(isa) = kernels_for(input) {
            return self.run_on_kernels(isa, input, blocks, mode);
        }
        let mut features = input.clone();
        for block in &Block::ALL[blocks] {
            for convolution in self.block(*block) {
                features = convolution.forward(&features, mode)?;
            }
            features = max_pool(&features)?;
        }
        Ok(features)
    }

    fn check_input(&self, input: &Tensor, blocks: &Range<usize>) -> Result<()> {
        if blocks.start > blocks.end || blocks.end > Block::ALL.len() {
            return Err(Error::option(
                "blocks",
                format!("{blocks:?}"),
                "a range within 0..5",
            ));
        }
        let (what, channels) = match blocks.start {
            0 => ("images".to_owned(), 3),
            start => (
                format!("features of {}", Block::ALL[start - 1].name()),
                self.vgg.channels()[start - 1],
            ),
        };
        let side = MIN_SIDE >> blocks.start;
        match *input.dims() {
            [_, c, h, w] if c == channels && h >= side && w >= side => Ok(()),
            ref dims => Err(Error::Shape {
                what,
                expected: format!("(N, {channels}, H, W) with H and W at least {side}"),
                found: dims.to_vec(),
            }),
        }
    }

    /// Runs some of the blocks on the CPU kernels: those that need no graph as plain layers, then the rest as one
    /// operation with a graph.
    fn run_on_kernels(
        &self,
        isa: Isa,
        input: &Tensor,
        blocks: Range<usize>,
        mode: Mode,
    ) -> Result<Tensor> {
        let (pictures, channels, height, width) = input.dims4()?;
        let maps = Maps {
            pictures,
            channels,
            height,
            width,
        };
        let is_used = |c: &Convolution| blocks.contains(&c.layer.block.index());
        let before = self.convolutions.iter().take_while(|c| !is_used(c)).count();
        let used: Vec<_> = self.convolutions.iter().filter(|c| is_used(c)).collect();
        let pools = |index: usize| {
            let next = used.get(index + 1);
            next.is_none_or(|next| next.layer.block != used[index].layer.block)
        };
        let (plain, batch) = match mode {
            Mode::Infer => (used.len(), pictures),
            Mode::Train => {
                let closed = used.iter().take_while(|c| !c.tracks());
                (closed.count(), TRAINING_BATCH)
            }
        };
        let held: Vec<_> = used[..plain]
            .iter()
            .map(|c| (values(c.weight.tensor()), values(c.bias.tensor())))
            .collect();
        let layers = held
            .iter()
            .enumerate()
            .map(|(index, (weight, bias))| {
                let is_frozen = !used[index].tracks();
                Ok(Layer {
                    weights: weight.slice()?,
                    bias: bias.slice()?,
                    pool: pools(index),
                    kept_as: is_frozen.then_some(before + index),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let input = input.contiguous()?;
        let numbers = values(&input);
        let (input, maps) = if layers.is_empty() {
            (Input::Planar(numbers.slice()?.to_vec()), maps)
        } else {
            let numbers = numbers.slice()?;
            let (blocked, maps) = kernels::run(isa, &layers, &self.prepared, numbers, maps, batch);
            (Input::Blocked(blocked), maps)
        };
        if plain < used.len() {
            let layers = (plain..used.len()).map(|index| OpenLayer {
                weight: used[index].weight.tensor().clone(),
                bias: used[index].bias.tensor().clone(),
                pool: pools(index),
            });
            return Ok(kernels::run_open(isa, layers.collect(), input, maps)?);
        }
        let planar = match input {
            Input::Planar(planar) => planar,
            Input::Blocked(blocked) => {
                let mut planar = vec![0.0; maps.planar_len()];
                maps.to_planar(&blocked, &mut planar);
                planar
            }
        };
        let Maps {
            pictures,
            channels,
            height,
            width,
        } = maps;
        let shape = (pictures, channels, height, width);
        Ok(Tensor::from_vec(planar, shape, &Device::Cpu)?)
    }

    fn block(&self, block: Block) -> impl Iterator<Item = &Convolution> {
        self.convolutions
            .iter()
            .filter(move |c| c.layer.block == block)
    }
}

impl Convolution {
    fn forward(&self, input: &Tensor, mode: Mode) -> Result<Tensor> {
        let (weight, bias) = match mode {
            Mode::Train => (self.weight.tensor().clone(), self.bias.tensor().clone()),
            Mode::Infer => (self.weight.detached(), self.bias.detached()),
        };
        let bias = bias.reshape((1, (), 1, 1))?;
        Ok(input
            .conv2d(&weight, 1, 1, 1, 1)?
            .broadcast_add(&bias)?
            .relu()?)
    }

    /// Whether a gradient reaches the parameters.
    fn tracks(&self) -> bool {
        self.weight.tensor().track_op() || self.bias.tensor().track_op()
    }

    fn freeze(&mut self) {
        self.weight.freeze();
        self.bias.freeze();
    }

    fn parameters(&self) -> usize {
        self.weight.tensor().elem_count() + self.bias.tensor().elem_count()
    }
}

/// The CPU kernels for these images; none on other devices, for other number types, where the gradient of the
/// images themselves is asked for, or where the kernels are switched off.
fn kernels_for(images: &Tensor) -> Option<Isa> {
    let ours = images.device().is_cpu() && images.dtype() == DType::F32 && !images.track_op();
    if ours { Isa::chosen() } else { None }
}

/// 2×2 max-pool with stride 2; an odd last row or column is left out, as Keras and PyTorch do.
///
/// Written with elementwise maxima because the gradient of candle's own `max_pool2d` is wrong: a quarter of
/// the true one where a window has one maximum (0.11: the mask's average scales it), misplaced for odd sizes.
fn max_pool(input: &Tensor) -> Result<Tensor> {
    let (n, c, h, w) = input.dims4()?;
    let rows = input
        .narrow(2, 0, h / 2 * 2)?
        .narrow(3, 0, w / 2 * 2)?
        .reshape((n, c, h / 2, 2, w / 2 * 2))?;
    let rows = rows.narrow(3, 0, 1)?.maximum(&rows.narrow(3, 1, 1)?)?;
    let columns = rows.reshape((n, c, h / 2, w / 2, 2))?;
    Ok(columns
        .narrow(4, 0, 1)?
        .maximum(&columns.narrow(4, 1, 1)?)?
        .squeeze(4)?)
}

impl Backbone for ConvBase {
    fn architecture(&self) -> String {
        self.vgg.name()
    }

    fn forward_blocks(&self, input: &Tensor, blocks: Range<usize>, mode: Mode) -> Result<Tensor> {
        self.run(input, blocks, mode)
    }

    fn output_shape(&self, height: usize, width: usize) -> Result<[usize; 3]> {
        if height < MIN_SIDE || width < MIN_SIDE {
            return Err(Error::option(
                "input size",
                format!("{height}×{width}"),
                "32×32 or larger",
            ));
        }
        Ok([self.vgg.channels()[4], height / 32, width / 32])
    }

    fn blocks(&self) -> Vec<BlockInfo> {
        Block::ALL
            .into_iter()
            .map(|block| BlockInfo {
                name: block.name().to_owned(),
                trainable: self.is_trainable(block),
            })
            .collect()
    }

    fn set_trainable(&mut self, block: usize, trainable: bool) -> Result<()> {
        let block = *Block::ALL
            .get(block)
            .ok_or_else(|| Error::option("block", block, "0 to 4"))?;
        self.set_block(block, trainable)
    }

    fn variables(&self) -> Vec<(String, Var)> {
        let mut variables = Vec::new();
        for convolution in &self.convolutions {
            for (parameter, kind) in [(&convolution.weight, "weight"), (&convolution.bias, "bias")]
            {
                if let Some(var) = parameter.var() {
                    variables.push((format!("{}.{kind}", convolution.layer.name), var.clone()));
                }
            }
        }
        variables
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let mut tensors = Vec::new();
        for Convolution {
            layer,
            weight,
            bias,
        } in &self.convolutions
        {
            tensors.push((format!("{}.weight", layer.name), weight.detached()));
            tensors.push((format!("{}.bias", layer.name), bias.detached()));
        }
        tensors
    }

    fn layers(&self, height: usize, width: usize) -> Result<Vec<LayerInfo>> {
        self.output_shape(height, width)?;
        let mut layers = Vec::new();
        for block in Block::ALL {
            let (h, w) = (height >> block.index(), width >> block.index());
            for convolution in self.block(block) {
                layers.push(LayerInfo {
                    name: convolution.layer.name.clone(),
                    kind: "Conv2D",
                    output: vec![convolution.layer.out_channels, h, w],
                    parameters: convolution.parameters(),
                    trainable: convolution.weight.var().is_some(),
                });
            }
            layers.push(LayerInfo {
                name: format!("{}_pool", block.name()),
                kind: "MaxPooling2D",
                output: vec![self.vgg.channels()[block.index()], h / 2, w / 2],
                parameters: 0,
                trainable: self.is_trainable(block),
            });
        }
        Ok(layers)
    }

    fn device(&self) -> Device {
        self.convolutions[0].weight.tensor().device().clone()
    }

    fn preprocess(&self) -> Preprocess {
        self.preprocess
    }
}
