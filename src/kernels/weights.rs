//! The weights of a convolution, and how they are read for packing.

use super::parallel::for_each;
use super::simd::{LANES, MAX_NR_VECTORS, Simd};

/// Weights (out, in, size, size), or for the gradient of the input their transpose turned by 180°.
#[derive(Clone, Copy)]
pub(super) struct Weights<'a> {
    pub(super) values: &'a [f32],
    /// As the tensor says.
    pub(super) out_channels: usize,
    /// As the tensor says.
    pub(super) in_channels: usize,
    /// Height and width of the window.
    pub(super) size: usize,
    /// What the weights of each of `out_channels` are multiplied by.
    pub(super) scale: Option<&'a [f32]>,
    pub(super) transposed: bool,
}

impl Weights<'_> {
    /// (outputs, inputs) of the convolution.
    pub(super) fn sizes(&self) -> (usize, usize) {
        if self.transposed {
            (self.in_channels, self.out_channels)
        } else {
            (self.out_channels, self.in_channels)
        }
    }

    /// (panels, inputs padded to whole blocks).
    pub(super) fn padded<S: Simd>(&self) -> (usize, usize) {
        let (outputs, inputs) = self.sizes();
        (outputs.div_ceil(S::NR), inputs.next_multiple_of(LANES))
    }

    /// A weight from an input to an output, counting taps in the order the convolution meets them.
    pub(super) fn value(&self, output: usize, input: usize, tap: usize) -> f32 {
        let taps = self.size * self.size;
        let tap = if self.transposed { taps - 1 - tap } else { tap };
        let out = if self.transposed { input } else { output };
        self.values[self.place(output, input) + tap] * self.scale.map_or(1.0, |scale| scale[out])
    }

    /// Where the weights from an input to an output begin.
    fn place(&self, output: usize, input: usize) -> usize {
        let (output, input) = if self.transposed {
            (input, output)
        } else {
            (output, input)
        };
        (output * self.in_channels + input) * self.size * self.size
    }

    /// Multiplies what was read from sixteen inputs to sixteen outputs by their scales: so many panel rows an input.
    #[inline(always)]
    fn scale_read<S: Simd>(&self, output: usize, input: usize, taps: usize, rows: &mut [f32]) {
        let Some(scale) = self.scale else { return };
        let scale = scale
            .iter()
            .skip(if self.transposed { input } else { output });
        let mut scales = [0.0; LANES];
        scales
            .iter_mut()
            .zip(scale)
            .for_each(|(to, from)| *to = *from);
        for (rows, of_input) in rows.chunks_mut(taps * S::NR).zip(scales) {
            let scales = if self.transposed {
                [of_input; LANES]
            } else {
                scales
            };
            for row in rows.chunks_mut(S::NR) {
                row.iter_mut()
                    .zip(scales)
                    .for_each(|(weight, scale)| *weight *= scale);
            }
        }
    }

    /// Reads, of a 1×1 window, the weights from sixteen inputs to sixteen outputs: a panel row for each input, 0 past
    /// the last.
    #[inline(always)]
    pub(super) fn read_square<S: Simd>(
        &self,
        simd: S,
        output: usize,
        input: usize,
        rows: &mut [f32],
    ) {
        assert_eq!(self.size, 1);
        assert_eq!(self.values.len(), self.out_channels * self.in_channels);
        assert!(rows.len() >= (LANES - 1) * S::NR + LANES);
        let (outputs, inputs) = self.sizes();
        let is_whole = output + LANES <= outputs && input + LANES <= inputs;
        if is_whole && !self.transposed {
            let from = &self.values[self.place(output, input)..];
            assert!(from.len() >= (LANES - 1) * self.in_channels + LANES);
            let from = (from.as_ptr(), self.in_channels);
            // SAFETY: sixteen numbers of each of sixteen rows, and as many panel rows, are there, as was checked just
            // now.
            unsafe { simd.transpose(from, (rows.as_mut_ptr(), S::NR as isize)) };
            self.scale_read::<S>(output, input, 1, rows);
            return;
        }
        for (index, row) in rows.chunks_mut(S::NR).enumerate() {
            let (row, input) = (&mut row[..LANES], input + index);
            if is_whole {
                row.copy_from_slice(&self.values[self.place(output, input)..][..LANES]);
                continue;
            }
            for (output, weight) in (output..).zip(row) {
                let is_there = output < outputs && input < inputs;
                *weight = if is_there {
                    self.values[self.place(output, input)]
                } else {
                    0.0
                };
            }
        }
        self.scale_read::<S>(output, input, 1, rows);
    }

    /// Reads, of a 3×3 window, the nine weights from each of a block's sixteen inputs to one panel of outputs: (input,
    /// tap, output within the panel), 0 past the last.
    #[inline(always)]
    pub(super) fn read_taps<S: Simd>(&self, simd: S, panel: usize, block: usize, taps: &mut Taps) {
        assert_eq!(self.size, 3);
        assert_eq!(self.values.len(), self.out_channels * self.in_channels * 9);
        let (outputs, inputs) = self.sizes();
        let input = block * LANES;
        for vector in 0..S::NR_VECTORS {
            let output = panel * S::NR + vector * LANES;
            let taps = &mut taps.0[vector * LANES..];
            let is_whole = output + LANES <= outputs && input + LANES <= inputs;
            // A transpose reads sixteen floats a row, seven past the nine of the transposed weights.
            let last = self.values.len().saturating_sub(LANES);
            if is_whole && !self.transposed {
                self.read_rows(simd, output, input, taps);
            } else if is_whole && self.place(output + LANES - 1, input + LANES - 1) <= last {
                self.read_turned(simd, output, input, taps);
            } else {
                self.read_edge::<S>(output, input, taps);
            }
            self.scale_read::<S>(output, input, 9, taps);
        }
    }

    /// Reads sixteen inputs of sixteen outputs.
    #[inline(always)]
    fn read_rows<S: Simd>(&self, simd: S, output: usize, input: usize, taps: &mut [f32]) {
        let row = self.in_channels * 9;
        let from = &self.values[self.place(output, input)..];
        assert!(from.len() >= (LANES - 1) * row + 9 * LANES);
        assert!(taps.len() >= (9 * LANES - 1) * S::NR + LANES);
        for run in 0..9 {
            let from = (from[run * LANES..].as_ptr(), row);
            let to = taps[run * LANES * S::NR..].as_mut_ptr();
            // SAFETY: a run of sixteen of the 144 weights of each of sixteen outputs, and as many panel rows, are
            // there, as was checked just now.
            unsafe { simd.transpose(from, (to, S::NR as isize)) };
        }
    }

    /// Reads sixteen inputs of sixteen outputs of transposed weights. The last of them are not among the last sixteen
    /// weights there are.
    #[inline(always)]
    fn read_turned<S: Simd>(&self, simd: S, output: usize, input: usize, taps: &mut [f32]) {
        for index in 0..LANES {
            let mut columns = [0.0; LANES * LANES];
            let from = &self.values[self.place(output, input + index)..];
            assert!(from.len() >= (LANES - 1) * 9 + LANES);
            let to = (columns.as_mut_ptr(), LANES as isize);
            // SAFETY: sixteen rows that begin nine floats apart are there, as was checked just now, and `columns` holds
            // as many.
            unsafe { simd.transpose((from.as_ptr(), 9), to) };
            for tap in 0..9 {
                taps[(index * 9 + 8 - tap) * S::NR..][..LANES]
                    .copy_from_slice(&columns[tap * LANES..][..LANES]);
            }
        }
    }

    /// Reads what there is of sixteen inputs of sixteen outputs, one number at a time.
    #[inline(always)]
    fn read_edge<S: Simd>(&self, output: usize, input: usize, taps: &mut [f32]) {
        let (outputs, inputs) = self.sizes();
        for index in 0..LANES {
            for lane in 0..LANES {
                let (output, input) = (output + lane, input + index);
                let is_there = output < outputs && input < inputs;
                for tap in 0..9 {
                    let to = if self.transposed { 8 - tap } else { tap };
                    taps[(index * 9 + to) * S::NR + lane] = if is_there {
                        self.values[self.place(output, input) + tap]
                    } else {
                        0.0
                    };
                }
            }
        }
    }

    /// Runs `work` on all threads, inside [`Simd::vectorize`], for the weights of a 3×3 window from each block of
    /// sixteen inputs to each panel of outputs.
    pub(super) fn for_each<S: Simd>(
        &self,
        simd: S,
        work: impl Fn(usize, usize, &Taps) + Send + Sync,
    ) {
        let (panels, inputs) = self.padded::<S>();
        let blocks = inputs / LANES;
        for_each(panels * blocks, |item| {
            let (panel, block) = (item / blocks, item % blocks);
            let mut taps = Taps::ZERO;
            simd.vectorize(
                #[inline(always)]
                || {
                    self.read_taps(simd, panel, block, &mut taps);
                    work(panel, block, &taps);
                },
            );
        });
    }
}

/// The weights from a block's sixteen inputs to a panel of outputs. Its vectors do not lie across two cache lines.
#[repr(align(64))]
pub(super) struct Taps([f32; LANES * 9 * MAX_NR_VECTORS * LANES]);

impl Taps {
    pub(super) const ZERO: Self = Self([0.0; LANES * 9 * MAX_NR_VECTORS * LANES]);

    /// The nine panel rows of an input.
    pub(super) fn of<S: Simd>(&self, input: usize) -> &[f32] {
        let row = 9 * S::NR;
        &self.0[input * row..][..row]
    }
}
