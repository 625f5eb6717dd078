//! How tensors and metadata are called in the files this crate writes.

/// What the names of a base's tensors begin with.
pub(crate) const BASE: &str = "base.";

/// What the names of a head's tensors begin with.
pub(crate) const HEAD: &str = "head.";

/// What the names of the tensors begin with that say what is familiar.
pub(crate) const FAMILIARITY: &str = "familiarity.";

/// The block that the head counts as, where blocks are named.
pub(crate) const HEAD_BLOCK: &str = "head";

/// The metadata entry that everything but the tensors of a saved classifier stands in, as JSON. One entry, because
/// safetensors writes several in no fixed order, and equal classifiers should make equal files.
pub(crate) const CLASSIFIER: &str = "headstart";

/// The metadata entry that says what pixels must look like for a file of weights.
pub(crate) const PREPROCESS: &str = "preprocess";
