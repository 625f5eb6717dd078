//! Bases, heads, weights and saved classifiers, from outside.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/many.rs"]
#[cfg(target_os = "linux")]
mod many;

mod bases;
mod bounds;
mod classifier;
mod damage;
mod grad_cam;
mod head;
mod hub;
mod kernels;
mod lemma;
mod lite0;
#[cfg(target_os = "linux")]
mod memory;
mod norms_and_branches;
#[cfg(feature = "onnx")]
mod onnx;
mod own_backbone;
mod readme;
mod sizes;
mod streams;
mod torch;
mod torch_files;
mod torchvision;
mod vgg;
mod weights_file;
mod widths;
mod without_hub;
