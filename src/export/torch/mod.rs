//! Safetensors files with the names of PyTorch's networks, out and in.

mod read;
mod write;

/// Whose names a file for PyTorch has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TorchNames {
    /// timm's, such as `layer1.0.conv1.weight` and `blocks.2.1.conv_dw.weight`. Every base has them.
    #[default]
    Timm,
    /// torchvision's, such as `features.2.0.block.0.0.weight`: VGG, ResNet, EfficientNet-B0 to B2 in PyTorch's form,
    /// MobileNetV2 and V3.
    Torchvision,
}
