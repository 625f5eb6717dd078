//! A run of layers with a graph: one candle operation for all of them, whose backward pass computes the gradients of
//! every weight and bias.
//!
//! candle adds each operation's gradient to a tensor of zeros, and its custom operations have at most three
//! arguments. So that feature maps and their gradients never pass through that, the run is one operation that keeps
//! them in the kernels' layout. What ties it to the parameters is a chain of one-number tokens: a layer's link takes
//! weight, bias and the last token, and the run takes the chain's end. Going back, candle reaches the run first,
//! which computes all gradients; each link then hands out its layer's.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{
    CpuStorage, CustomOp1, CustomOp3, DType, Device, InplaceOp1, Layout, Result, Shape, Tensor,
};

use super::conv::{Isa, Method};
use super::epilogue::{Epilogue, pad_bias};
use super::filters::Filters;
use super::layout::Maps;
use super::scratch::Scratch;
use super::values::values;

/// One 3×3 convolution with bias and ReLU, and a 2×2 max-pool if one follows. Tensors that track a graph take a
/// gradient.
#[derive(Debug)]
pub(crate) struct OpenLayer {
    /// (out, in, 3, 3)
    pub(crate) weight: Tensor,
    /// (out)
    pub(crate) bias: Tensor,
    pub(crate) pool: bool,
}

impl OpenLayer {
    fn takes_gradient(&self) -> bool {
        self.weight.track_op() || self.bias.track_op()
    }
}

/// What goes into the first layer. It takes no gradient.
pub(crate) enum Input {
    /// Pictures as tensors have them, (N, C, H, W).
    Planar(Vec<f32>),
    /// Feature maps in the kernels' layout.
    Blocked(Vec<f32>),
}

/// Runs layers over `input` and returns maps (N, C, h, w) whose graph reaches the layers' parameters.
pub(crate) fn run_open(
    isa: Isa,
    layers: Vec<OpenLayer>,
    input: Input,
    maps: Maps,
) -> Result<Tensor> {
    let run = Arc::new(Run {
        isa,
        stages: stages(&layers, maps),
        layers,
        input,
        kept: Mutex::default(),
        gradients: Mutex::default(),
    });
    let mut token = Tensor::zeros(1, DType::F32, &Device::Cpu)?;
    for (index, layer) in run.layers.iter().enumerate() {
        if layer.takes_gradient() {
            let link = Link {
                run: run.clone(),
                index,
            };
            token = layer.weight.apply_op3(&layer.bias, &token, link)?;
        }
    }
    token.apply_op1(Whole(run))
}

/// What goes on beside candle while [`backward`] runs on a thread.
#[derive(Default)]
struct Around {
    /// Gradients of variables, which candle does not see.
    gradients: Vec<(Tensor, Tensor)>,
    /// Tensors to write gradients to.
    spent: Vec<Tensor>,
}

thread_local! {
    static AROUND: RefCell<Option<Around>> = const { RefCell::new(None) };
}

/// [`Tensor::backward`], sooner: candle adds each gradient to fresh zeroes, which for the weights of convolutions takes
/// longer than to compute it. Those of variables go around that. They are written to tensors in `spent` where one has
/// their shape, since fresh pages take as long again: gradients of an earlier step, which nobody else has any more.
pub(crate) fn backward(loss: &Tensor, spent: &mut Vec<Tensor>) -> Result<GradStore> {
    AROUND.set(Some(Around {
        gradients: Vec::new(),
        spent: std::mem::take(spent),
    }));
    let store = loss.backward();
    let around = AROUND.take().unwrap_or_default();
    *spent = around.spent;
    let mut store = store?;
    for (variable, gradient) in around.gradients {
        let gradient = match store.remove(&variable) {
            Some(other) => (other + gradient)?,
            None => gradient,
        };
        store.insert(&variable, gradient);
    }
    Ok(store)
}

/// Takes the gradient of a variable around candle if [`backward`] runs; else gives it back.
fn around(tensor: &Tensor, gradient: Tensor) -> Option<Tensor> {
    AROUND.with_borrow_mut(|around| match around {
        Some(around) if tensor.is_variable() => {
            around.gradients.push((tensor.clone(), gradient));
            None
        }
        _ => Some(gradient),
    })
}

/// A tensor like `tensor` that `write` fills: a spent one, or a new one.
fn written_like(tensor: &Tensor, write: impl FnMut(&mut [f32])) -> Result<Tensor> {
    let spent = AROUND.with_borrow_mut(|around| {
        let spent = &mut around.as_mut()?.spent;
        let like = |spent: &Tensor| {
            spent.shape() == tensor.shape()
                && spent.dtype() == DType::F32
                && spent.device().is_cpu()
                && spent.is_contiguous()
        };
        spent.iter().position(like).map(|at| spent.swap_remove(at))
    });
    let new = match spent {
        Some(spent) => spent,
        None => Tensor::zeros(tensor.shape(), DType::F32, &Device::Cpu)?,
    };
    new.inplace_op1(&Written(RefCell::new(write)))?;
    Ok(new)
}

/// Overwrites a contiguous tensor of f32.
struct Written<F>(RefCell<F>);

impl<F: FnMut(&mut [f32])> InplaceOp1 for Written<F> {
    fn name(&self) -> &'static str {
        "convolution-gradient"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets()) {
            (CpuStorage::F32(numbers), Some((start, end))) => {
                (self.0.borrow_mut())(&mut numbers[start..end])
            }
            _ => candle_core::bail!("a gradient is contiguous and of f32"),
        }
        Ok(())
    }
}

/// Where a layer's maps are kept.
struct Stage {
    input: Maps,
    /// The ReLU's output.
    output: Maps,
    /// The input among what is kept; none for the first layer.
    x: Option<Range<usize>>,
    y: Range<usize>,
    pooled: Option<Range<usize>>,
}

impl Stage {
    /// What the next layer reads.
    fn last(&self) -> Range<usize> {
        self.pooled.clone().unwrap_or(self.y.clone())
    }

    fn written(&self) -> Maps {
        if self.pooled.is_some() {
            self.output.pooled()
        } else {
            self.output
        }
    }
}

fn stages(layers: &[OpenLayer], mut maps: Maps) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    let mut end = 0;
    for layer in layers {
        let output = maps.with_channels(layer.bias.elem_count());
        let x = stages.last().map(Stage::last);
        let y = end..end + output.len();
        end = y.end;
        let pooled = layer.pool.then(|| end..end + output.pooled().len());
        end = pooled.as_ref().map_or(end, |pooled| pooled.end);
        let stage = Stage {
            input: maps,
            output,
            x,
            y,
            pooled,
        };
        maps = stage.written();
        stages.push(stage);
    }
    stages
}

/// Gradients of a layer's weight and bias.
type Gradients = Option<(Tensor, Tensor)>;

struct Run {
    isa: Isa,
    layers: Vec<OpenLayer>,
    stages: Vec<Stage>,
    input: Input,
    /// Every layer's maps, from the forward pass on.
    kept: Mutex<Option<Scratch>>,
    /// Every layer's gradients, from the backward pass until its link hands them out.
    gradients: Mutex<Vec<Gradients>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    fn forward(&self) -> Result<(Vec<f32>, Maps)> {
        let length = self.stages.last().map_or(0, |stage| stage.last().end);
        let mut kept = Scratch::new(length);
        for (layer, stage) in self.layers.iter().zip(&self.stages) {
            let (before, after) = kept.split_at_mut(stage.y.start);
            let (y, after) = after.split_at_mut(stage.y.len());
            let planar = match &self.input {
                Input::Planar(planar) if stage.x.is_none() => Some(planar),
                _ => None,
            };
            let method = match planar {
                Some(_) if stage.input.suits_planes() => Method::DirectPlanar,
                _ => Method::for_maps(stage.input, stage.output.channels),
            };
            let first;
            let x = match (&stage.x, planar, &self.input) {
                (Some(x), ..) => &before[x.clone()],
                (None, Some(planar), _) if method == Method::DirectPlanar => planar.as_slice(),
                _ => {
                    first = self.blocked_input();
                    &first
                }
            };
            let (weight, bias) = (values(&layer.weight), values(&layer.bias));
            let filters = Filters {
                weights: weight.slice()?,
                out_channels: stage.output.channels,
                in_channels: stage.input.channels,
                transposed: false,
            };
            let bias = pad_bias(bias.slice()?);
            let epilogue = Epilogue {
                bias: Some(&bias),
                relu: true,
                pool: false,
                gate: None,
            };
            method.convolve(self.isa, x, stage.input, &filters, None, &epilogue, y);
            if let Some(pooled) = &stage.pooled {
                self.isa
                    .max_pool(y, stage.output, &mut after[..pooled.len()]);
            }
        }
        let (last, maps) = match self.stages.last() {
            Some(stage) => (&kept[stage.last()], stage.written()),
            None => candle_core::bail!("a run needs a layer"),
        };
        let mut planar = vec![0.0; maps.planar_len()];
        maps.to_planar(last, &mut planar);
        *lock(&self.kept) = Some(kept);
        Ok((planar, maps))
    }

    /// Computes every gradient from that of the output.
    fn backward(&self, gradient: &[f32]) -> Result<()> {
        let kept = lock(&self.kept);
        let (Some(kept), Some(stage)) = (&*kept, self.stages.last()) else {
            candle_core::bail!("the backward pass comes after the forward pass")
        };
        let mut gradients: Vec<Gradients> = self.layers.iter().map(|_| None).collect();
        let maps = stage.written();
        let mut gradient = {
            let mut blocked = Scratch::new(maps.len());
            maps.to_blocked(gradient, &mut blocked);
            if stage.pooled.is_none() {
                self.isa.relu_gradient(&kept[stage.y.clone()], &mut blocked);
            }
            blocked
        };
        let first = self
            .layers
            .iter()
            .position(OpenLayer::takes_gradient)
            .unwrap_or(self.layers.len());
        for (index, (layer, stage)) in self
            .layers
            .iter()
            .zip(&self.stages)
            .enumerate()
            .skip(first)
            .rev()
        {
            if stage.pooled.is_some() {
                let mut unpooled = Scratch::new(stage.output.len());
                let y = &kept[stage.y.clone()];
                self.isa
                    .relu_max_pool_gradient(y, stage.output, &gradient, &mut unpooled);
                gradient = unpooled;
            }
            let outputs = stage.output.channels;
            if layer.takes_gradient() {
                let first;
                let x = match &stage.x {
                    Some(x) => &kept[x.clone()],
                    None => {
                        first = self.blocked_input();
                        &first
                    }
                };
                let mut db = vec![0.0; outputs];
                let dw = written_like(&layer.weight, |dw| {
                    self.isa
                        .parameter_gradients(x, stage.input, &gradient, dw, &mut db);
                })?;
                gradients[index] =
                    Some((dw, Tensor::from_vec(db, layer.bias.shape(), &Device::Cpu)?));
            }
            if index > first {
                let before = &self.stages[index - 1];
                let weight = values(&layer.weight);
                let filters = Filters {
                    weights: weight.slice()?,
                    out_channels: outputs,
                    in_channels: stage.input.channels,
                    transposed: true,
                };
                let gate = before.pooled.is_none().then(|| &kept[before.y.clone()]);
                let epilogue = Epilogue {
                    bias: None,
                    relu: false,
                    pool: false,
                    gate,
                };
                let method = Method::for_maps(stage.output, stage.input.channels);
                let mut dx = Scratch::new(stage.input.len());
                method.convolve(
                    self.isa,
                    &gradient,
                    stage.output,
                    &filters,
                    None,
                    &epilogue,
                    &mut dx,
                );
                gradient = dx;
            }
        }
        *lock(&self.gradients) = gradients;
        Ok(())
    }

    fn blocked_input(&self) -> std::borrow::Cow<'_, [f32]> {
        match &self.input {
            Input::Blocked(blocked) => blocked.into(),
            Input::Planar(planar) => {
                let maps = self.stages[0].input;
                let mut blocked = vec![0.0; maps.len()];
                maps.to_blocked(planar, &mut blocked);
                blocked.into()
            }
        }
    }
}

/// The run as candle sees it.
struct Whole(Arc<Run>);

impl CustomOp1 for Whole {
    fn name(&self) -> &'static str {
        "convolutions"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let (planar, maps) = self.0.forward()?;
        let Maps {
            pictures,
            channels,
            height,
            width,
        } = maps;
        Ok((
            CpuStorage::F32(planar),
            (pictures, channels, height, width).into(),
        ))
    }

    fn bwd(&self, token: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let gradient = gradient.contiguous()?;
        self.0.backward(values(&gradient).slice()?)?;
        Ok(Some(token.zeros_like()?))
    }
}

/// One layer's parameters in the chain.
struct Link {
    run: Arc<Run>,
    index: usize,
}

impl CustomOp3 for Link {
    fn name(&self) -> &'static str {
        "convolution-parameters"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), 1.into()))
    }

    fn bwd(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        token: &Tensor,
        _: &Tensor,
        _: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradients = lock(&self.run.gradients)
            .get_mut(self.index)
            .and_then(Option::take);
        let (dw, db) = gradients.unzip();
        let dw = dw.and_then(|dw| around(weight, dw));
        let db = db.and_then(|db| around(bias, db));
        Ok((dw, db, Some(token.zeros_like()?)))
    }
}
