//! A base of one's own that breaks a rule is told which.

use std::ops::Range;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use headstart::data::Preprocess;
use headstart::model::{Backbone, BlockInfo, BlockParameter, LayerInfo, Mode, check_backbone};
use headstart::{ConvBase, Result, Weights};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    OneNameForAll,
    ABlockTooMany,
    AnotherShape,
    PartsDiffer,
    PicturesMix,
    NeverFrozen,
    NeverTrainable,
    NoGradient,
}

struct Odd {
    base: ConvBase,
    fault: Fault,
}

impl Backbone for Odd {
    fn architecture(&self) -> String {
        self.base.architecture()
    }
    fn forward_blocks(&self, input: &Tensor, blocks: Range<usize>, mode: Mode) -> Result<Tensor> {
        let all = self.base.blocks().len();
        let features = self.base.forward_blocks(input, blocks.clone(), mode)?;
        Ok(match self.fault {
            Fault::PartsDiffer if blocks == (0..all) => (features * 1.01)?,
            Fault::PicturesMix if blocks.end == all && !blocks.is_empty() => {
                features.broadcast_add(&features.mean_keepdim(0)?)?
            }
            _ => features,
        })
    }
    fn output_shape(&self, height: usize, width: usize) -> Result<[usize; 3]> {
        let [c, h, w] = self.base.output_shape(height, width)?;
        Ok([c + usize::from(self.fault == Fault::AnotherShape), h, w])
    }
    fn blocks(&self) -> Vec<BlockInfo> {
        self.base.blocks()
    }
    fn set_trainable(&mut self, block: usize, trainable: bool) -> Result<()> {
        match self.fault {
            Fault::NeverFrozen => self.base.set_trainable(block, true),
            Fault::NeverTrainable => self.base.set_trainable(block, false),
            _ => self.base.set_trainable(block, trainable),
        }
    }
    fn parameters(&self) -> Vec<BlockParameter> {
        let mut parameters = self.base.parameters();
        for own in &mut parameters {
            match self.fault {
                Fault::OneNameForAll => own.name = "weight".to_owned(),
                Fault::ABlockTooMany => own.block = 99,
                _ => {}
            }
        }
        parameters
    }
    fn backward(&self, loss: &Tensor, recycled: &mut Vec<Tensor>) -> Result<GradStore> {
        let mut gradients = self.base.backward(loss, recycled)?;
        if self.fault == Fault::NoGradient {
            let variables: Vec<(String, Var)> = self.base.variables();
            variables.iter().for_each(|(_, variable)| {
                gradients.remove(variable);
            });
        }
        Ok(gradients)
    }
    fn numerics(&self) -> String {
        self.base.numerics()
    }
    fn layers(&self, height: usize, width: usize) -> Result<Vec<LayerInfo>> {
        self.base.layers(height, width)
    }
    fn device(&self) -> Device {
        self.base.device()
    }
    fn preprocess(&self) -> Preprocess {
        self.base.preprocess()
    }
}

#[test]
fn each_rule_that_a_base_breaks_is_named() {
    let base = ConvBase::resnet18(Weights::Random { seed: 1 }, &Device::Cpu).unwrap();
    for (fault, wanted) in [
        (Fault::OneNameForAll, "names: found `weight` twice"),
        (Fault::ABlockTooMany, "a parameter's block: found block 99"),
        (Fault::AnotherShape, "the features' shape"),
        (Fault::PartsDiffer, "blocks 0..1, then 1.."),
        (
            Fault::PicturesMix,
            "a picture's features without the rest of its batch",
        ),
        (Fault::NeverFrozen, "frozen blocks: found"),
        (
            Fault::NeverTrainable,
            "a trainable block: found no variables",
        ),
        (Fault::NoGradient, "takes no gradient"),
    ] {
        let base = base.clone();
        let said = check_backbone(&mut Odd { base, fault }, 32, 32).unwrap_err();
        let said = said.to_string();
        assert!(said.contains(wanted), "{fault:?}: {said}");
    }
    let mut odd = Odd {
        base: base.frozen().unfreeze_from("layer4").unwrap(),
        fault: Fault::None,
    };
    check_backbone(&mut odd, 32, 32).unwrap();
    // Flags are as they were.
    let open: Vec<bool> = odd.blocks().iter().map(|block| block.trainable).collect();
    assert_eq!(open.iter().filter(|open| **open).count(), 1, "{open:?}");
}
