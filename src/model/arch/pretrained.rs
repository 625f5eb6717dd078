//! What comes with weights on the hub: where they are, and how pictures must reach them.

use crate::data::{Preprocess, Resize};

/// Apache License 2.0.
pub(super) const APACHE: &str = "Apache-2.0";
/// BSD 3-Clause: torchvision's weights.
pub(super) const BSD: &str = "BSD-3-Clause";
/// MIT.
pub(super) const MIT: &str = "MIT";

/// ImageNet weights of an architecture on the hub, with timm's `pretrained_cfg` of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pretrained {
    /// timm's id, such as `resnet50.a1_in1k`: the repository is `timm/` and this.
    pub id: &'static str,
    /// The commit they are taken from, or `main` where none is pinned.
    pub revision: &'static str,
    /// What pixels must look like.
    pub preprocess: Preprocess,
    /// The side in pixels of the pictures they were trained on.
    pub size: usize,
    /// How those were resized.
    pub resize: Resize,
    /// How well they do on ImageNet; none where we know of no figure to rely on.
    pub top1: Option<Top1>,
    /// The weights' licence, by its SPDX name.
    pub licence: &'static str,
}

/// The accuracy of ImageNet weights with their own classifier on ImageNet's 50,000 validation pictures, as timm
/// publishes it (`results/results-imagenet.csv` of huggingface/pytorch-image-models, commit 0173a139).
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Top1 {
    /// Pictures of which the most probable class is the right one, in percent.
    pub percent: f64,
    /// The side in pixels of the pictures, which may be larger than those of the training.
    pub size: usize,
}

impl Top1 {
    pub(super) const fn new(percent: f64, size: usize) -> Self {
        Self { percent, size }
    }
}

impl Pretrained {
    /// The repository on the hub.
    pub fn repository(&self) -> String {
        format!("timm/{}", self.id)
    }
}
