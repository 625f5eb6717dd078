//! Feature maps in blocks of sixteen channels, (N, C/16, H, W, 16): what every kernel reads and writes.

use rayon::prelude::*;

use super::simd::LANES;

/// The shape of feature maps in the blocked layout. A last block that is not full is padded with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Maps {
    pub(crate) pictures: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
}

impl Maps {
    /// Blocks of sixteen channels.
    pub(crate) fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Floats of one block of one picture.
    pub(super) fn plane(&self) -> usize {
        self.height * self.width * LANES
    }

    /// Floats in all.
    pub(crate) fn len(&self) -> usize {
        self.pictures * self.blocks() * self.plane()
    }

    /// Floats in all as tensors have them, without padding.
    pub(crate) fn planar_len(&self) -> usize {
        self.pictures * self.channels * self.height * self.width
    }

    /// The same maps of another number of pictures.
    pub(super) fn of(self, pictures: usize) -> Self {
        Self { pictures, ..self }
    }

    /// Whether there are so few channels that a convolution had better read them as tensors have them.
    pub(super) fn suits_planes(&self) -> bool {
        self.channels <= LANES / 2
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
        blocked
            .par_chunks_mut(self.plane().max(1))
            .enumerate()
            .for_each(|(index, plane)| {
                let (picture, block) = (index / blocks, index % blocks);
                let first = block * LANES;
                let count = (self.channels - first).min(LANES);
                let source = &planar[(picture * self.channels + first) * size..][..count * size];
                for (pixel, lanes) in plane.chunks_exact_mut(LANES).enumerate() {
                    lanes.fill(0.0);
                    for (lane, value) in lanes[..count].iter_mut().enumerate() {
                        *value = source[lane * size + pixel];
                    }
                }
            });
    }

    /// (N, C/16, H, W, 16) → (N, C, H, W).
    pub(crate) fn to_planar(self, blocked: &[f32], planar: &mut [f32]) {
        let size = self.height * self.width;
        let (blocks, plane) = (self.blocks(), self.plane());
        planar
            .par_chunks_mut(size.max(1))
            .enumerate()
            .for_each(|(index, map)| {
                let (picture, channel) = (index / self.channels, index % self.channels);
                let source = &blocked[(picture * blocks + channel / LANES) * plane..][..plane];
                let lane = channel % LANES;
                for (value, lanes) in map.iter_mut().zip(source.chunks_exact(LANES)) {
                    *value = lanes[lane];
                }
            });
    }
}
