//! What frozen features know, from outside.

mod doubt;
mod duplicates;
mod estimate;
mod gallery;
mod linear_head;
mod one_call;
mod real;
mod suspects;
