//! Bases, heads, weights and saved classifiers, from outside.

#[path = "../common/mod.rs"]
mod common;

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
mod norms_and_branches;
mod readme;
mod sizes;
mod streams;
mod torchvision;
mod vgg;
mod weights_file;
mod widths;
mod without_hub;
