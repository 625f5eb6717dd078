//! Data from outside: pictures from folders, archives and memory, decoded, resized, varied and batched.

#[path = "../common/files.rs"]
mod files;
#[path = "../common/many.rs"]
#[cfg(target_os = "linux")]
mod many;
#[path = "../common/numbers.rs"]
mod numbers;

mod augment;
#[cfg(target_os = "linux")]
mod budget;
mod decode;
mod folders;
mod images;
mod loader;
mod makers;
#[cfg(target_os = "linux")]
mod memory;
mod odd;
mod preprocess;
mod reduced;
mod resize;
mod sets;
mod split;
mod tar;
