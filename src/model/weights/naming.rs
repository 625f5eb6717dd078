//! Whose names a file of weights uses, and how its tensors become those of the table.

use candle_core::Tensor;

use super::branches;
use super::tensors::ConvTensors;
use crate::data::Preprocess;
use crate::error::Result;
use crate::model::arch::Arch;
use crate::model::arch::layer::Conv;
use crate::model::names;

/// Whose names a file uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// The table's: timm's, such as `layer1.0.conv1.weight`; for VGG Keras's layers in PyTorch's layout,
    /// `block1_conv1.weight`.
    Table,
    /// torchvision's where they differ, such as `features.0.weight`; timm has them for VGG.
    Torchvision,
    /// Keras's variables by their paths, in Keras's layout: `block1_conv1/kernel` (kernel, kernel, in, out).
    KerasVariables,
    /// RepVGG's branches, such as `stem.conv_kxk.conv.weight`.
    Branches,
    /// A saved classifier's: `base.` and the table's.
    Classifier,
}

impl Naming {
    const ALL: [Self; 5] = [
        Self::Torchvision,
        Self::Table,
        Self::KerasVariables,
        Self::Branches,
        Self::Classifier,
    ];

    /// The naming of a file that has these tensors; otherwise the names of the first tensor that were looked for.
    pub(super) fn detect(arch: &Arch, has: impl Fn(&str) -> bool) -> Result<Self, Vec<String>> {
        let Some((_, first)) = arch.convs().next() else {
            return Err(Vec::new());
        };
        let mut tried = Vec::new();
        for naming in Self::of(arch) {
            let (name, _) = naming.tensors(first).swap_remove(0);
            if has(&name) {
                return Ok(naming);
            }
            tried.push(name);
        }
        Err(tried)
    }

    /// The names that files of this architecture come with.
    pub(super) fn of(arch: &Arch) -> impl Iterator<Item = Self> {
        let first = arch.convs().next().map(|(_, conv)| conv);
        let suits = move |naming: &Self| first.is_some_and(|first| naming.suits(arch, first));
        Self::ALL.into_iter().filter(suits)
    }

    /// Whether files of this architecture come with such names.
    fn suits(self, arch: &Arch, first: &Conv) -> bool {
        match self {
            Self::Table | Self::Classifier => true,
            Self::Torchvision => first.torch_name.is_some(),
            Self::KerasVariables => arch.has_keras_names(),
            Self::Branches => first.branches.is_some(),
        }
    }

    /// The names and shapes in the file of what a convolution is made from.
    pub(super) fn tensors(self, conv: &Conv) -> Vec<(String, Vec<usize>)> {
        let norm = conv.norm.as_ref();
        let own_norm = norm.map_or("", |norm| &norm.name);
        match (self, &conv.branches) {
            (Self::Branches, Some(prefix)) => branches::names(conv, prefix),
            (Self::Table | Self::Branches, _) => ConvTensors::names(conv, &conv.name, own_norm),
            (Self::Torchvision, _) => {
                let name = conv.torch_name.as_deref().unwrap_or(&conv.name);
                let norm = norm.and_then(|norm| norm.torch_name.as_deref());
                ConvTensors::names(conv, name, norm.unwrap_or(own_norm))
            }
            (Self::Classifier, _) => {
                let own = ConvTensors::names(conv, &conv.name, own_norm).into_iter();
                own.map(|(name, shape)| (format!("{}{name}", names::BASE), shape))
                    .collect()
            }
            (Self::KerasVariables, _) => {
                let [outputs, inputs, height, width] = conv.weight_shape();
                vec![
                    (
                        format!("{}/kernel", conv.name),
                        vec![height, width, inputs, outputs],
                    ),
                    (format!("{}/bias", conv.name), vec![outputs]),
                ]
            }
        }
    }

    /// What each of a table's tensors is called in a file with these names, in the order of files.
    pub(super) fn renamed(self, arch: &Arch) -> Vec<(String, String)> {
        let convs = arch.convs().flat_map(|(_, conv)| {
            let own = Self::Table.tensors(conv).into_iter();
            own.zip(self.tensors(conv))
        });
        convs.map(|((own, _), (other, _))| (own, other)).collect()
    }

    /// A convolution from the tensors of [`tensors`](Self::tensors), in their order.
    pub(super) fn assemble(
        self,
        arch: &Arch,
        conv: &Conv,
        mut tensors: Vec<Tensor>,
    ) -> Result<ConvTensors> {
        if self == Self::Branches && conv.branches.is_some() {
            return branches::fuse(conv, tensors);
        }
        if self == Self::KerasVariables {
            // (kernel, kernel, in, out) → (out, in, kernel, kernel)
            tensors[0] = tensors[0].permute((3, 2, 0, 1))?.contiguous()?;
        }
        let mut assembled =
            ConvTensors::from_list(conv, tensors).expect("as many tensors as names");
        if self == Self::Torchvision
            && let (Some(tensors), Some(table)) = (&mut assembled.norm, &conv.norm)
        {
            let offset = arch.torch_variance_offset(table.epsilon);
            tensors.variance = (&tensors.variance + offset)?;
        }
        Ok(assembled)
    }

    /// What pixels must look like for a file that does not say; none for a classifier's, which always says.
    pub(super) fn preprocess(self, arch: &Arch) -> Option<Preprocess> {
        match self {
            Self::Classifier => None,
            Self::KerasVariables => Some(Preprocess::Caffe),
            Self::Table if arch.has_keras_names() => Some(Preprocess::Caffe),
            Self::Torchvision => Some(Preprocess::Torch),
            Self::Table | Self::Branches => Some(
                arch.weights()
                    .map_or(Preprocess::Unit, |weights| weights.preprocess),
            ),
        }
    }
}
