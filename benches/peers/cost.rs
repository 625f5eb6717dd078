//! What a row of the comparison costs at least by its table: multiplications, and bytes where no map stays in a cache
//! from one layer to the next. The head, which is small, is left out.

use headstart::model::Arch;
use headstart::model::arch::layer::{Conv, Layer, Residual};

type Shape = [usize; 3];

/// Bytes of a number.
const NUMBER: f64 = 4.0;

/// How often an optimizer with one moment moves a weight, a gradient or a moment.
const UPDATE: f64 = 5.0;

/// The cost of a forward pass, or of a training step.
pub struct Cost {
    /// Multiplications of the convolutions, taken directly.
    pub multiplications: f64,
    /// Each layer's maps read and written once, its weights read once. In a backward pass a layer's output, its
    /// gradient, and the layer's input are read and the input's gradient written, as far as gradients are asked for; a
    /// weight's gradient is written, and the optimizer reads it, the weight and one moment, and writes the latter two.
    pub bytes: f64,
}

impl Cost {
    /// Of so many square pictures through a base whose blocks from `open` on are trainable, if any are.
    pub fn new(arch: &Arch, open: Option<&str>, pictures: usize, side: usize) -> Option<Self> {
        let mut walk = Walk {
            pictures: pictures as f64,
            open: false,
            tracked: false,
            cost: Self {
                multiplications: 0.0,
                bytes: 0.0,
            },
        };
        let mut shape = [3, side, side];
        for block in arch.blocks() {
            walk.open |= open == Some(&block.name);
            for layer in &block.layers {
                shape = walk.layer(layer, shape)?;
            }
        }
        Some(walk.cost)
    }
}

/// A way through the layers.
struct Walk {
    pictures: f64,
    /// Whether weights here are trained.
    open: bool,
    /// Whether a gradient by the layer's input is asked for.
    tracked: bool,
    cost: Cost,
}

impl Walk {
    fn layer(&mut self, layer: &Layer, input: Shape) -> Option<Shape> {
        let output = layer.output(input)?;
        match layer {
            Layer::Conv(conv) => self.conv(conv, input, output),
            Layer::MaxPool { .. } | Layer::AveragePool { .. } => self.maps(&[input, output]),
            Layer::SqueezeExcite(squeeze) => {
                let (means, fewer) = ([input[0], 1, 1], [squeeze.reduce.outputs, 1, 1]);
                self.conv(&squeeze.reduce, means, fewer);
                self.conv(&squeeze.expand, fewer, means);
                // Read for its means, then read and weighed.
                self.maps(&[input, input, output]);
            }
            Layer::Residual(residual) => self.residual(residual, input, output)?,
        }
        Some(output)
    }

    fn residual(&mut self, residual: &Residual, input: Shape, output: Shape) -> Option<()> {
        let tracked = self.tracked;
        residual
            .body
            .iter()
            .try_fold(input, |shape, layer| self.layer(layer, shape))?;
        if let Some(shortcut) = &residual.shortcut {
            let inside = std::mem::replace(&mut self.tracked, tracked);
            self.conv(shortcut, input, output);
            self.tracked = inside;
        }
        // The body's last layer adds what the shortcut gives.
        self.maps(&[output]);
        Some(())
    }

    fn conv(&mut self, conv: &Conv, input: Shape, output: Shape) {
        let weights = conv.weight_shape().iter().product::<usize>();
        let multiplications = (weights * output[1] * output[2]) as f64 * self.pictures;
        let passes = 1 + usize::from(self.open) + usize::from(self.tracked);
        self.cost.multiplications += passes as f64 * multiplications;
        let weights = NUMBER * weights as f64;
        self.cost.bytes += weights + self.size(input) + self.size(output);
        if self.open || self.tracked {
            self.cost.bytes += 2.0 * self.size(output);
        }
        if self.open {
            self.cost.bytes += self.size(input) + (1.0 + UPDATE) * weights;
        }
        if self.tracked {
            self.cost.bytes += self.size(input) + weights;
        }
        self.tracked |= self.open;
    }

    /// Maps that pass, and their gradients.
    fn maps(&mut self, maps: &[Shape]) {
        let passes = if self.tracked { 2.0 } else { 1.0 };
        self.cost.bytes += passes * maps.iter().map(|map| self.size(*map)).sum::<f64>();
    }

    fn size(&self, map: Shape) -> f64 {
        NUMBER * self.pictures * map.iter().product::<usize>() as f64
    }
}
