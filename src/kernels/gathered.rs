//! Maps of few channels, gathered for products over pixels: what a window reads of a pixel is the pixel's channels.
//!
//! Blocks of three channels are nearly empty. Those of all taps together are full, and lie in the order of the weights.

use super::padded::{Layout, Padded};
use super::parallel::for_each_chunk;
use super::scratch::Scratch;
use super::shape::Shape;
use super::simd::{LANES, Simd};
use super::window::Window;

/// Planar maps, and how a window reads them.
pub(super) struct Gathered<'a> {
    planar: &'a [f32],
    shape: Shape,
    window: Window,
    /// Of what is gathered: a channel for each input and tap, a pixel for each output.
    pub(super) output: Shape,
}

impl<'a> Gathered<'a> {
    pub(super) fn new(planar: &'a [f32], shape: Shape, window: Window) -> Self {
        assert_eq!(planar.len(), shape.planar_len());
        let channels = shape.channels * window.taps();
        Self {
            planar,
            shape,
            window,
            output: window.output(shape).with_channels(channels),
        }
    }

    /// Writes so many images from `first` on, blocked; what is outside of the maps is 0, as are lanes past the last
    /// channel.
    pub(super) fn fill<S: Simd>(&self, simd: S, first: usize, images: usize, to: &mut [f32]) {
        let some = self.shape.with_batch(images);
        let x = &self.planar[first * self.shape.with_batch(1).planar_len()..];
        let padded = Padded::new(some, Layout::Planar, self.window);
        let mut maps = Scratch::new(padded.len());
        padded.fill(simd, &x[..some.planar_len()], &mut maps);
        let segments = padded.segments();
        let (blocks, plane_len) = (self.output.blocks(), self.output.plane_len());
        for_each_chunk(to, plane_len, |start, plane| {
            let (image, block) = (start / plane_len / blocks, start / plane_len % blocks);
            let channels = block * LANES..self.output.channels.min((block + 1) * LANES);
            let taps = self.window.taps();
            let starts = channels.map(|channel| {
                let (input, tap) = (channel / taps, channel % taps);
                image * padded.image_len() + segments[tap * self.shape.channels + input]
            });
            let mut starts: Vec<usize> = starts.collect();
            simd.vectorize(
                #[inline(always)]
                || {
                    for to in plane.chunks_exact_mut(self.output.width * LANES) {
                        fill_row(simd, &maps, &starts, to);
                        starts.iter_mut().for_each(|start| *start += padded.row());
                    }
                },
            );
        });
    }
}

/// Writes the lanes of a row, each of which begins in the maps at its own place; 0 past the last.
#[inline(always)]
fn fill_row<S: Simd>(simd: S, maps: &[f32], starts: &[usize], row: &mut [f32]) {
    const SQUARE: usize = LANES * LANES;
    let (mut lines, mut turned) = ([0.0; SQUARE], [0.0; SQUARE]);
    for (index, pixels) in row.chunks_mut(SQUARE).enumerate() {
        let count = pixels.len() / LANES;
        for (line, start) in lines.chunks_exact_mut(LANES).zip(starts) {
            let from = &maps[start + index * LANES..];
            // A number of floats that the compiler knows is a move, any other a call.
            if count == LANES {
                line.copy_from_slice(&from[..LANES]);
            } else {
                line[..count].copy_from_slice(&from[..count]);
            }
        }
        let to = if count == LANES {
            &mut *pixels
        } else {
            &mut turned
        };
        // SAFETY: both are sixteen lines of sixteen.
        unsafe {
            let to = (to.as_mut_ptr(), LANES as isize);
            simd.transpose((lines.as_ptr(), LANES), to);
        }
        if count < LANES {
            pixels.copy_from_slice(&turned[..count * LANES]);
        }
    }
}
