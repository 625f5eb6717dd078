//! What PyTorch's networks have on top of the base: the dense layers from features to classes, and their names.

use crate::kernels::Activation;

/// A classifier's dense layers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Top {
    /// The side of the maps that are flattened; none where each is averaged.
    pub(crate) flattened: Option<usize>,
    /// From the features on.
    pub(crate) layers: Vec<TopLayer>,
}

/// A dense layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TopLayer {
    /// Its name in timm.
    pub(crate) timm: &'static str,
    /// Its name in torchvision, if it has the network.
    pub(crate) torchvision: Option<&'static str>,
    /// Units and activation; none for the last, which has one unit a class.
    pub(crate) hidden: Option<(usize, Activation)>,
    /// The side of the window where timm's is a convolution.
    pub(crate) window: Option<usize>,
}

impl Top {
    /// One layer on averaged maps.
    pub(super) fn linear(timm: &'static str, torchvision: Option<&'static str>) -> Self {
        Self {
            flattened: None,
            layers: vec![TopLayer::last(timm, torchvision)],
        }
    }
}

impl TopLayer {
    /// The last layer.
    pub(super) fn last(timm: &'static str, torchvision: Option<&'static str>) -> Self {
        Self {
            timm,
            torchvision,
            hidden: None,
            window: None,
        }
    }

    /// A hidden layer, which is a convolution in timm.
    pub(super) fn hidden(
        (timm, window): (&'static str, usize),
        torchvision: &'static str,
        units: usize,
        activation: Activation,
    ) -> Self {
        Self {
            timm,
            torchvision: Some(torchvision),
            hidden: Some((units, activation)),
            window: Some(window),
        }
    }
}
