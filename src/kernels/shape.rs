//! Feature maps in blocks of sixteen channels, (N, C/16, H, W, 16): what every kernel reads and writes.

use super::parallel::for_each_chunk;
use super::scratch::Scratch;
use super::simd::LANES;

/// The shape of feature maps. In the blocked layout a last block that is not full is padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

/// Feature maps in one layout or the other.
#[derive(Clone, Copy)]
pub(super) enum FeatureMaps<'a> {
    /// As tensors have them, (N, C, H, W).
    Planar(&'a [f32]),
    /// As the kernels want them, (N, C/16, H, W, 16).
    Blocked(&'a [f32]),
}

/// Maps in the kernels' layout, made if they were not.
pub(super) enum Blocked<'a> {
    Borrowed(&'a [f32]),
    Made(Scratch),
}

impl<'a> Blocked<'a> {
    pub(super) fn of(x: FeatureMaps<'a>, shape: Shape) -> Self {
        match x {
            FeatureMaps::Blocked(maps) => Self::Borrowed(maps),
            FeatureMaps::Planar(maps) => Self::Made(shape.blocked(maps)),
        }
    }

    pub(super) fn maps(&self) -> &[f32] {
        match self {
            Self::Borrowed(maps) => maps,
            Self::Made(maps) => maps,
        }
    }
}

impl Shape {
    /// Whether blocks would be half empty at least: planar maps are then read as they are.
    pub(super) fn is_narrow(&self) -> bool {
        self.channels <= LANES / 2
    }

    /// The dimensions of a tensor that holds such maps, (N, C, H, W).
    pub(crate) fn dims(&self) -> [usize; 4] {
        [self.batch, self.channels, self.height, self.width]
    }

    /// Blocks of sixteen channels.
    pub(super) fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Channels of the last block that are no padding.
    pub(super) fn last_lanes(&self) -> usize {
        self.channels - (self.blocks().max(1) - 1) * LANES
    }

    /// Floats of one block of one image.
    pub(super) fn plane_len(&self) -> usize {
        self.height * self.width * LANES
    }

    /// Floats of blocked maps.
    pub(crate) fn blocked_len(&self) -> usize {
        self.batch * self.blocks() * self.plane_len()
    }

    /// Floats of planar maps, which have no padding.
    pub(crate) fn planar_len(&self) -> usize {
        self.batch * self.channels * self.height * self.width
    }

    /// The same maps of another number of images.
    pub(super) fn with_batch(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// The same maps with another number of channels.
    pub(super) fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// What a 2×2 max-pool leaves; an odd last row or column is dropped.
    pub(crate) fn pooled(self) -> Self {
        Self {
            height: self.height / 2,
            width: self.width / 2,
            ..self
        }
    }

    /// (N, C, H, W) → (N, C/16, H, W, 16).
    pub(crate) fn to_blocked(self, planar: &[f32], blocked: &mut [f32]) {
        let size = self.height * self.width;
        let blocks = self.blocks();
        let plane_len = self.plane_len().max(1);
        for_each_chunk(blocked, plane_len, |start, plane| {
            let index = start / plane_len;
            let (image, block) = (index / blocks, index % blocks);
            let first = block * LANES;
            let count = (self.channels - first).min(LANES);
            let source = &planar[(image * self.channels + first) * size..][..count * size];
            for (pixel, lanes) in plane.chunks_exact_mut(LANES).enumerate() {
                lanes.fill(0.0);
                for (lane, value) in lanes[..count].iter_mut().enumerate() {
                    *value = source[lane * size + pixel];
                }
            }
        });
    }

    /// [`to_blocked`](Self::to_blocked) into a buffer of its own.
    pub(super) fn blocked(self, planar: &[f32]) -> Scratch {
        let mut blocked = Scratch::new(self.blocked_len());
        self.to_blocked(planar, &mut blocked);
        blocked
    }

    /// (N, C/16, H, W, 16) → (N, C, H, W).
    pub(crate) fn to_planar(self, blocked: &[f32], planar: &mut [f32]) {
        let size = self.height * self.width;
        let (blocks, plane) = (self.blocks(), self.plane_len());
        for_each_chunk(planar, size, |start, map| {
            let index = start / size;
            let (image, channel) = (index / self.channels, index % self.channels);
            let source = &blocked[(image * blocks + channel / LANES) * plane..][..plane];
            let lane = channel % LANES;
            for (value, lanes) in map.iter_mut().zip(source.chunks_exact(LANES)) {
                *value = lanes[lane];
            }
        });
    }
}
