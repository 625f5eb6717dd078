//! A base of one's own: checked, trained, saved and loaded like those that come with the crate.
//!
//! ```text
//! cargo run --release --example own_backbone
//! ```

use std::ops::Range;

use candle_core::Var;
use headstart::model::{BlockInfo, BlockParameter, LayerInfo, check_backbone};
use headstart::prelude::*;

/// One block of one layer: a 5×5 convolution with stride 4 and a ReLU, (N, 3, H, W) → (N, 16, ⌈H/4⌉, ⌈W/4⌉). A model
/// of candle-transformers could stand in its place.
struct Tiny {
    filters: Var,
    trainable: bool,
}

const SHAPE: [usize; 4] = [16, 3, 5, 5];

impl Tiny {
    fn new(filters: &Tensor) -> Result<Self> {
        let filters = Var::from_tensor(filters)?;
        let trainable = false;
        Ok(Self { filters, trainable })
    }
}

impl Backbone for Tiny {
    fn architecture(&self) -> String {
        "tiny".into()
    }
    fn forward_blocks(&self, input: &Tensor, blocks: Range<usize>, mode: Mode) -> Result<Tensor> {
        if blocks.is_empty() {
            return Ok(input.clone());
        }
        // This is all there is to freezing: only a trainable block records a graph, and only in training.
        let filters = match self.trainable && mode == Mode::Train {
            true => self.filters.as_tensor().clone(),
            false => self.filters.as_detached_tensor(),
        };
        Ok(input.conv2d(&filters, 2, 4, 1, 1)?.relu()?)
    }
    fn output_shape(&self, height: usize, width: usize) -> Result<[usize; 3]> {
        Ok([SHAPE[0], height.div_ceil(4), width.div_ceil(4)])
    }
    fn blocks(&self) -> Vec<BlockInfo> {
        let (name, trainable) = ("edges".into(), self.trainable);
        vec![BlockInfo { name, trainable }]
    }
    fn set_trainable(&mut self, _block: usize, trainable: bool) -> Result<()> {
        self.trainable = trainable;
        Ok(())
    }
    fn parameters(&self) -> Vec<BlockParameter> {
        vec![BlockParameter {
            block: 0,
            name: "filters".into(),
            tensor: self.filters.as_detached_tensor(),
            variable: self.trainable.then(|| self.filters.clone()),
        }]
    }
    fn layers(&self, height: usize, width: usize) -> Result<Vec<LayerInfo>> {
        Ok(vec![LayerInfo {
            name: "edges".into(),
            kind: "Conv2D",
            output: self.output_shape(height, width)?.into(),
            parameters: self.filters.elem_count(),
            trainable: self.trainable,
        }])
    }
    fn device(&self) -> Device {
        self.filters.device().clone()
    }
    fn preprocess(&self) -> Preprocess {
        Preprocess::Half
    }
}

/// A file holds the tensors, and what else a base says of itself: here nothing.
impl SavedBackbone for Tiny {
    const KIND: &'static str = "tiny";

    fn describe(&self) -> Result<serde_json::Value> {
        Ok(serde_json::Value::Null)
    }
    fn restore(
        _description: &serde_json::Value,
        tensor: &mut dyn FnMut(&str, &[usize]) -> Result<Tensor>,
        _preprocess: Preprocess,
        _device: &Device,
    ) -> Result<Self> {
        Self::new(&tensor("filters", &SHAPE)?)
    }
}

fn main() -> Result<()> {
    let mut base = Tiny::new(&Tensor::randn(0f32, 0.1, &SHAPE, &Device::Cpu)?)?;
    // The trait says which rules the crate relies on; this tests them. It belongs in a test of yours.
    check_backbone(&mut base, 64, 64)?;

    let pictures = DirectoryDataset::open("examples/santa/pictures/train")?;
    let (train, validation) = pictures.split(0.2, 1)?;
    let model = Classifier::new(base, Head::sigmoid(), train.class_names())?;
    let mut model = model.input_size(64, 64)?;
    let trainer = Trainer::new(AdamW::new(1e-3)).phases([Phase::new(5).unfreeze(["edges"])]);
    trainer.fit(&mut model, &train, &validation)?;
    println!("{}", model.evaluate(&validation)?);

    let file = std::env::temp_dir().join("own_backbone.safetensors");
    model.save(&file)?;
    let loaded = Classifier::load_as::<Tiny>(&file, &Device::Cpu)?;
    for item in validation.items() {
        assert_eq!(loaded.predict(&item.path)?, model.predict(&item.path)?);
    }
    println!("The loaded classifier says the same.");
    Ok(())
}
