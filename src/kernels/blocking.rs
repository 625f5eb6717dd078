//! How work is cut to fit the caches, and what its steps cost: the numbers to look at on another machine.
//!
//! They change how long a layer takes, not what it computes but for rounding: the cost model chooses between methods,
//! and the chunks of the weights' gradient are what it sums up by. All are fixed, or depend on a layer's shape alone.

/// Bytes of a layer's input and output up to which they are taken to stay in the last-level cache between layers.
pub(super) const LAYER_BYTES: usize = 16 << 20;

// The cost model, in the time of a multiply-add. Measured on a Zen 4 and the same for all processors: with numbers for
// each family, machines with the same instructions would give the same picture other last bits.

/// A channel's value at a Winograd point, transformed and written.
pub(super) const VALUE_COST: f64 = 10.0;

/// A weight, read from memory while others are multiplied with: four bytes at the memory's rate. It decides where tiles
/// are few. By their data sheets it is about 5 for Apple's processors, 10 for Graviton 3, 15 for Zen 3, and 25 for
/// Zen 5 and from Ice Lake on.
pub(super) const WEIGHT_COST: f64 = 15.0;

// The direct convolution.

/// Pixels that an item takes, about: a few register blocks, so that weights read are used again.
pub(super) const DIRECT_PIXELS: usize = 112;

// The Winograd convolution.

/// Floats between point planes: power-of-two strides would fall on few cache sets.
pub(super) const POINT_PAD: usize = 16;

/// Tiles that a thread transforms in one go.
pub(super) const GROUP_TILES: usize = 8;

/// Transformed weights up to this many bytes are read once per small chunk of tiles by each thread, larger ones once
/// per large chunk by all threads together.
pub(super) const SMALL_WEIGHT_BYTES: usize = 5 << 20;

/// Weights of tiles of stride 2 that would take more bytes are transformed each time: that costs less than what memory
/// they would take, a network's largest.
pub(super) const KEPT_WEIGHT_BYTES: usize = 32 << 20;

/// Bytes of transformed input that a thread's own chunk of tiles may take: it stays in the second-level cache.
pub(super) const OWN_CHUNK_BYTES: usize = 600 << 10;

/// Bytes of transformed input that a chunk of tiles shared by all threads may take: it stays in the last-level cache.
pub(super) const SHARED_CHUNK_BYTES: usize = 12 << 20;

/// Bytes of the products of such a chunk and one panel, which a thread has for itself.
pub(super) const PRODUCTS_BYTES: usize = 3 << 20;

/// Bytes of transformed weights that a thread makes at a time.
pub(super) const WEIGHT_PANEL_BYTES: usize = 512 << 10;

// The gradient of the weights.

/// Bytes of transformed input and gradient that a chunk of tiles may take where the sums are small and quickly passed
/// over again: both stay in the last-level cache.
pub(super) const SMALL_SUMS_CHUNK_BYTES: usize = 6 << 20;

/// The same where the sums are large: as many as that cache may hold.
pub(super) const LARGE_SUMS_CHUNK_BYTES: usize = 24 << 20;

/// Items of work that a chunk is cut into at least.
pub(super) const GRADIENT_ITEMS: usize = 16;

/// Channel blocks of an item at most. With [`GRADIENT_PANELS`]: the sums at all points stay in the second-level cache,
/// as do the values at one.
pub(super) const GRADIENT_BLOCKS: usize = 4;

/// Panels of an item at most.
pub(super) const GRADIENT_PANELS: usize = 2;

// The depthwise convolution and pooling.

/// Pixels whose gradient an item takes, about: some ten microseconds of work.
pub(super) const DEPTHWISE_PIXELS: usize = 1024;

/// Items of work that the parameters' gradients are cut into at least.
pub(super) const DEPTHWISE_GRADIENT_ITEMS: usize = 16;

/// Bytes of the padded rows that an item reads: they stay near the first-level cache.
pub(super) const DEPTHWISE_STRIP_BYTES: usize = 48 << 10;

/// Bytes of the buffer between an expansion and its depthwise convolution: it stays in the second-level cache, and rows
/// that two strips make are few.
pub(super) const STRIP_BYTES: usize = 400 << 10;

// The gradient of the weights of a convolution of another window.

/// Pixels that a product adds up: what it reads of them stays in the second-level cache, and sums are not so long that
/// rounding tells.
pub(super) const DENSE_GRADIENT_PIXELS: usize = 512;

/// Items of work that it is cut into at least.
pub(super) const DENSE_GRADIENT_ITEMS: usize = 16;

/// Channel blocks of an item at most.
pub(super) const DENSE_GRADIENT_BLOCKS: usize = 4;

/// Bytes of padded maps and gradients that are read at a time: they stay in the last-level cache.
pub(super) const DENSE_GRADIENT_BYTES: usize = 12 << 20;

/// The same of maps that are gathered for it: what is written is read while it is in the second-level cache.
pub(super) const GATHERED_BYTES: usize = 3 << 20;
