//! Gradients of the 3×3 convolution with bias and ReLU.
//!
//! With dz the gradient before the ReLU: the input's is the convolution of dz with the filters transposed and
//! turned by 180°; the weights' is, in the domain of a Winograd tile, one product per point summed over tiles,
//! dU = Σ V · (A dz Aᵀ), brought back by Gᵀ dU G; the bias's is the sum of dz.

use super::conv::{Isa, Method, with_lanes};
use super::gemm::Product;
use super::layout::Maps;
use super::parallel::{Shared, for_each};
use super::scratch::Scratch;
use super::simd::{LANES, Simd};
use super::tile::{F4, MAX_SIZE, Tile};
use super::winograd::{Epilogue, Filters, Grid, input_tile};

/// Bytes of transformed inputs and gradients that a chunk of tiles may take.
const CHUNK_BYTES: usize = 24 << 20;

/// The gradient before the ReLU: `gradient` where the output `y` is above 0.
pub(super) fn through_relu(isa: Isa, y: &[f32], gradient: &[f32]) -> Scratch {
    assert_eq!(y.len(), gradient.len());
    let mut dz = Scratch::new(y.len());
    let target = Shared::new(&mut dz);
    const SPAN: usize = 64 * LANES;
    // Blocked maps are whole vectors long.
    assert!(y.len().is_multiple_of(LANES));
    with_lanes!(isa, L => for_each(y.len().div_ceil(SPAN), 16, |span| {
        let (start, end) = (span * SPAN, y.len().min((span + 1) * SPAN));
        // SAFETY: the kernels were chosen for this processor; lengths were checked, and an item writes its own
        // span.
        unsafe {
            L::vectorize(
                #[inline(always)]
                || {
                    for at in (start..end).step_by(LANES) {
                        let value = L::gate(L::load(y.as_ptr().add(at)), L::load(gradient.as_ptr().add(at)));
                        L::store(target.at(at), value);
                    }
                },
            );
        }
    }));
    dz
}

/// The gradient of the bias: dz summed over pictures and pixels.
pub(super) fn of_bias(dz: &[f32], maps: Maps) -> Vec<f32> {
    let mut sums = vec![0.0; maps.channels];
    let target = Shared::new(&mut sums);
    for_each(maps.blocks(), 1, |block| {
        let mut total = [0f64; LANES];
        for picture in 0..maps.pictures {
            let plane = &dz[(picture * maps.blocks() + block) * maps.plane()..][..maps.plane()];
            // Long sums in two steps, so that they lose little.
            for row in plane.chunks(64 * LANES) {
                let mut sum = [0f32; LANES];
                for pixel in row.chunks_exact(LANES) {
                    for (sum, value) in sum.iter_mut().zip(pixel) {
                        *sum += value;
                    }
                }
                for (total, sum) in total.iter_mut().zip(sum) {
                    *total += f64::from(sum);
                }
            }
        }
        for (lane, total) in total.iter().enumerate().take(maps.channels - block * LANES) {
            // SAFETY: a block's channels are this item's alone, and within the maps' channels.
            unsafe { *target.at(block * LANES + lane) = *total as f32 };
        }
    });
    sums
}

/// The gradient of the input, of shape `input`.
pub(super) fn of_input(isa: Isa, dz: &[f32], input: Maps, filters: &Filters<'_>) -> Vec<f32> {
    let filters = Filters {
        transposed: true,
        ..*filters
    };
    let output = input.with_channels(filters.out_channels);
    let method = Method::for_maps(output, input.channels);
    let weights = method.prepare(isa, &filters);
    let mut dx = vec![0.0; input.len()];
    let epilogue = Epilogue {
        bias: None,
        relu: false,
        pool: false,
    };
    method.convolve(
        isa,
        dz,
        output,
        &weights,
        input.channels,
        &epilogue,
        &mut dx,
    );
    dx
}

/// The gradient of the weights, (out, in, 3, 3).
pub(super) fn of_weights(
    isa: Isa,
    x: &[f32],
    input: Maps,
    dz: &[f32],
    out_channels: usize,
) -> Vec<f32> {
    with_lanes!(isa, L => weights::<L, F4>(x, input, dz, out_channels))
}

fn weights<S: Simd, T: Tile>(x: &[f32], input: Maps, dz: &[f32], out_channels: usize) -> Vec<f32> {
    let output = input.with_channels(out_channels);
    assert_eq!((x.len(), dz.len()), (input.len(), output.len()));
    let panel = S::PANEL_VECTORS * LANES;
    let (inputs, panels) = (input.blocks() * LANES, out_channels.div_ceil(panel));
    let outputs = panels * panel;
    // Sixteen floats more than the channels: power-of-two strides would fall on few cache sets.
    let (v_row, m_row) = (inputs + LANES, outputs + LANES);
    let (from, to) = (Grid::new::<T>(input), Grid::new::<T>(output));
    let tiles = from.tiles();
    let most = (CHUNK_BYTES / (4 * T::POINTS * (v_row + m_row))).max(16);
    let chunk = tiles.div_ceil(tiles.div_ceil(most).max(1)).max(1);
    let (v_point, m_point) = (chunk * v_row + LANES, chunk * m_row + LANES);
    let u_point = inputs * outputs;
    let mut v = Scratch::new(T::POINTS * v_point);
    let mut m = Scratch::new(T::POINTS * m_point);
    let mut u = Scratch::new(T::POINTS * u_point);
    // Lanes past the last output block are never transformed into: they must not hold an old NaN.
    if output.blocks() * LANES < outputs {
        m.fill(0.0);
    }
    let (v, m, u) = (
        Shared::new(&mut v),
        Shared::new(&mut m),
        Shared::new(&mut u),
    );
    for first in (0..tiles).step_by(chunk) {
        let count = chunk.min(tiles - first);
        // SAFETY, for the three loops: the kernels were chosen for this processor; sizes of x and dz were checked
        // and v, m and u are made for a chunk. In each loop an item writes what no other item does: its tile's and
        // block's points, or its point's panel of u.
        for_each(count * input.blocks(), 8, |item| unsafe {
            let (tile, block) = (item / input.blocks(), item % input.blocks());
            let v = v.at(tile * v_row + block * LANES);
            S::vectorize(
                #[inline(always)]
                || input_tile::<S, T, false>(x.as_ptr(), &from, first + tile, block, v, v_point),
            );
        });
        for_each(count * output.blocks(), 8, |item| unsafe {
            let (tile, block) = (item / output.blocks(), item % output.blocks());
            let m = m.at(tile * m_row + block * LANES);
            S::vectorize(
                #[inline(always)]
                || input_tile::<S, T, true>(dz.as_ptr(), &to, first + tile, block, m, m_point),
            );
        });
        let product = Product {
            rows: inputs,
            segments: &[0],
            terms: count,
            a_row: 1,
            a_k: v_row,
            b_k: m_row,
            c_row: outputs,
            accumulate: first > 0,
        };
        for_each(T::POINTS * panels, 1, |item| unsafe {
            let (point, index) = (item / panels, item % panels);
            let (a, b) = (v.at(point * v_point), m.at(point * m_point + index * panel));
            let c = u.at(point * u_point + index * panel);
            S::vectorize(
                #[inline(always)]
                || product.run::<S>(a, b, c),
            );
        });
    }

    let mut dw = vec![0.0; out_channels * input.channels * 9];
    let target = Shared::new(&mut dw);
    for_each(output.blocks(), 1, |block| {
        for channel in 0..input.channels {
            let mut taps = [[0f32; LANES]; 9];
            // SAFETY: the kernels were chosen for this processor; u holds every point, input and output block.
            unsafe {
                S::vectorize(
                    #[inline(always)]
                    || {
                        let from = u.at(channel * outputs + block * LANES);
                        let mut rows = [[S::splat(0.0); MAX_SIZE]; 3];
                        for j in 0..T::SIZE {
                            let mut column = [S::splat(0.0); MAX_SIZE];
                            for i in 0..T::SIZE {
                                column[i] = S::load(from.add((i * T::SIZE + j) * u_point));
                            }
                            let column = T::weights_back::<S>(column);
                            for i in 0..3 {
                                rows[i][j] = column[i];
                            }
                        }
                        for i in 0..3 {
                            let row = T::weights_back::<S>(rows[i]);
                            for j in 0..3 {
                                S::store(taps[3 * i + j].as_mut_ptr(), row[j]);
                            }
                        }
                    },
                );
            }
            for lane in 0..LANES.min(out_channels - block * LANES) {
                let filter = ((block * LANES + lane) * input.channels + channel) * 9;
                for (tap, values) in taps.iter().enumerate() {
                    // SAFETY: an output channel's filters are this item's alone, and within dw.
                    unsafe { *target.at(filter + tap) = values[lane] };
                }
            }
        }
    });
    dw
}
