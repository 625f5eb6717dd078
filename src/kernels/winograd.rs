//! The 3×3 convolution through a Winograd tile: transform, (m+2)² products, transform back.

use super::gemm::Product;
use super::layout::Maps;
use super::parallel::{Shared, for_each};
use super::scratch::{Scratch, with_own};
use super::simd::{LANES, Simd};
use super::tile::{MAX_SIZE, Tile};

/// Padding of rows and of point planes: power-of-two strides would fall on few cache sets.
pub(super) const PAD: usize = LANES;

/// Transformed weights above this many bytes are read once per chunk of tiles by all threads together, below it
/// once per small chunk by each thread.
const FUSED_WEIGHTS: usize = 5 << 20;

/// Bytes of transformed input and products that a shared chunk of tiles may take.
const PHASED_BYTES: usize = 24 << 20;

/// Bytes of transformed input that a thread's own chunk of tiles may take: it stays in the second-level cache.
const FUSED_BYTES: usize = 900 << 10;

/// What happens to a convolution's sums on their way out.
#[derive(Clone, Copy)]
pub(super) struct Epilogue<'a> {
    /// Added per output channel, a whole number of panels long; none for gradients.
    pub(super) bias: Option<&'a [f32]>,
    pub(super) relu: bool,
    /// Keep the maximum of each 2×2 pixels alone.
    pub(super) pool: bool,
    /// For gradients: the output, of the written maps' shape, of the ReLU that is passed on the way back.
    pub(super) gate: Option<&'a [f32]>,
}

/// The tiles of feature maps, numbered picture by picture, row by row.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    maps: Maps,
    down: usize,
    across: usize,
}

impl Grid {
    pub(super) fn new<T: Tile>(maps: Maps) -> Self {
        Self {
            maps,
            down: maps.height.div_ceil(T::OUT),
            across: maps.width.div_ceil(T::OUT),
        }
    }

    pub(super) fn tiles(&self) -> usize {
        self.maps.pictures * self.down * self.across
    }

    /// (picture, top row, left column) of a tile's outputs.
    fn place<T: Tile>(&self, tile: usize) -> (usize, usize, usize) {
        let (row, column) = (tile / self.across, tile % self.across);
        (row / self.down, row % self.down * T::OUT, column * T::OUT)
    }
}

/// Transforms one tile of one channel block into (m+2)² vectors, `point` floats apart: inputs with their rim, or
/// with `GRADIENT` gradients of outputs.
///
/// # Safety
/// Inside `vectorize`; `x` holds `grid.maps`, `tile` and `block` are within it, and `v` is valid for sixteen
/// floats at each point.
#[inline(always)]
pub(super) unsafe fn input_tile<S: Simd, T: Tile, const GRADIENT: bool>(
    x: *const f32,
    grid: &Grid,
    tile: usize,
    block: usize,
    v: *mut f32,
    point: usize,
) {
    let Maps { height, width, .. } = grid.maps;
    let (rim, side) = if GRADIENT { (0, T::OUT) } else { (1, T::SIZE) };
    let (picture, top, left) = grid.place::<T>(tile);
    // SAFETY: the plane is within x; rows and columns are checked against the maps before they are read.
    unsafe {
        let plane = x.add((picture * grid.maps.blocks() + block) * grid.maps.plane());
        let mut border = [0f32; MAX_SIZE * MAX_SIZE * LANES];
        let inside =
            top >= rim && left >= rim && top + side <= height + rim && left + side <= width + rim;
        let (from, row) = if inside {
            (
                plane.add(((top - rim) * width + left - rim) * LANES),
                width * LANES,
            )
        } else {
            for i in 0..side {
                for j in 0..side {
                    let (y, x) = ((top + i).wrapping_sub(rim), (left + j).wrapping_sub(rim));
                    if y < height && x < width {
                        let pixel = S::load(plane.add((y * width + x) * LANES));
                        S::store(border.as_mut_ptr().add((i * MAX_SIZE + j) * LANES), pixel);
                    }
                }
            }
            (border.as_ptr(), MAX_SIZE * LANES)
        };
        let transform = |d: [S::V; MAX_SIZE]| {
            if GRADIENT {
                T::output_back::<S>(d)
            } else {
                T::input::<S>(d)
            }
        };
        let mut columns = [[S::splat(0.0); MAX_SIZE]; MAX_SIZE];
        for j in 0..side {
            let mut d = [S::splat(0.0); MAX_SIZE];
            for (i, d) in d.iter_mut().enumerate().take(side) {
                *d = S::load(from.add(i * row + j * LANES));
            }
            let d = transform(d);
            for i in 0..T::SIZE {
                columns[i][j] = d[i];
            }
        }
        for (i, d) in columns.iter().enumerate().take(T::SIZE) {
            let d = transform(*d);
            for (j, value) in d.iter().enumerate().take(T::SIZE) {
                S::store(v.add((i * T::SIZE + j) * point), *value);
            }
        }
    }
}

/// Transforms one tile's products of sixteen output channels back, and writes what the maps have room for.
///
/// # Safety
/// Inside `vectorize`; `m` is valid for sixteen floats at each point, `y` holds the output maps (pooled if the
/// epilogue pools), and `tile` and `block` are within them.
#[inline(always)]
unsafe fn output_tile<S: Simd, T: Tile>(
    m: *const f32,
    point: usize,
    grid: &Grid,
    tile: usize,
    block: usize,
    epilogue: &Epilogue<'_>,
    y: *mut f32,
) {
    // SAFETY: points are the caller's; pixels are written only where the maps have them.
    unsafe {
        let mut rows = [[S::splat(0.0); MAX_SIZE]; MAX_SIZE];
        for j in 0..T::SIZE {
            let mut d = [S::splat(0.0); MAX_SIZE];
            for (i, d) in d.iter_mut().enumerate().take(T::SIZE) {
                *d = S::load(m.add((i * T::SIZE + j) * point));
            }
            let d = T::output::<S>(d);
            for i in 0..T::OUT {
                rows[i][j] = d[i];
            }
        }
        let bias = match epilogue.bias {
            Some(bias) => S::load(bias.as_ptr().add(block * LANES)),
            None => S::splat(0.0),
        };
        for row in rows.iter_mut().take(T::OUT) {
            *row = T::output::<S>(*row);
            for value in row.iter_mut().take(T::OUT) {
                *value = S::add(*value, bias);
                if epilogue.relu {
                    *value = S::relu(*value);
                }
            }
        }
        let (picture, top, left) = grid.place::<T>(tile);
        let (maps, step) = if epilogue.pool {
            (grid.maps.pooled(), 2)
        } else {
            (grid.maps, 1)
        };
        let map = (picture * grid.maps.blocks() + block) * maps.plane();
        let (top, left) = (top / step, left / step);
        for i in 0..(T::OUT / step).min(maps.height.saturating_sub(top)) {
            for j in 0..(T::OUT / step).min(maps.width.saturating_sub(left)) {
                let value = if epilogue.pool {
                    let upper = S::max(rows[2 * i][2 * j], rows[2 * i][2 * j + 1]);
                    let lower = S::max(rows[2 * i + 1][2 * j], rows[2 * i + 1][2 * j + 1]);
                    S::max(upper, lower)
                } else {
                    rows[i][j]
                };
                let offset = map + ((top + i) * maps.width + left + j) * LANES;
                let value = match epilogue.gate {
                    Some(gate) => S::gate(S::load(gate.as_ptr().add(offset)), value),
                    None => value,
                };
                S::store(y.add(offset), value);
            }
        }
    }
}

/// A layer's sizes as the products see them.
#[derive(Clone, Copy)]
struct Sizes {
    in_blocks: usize,
    out_blocks: usize,
    panels: usize,
    /// Floats from one tile to the next in transformed input.
    a_row: usize,
    panel: usize,
}

/// Convolves `x`, of `input`'s shape, with transformed weights (see [`weights`]) into `y`.
pub(super) fn convolve<S: Simd, T: Tile>(
    x: &[f32],
    input: Maps,
    u: &[f32],
    out_channels: usize,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let panel = S::PANEL_VECTORS * LANES;
    let sizes = Sizes {
        in_blocks: input.blocks(),
        out_blocks: out_channels.div_ceil(LANES),
        panels: out_channels.div_ceil(panel),
        a_row: input.blocks() * LANES + PAD,
        panel,
    };
    let output = input.with_channels(out_channels);
    let written = if epilogue.pool {
        output.pooled()
    } else {
        output
    };
    assert_eq!(x.len(), input.len());
    assert_eq!(y.len(), written.len());
    assert_eq!(
        u.len(),
        sizes.panels * T::POINTS * sizes.in_blocks * LANES * panel
    );
    assert!(
        epilogue
            .bias
            .is_none_or(|bias| bias.len() >= sizes.panels * panel)
    );
    assert!(epilogue.gate.is_none_or(|gate| gate.len() == y.len()));
    if y.is_empty() {
        return;
    }

    let per_tile = T::POINTS * sizes.a_row * 4;
    let own_tiles = (FUSED_BYTES / per_tile / S::ROWS).max(1) * S::ROWS;
    let tiles = Grid::new::<T>(input).tiles();
    if u.len() * 4 <= FUSED_WEIGHTS && tiles > own_tiles {
        fused::<S, T>(x, input, u, output, sizes, own_tiles, epilogue, y);
    } else {
        phased::<S, T>(x, input, u, output, sizes, epilogue, y);
    }
}

/// Each thread takes a small chunk of tiles from input to output.
#[expect(clippy::too_many_arguments, reason = "a layer's operands")]
fn fused<S: Simd, T: Tile>(
    x: &[f32],
    input: Maps,
    u: &[f32],
    output: Maps,
    sizes: Sizes,
    chunk: usize,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let (from, to) = (Grid::new::<T>(input), Grid::new::<T>(output));
    let tiles = from.tiles();
    let chunks = tiles.div_ceil(chunk);
    let v_point = chunk * sizes.a_row + PAD;
    let m_point = chunk * sizes.panel + PAD;
    let y = Shared::new(y);
    for_each(chunks, 1, |index| {
        // Even chunks: the last one is not the smallest.
        let (first, end) = (index * tiles / chunks, (index + 1) * tiles / chunks);
        with_own(T::POINTS * (v_point + m_point), |own| {
            let (v, m) = own.split_at_mut(T::POINTS * v_point);
            let (v, m) = (v.as_mut_ptr(), m.as_mut_ptr());
            // SAFETY: the kernels were chosen for this processor. Tiles are at most `chunk`, which the buffers
            // are made for; sizes of x, u and y were checked; a tile's outputs are written by this item alone.
            unsafe {
                S::vectorize(
                    #[inline(always)]
                    || {
                        for tile in first..end {
                            for block in 0..sizes.in_blocks {
                                let v = v.add((tile - first) * sizes.a_row + block * LANES);
                                input_tile::<S, T, false>(
                                    x.as_ptr(),
                                    &from,
                                    tile,
                                    block,
                                    v,
                                    v_point,
                                );
                            }
                        }
                        let product = Product {
                            rows: end - first,
                            segments: &[0],
                            terms: sizes.in_blocks * LANES,
                            a_row: sizes.a_row,
                            a_k: 1,
                            b_k: sizes.panel,
                            c_row: sizes.panel,
                            accumulate: false,
                        };
                        for panel in 0..sizes.panels {
                            for point in 0..T::POINTS {
                                let b = (panel * T::POINTS + point) * product.terms * sizes.panel;
                                product.run::<S>(
                                    v.add(point * v_point),
                                    u.as_ptr().add(b),
                                    m.add(point * m_point),
                                );
                            }
                            for vector in 0..S::PANEL_VECTORS {
                                let block = panel * S::PANEL_VECTORS + vector;
                                if block == sizes.out_blocks {
                                    break;
                                }
                                for tile in first..end {
                                    let m = m.add((tile - first) * sizes.panel + vector * LANES);
                                    output_tile::<S, T>(
                                        m,
                                        m_point,
                                        &to,
                                        tile,
                                        block,
                                        epilogue,
                                        y.at(0),
                                    );
                                }
                            }
                        }
                    },
                );
            }
        });
    });
}

/// All threads transform a large chunk of tiles, then share its products, then transform back: weights are read
/// once per chunk.
fn phased<S: Simd, T: Tile>(
    x: &[f32],
    input: Maps,
    u: &[f32],
    output: Maps,
    sizes: Sizes,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let (from, to) = (Grid::new::<T>(input), Grid::new::<T>(output));
    let c_row = sizes.panels * sizes.panel + PAD;
    let tiles = from.tiles();
    let most = (PHASED_BYTES / (4 * T::POINTS * (sizes.a_row + c_row))).max(S::ROWS);
    let chunks = tiles.div_ceil(most);
    let chunk = tiles.div_ceil(chunks.max(1));
    let v_point = chunk * sizes.a_row + PAD;
    let m_point = chunk * c_row + PAD;
    let mut v = Scratch::new(T::POINTS * v_point);
    let mut m = Scratch::new(T::POINTS * m_point);
    let (v, m, y) = (Shared::new(&mut v), Shared::new(&mut m), Shared::new(y));
    for first in (0..tiles).step_by(chunk) {
        let count = chunk.min(tiles - first);
        // SAFETY, for the three loops: the kernels were chosen for this processor; sizes of x, u and y were
        // checked and v and m are made for a chunk. In each loop an item writes what no other item does: its
        // tile's and block's points, its point's and panel's products, its tile's and block's pixels.
        for_each(count * sizes.in_blocks, 8, |item| unsafe {
            let (tile, block) = (item / sizes.in_blocks, item % sizes.in_blocks);
            let v = v.at(tile * sizes.a_row + block * LANES);
            S::vectorize(
                #[inline(always)]
                || input_tile::<S, T, false>(x.as_ptr(), &from, first + tile, block, v, v_point),
            );
        });
        let product = Product {
            rows: count,
            segments: &[0],
            terms: sizes.in_blocks * LANES,
            a_row: sizes.a_row,
            a_k: 1,
            b_k: sizes.panel,
            c_row,
            accumulate: false,
        };
        for_each(T::POINTS * sizes.panels, 1, |item| unsafe {
            let (point, panel) = (item / sizes.panels, item % sizes.panels);
            let b = u
                .as_ptr()
                .add((panel * T::POINTS + point) * product.terms * sizes.panel);
            let (a, c) = (
                v.at(point * v_point),
                m.at(point * m_point + panel * sizes.panel),
            );
            S::vectorize(
                #[inline(always)]
                || product.run::<S>(a, b, c),
            );
        });
        for_each(count * sizes.out_blocks, 8, |item| unsafe {
            let (tile, block) = (item / sizes.out_blocks, item % sizes.out_blocks);
            let m = m.at(tile * c_row + block * LANES);
            S::vectorize(
                #[inline(always)]
                || output_tile::<S, T>(m, m_point, &to, first + tile, block, epilogue, y.at(0)),
            );
        });
    }
}

/// Whether weights that are used once are better transformed panel by panel, see [`convolve_once`].
pub(super) fn is_large<S: Simd, T: Tile>(filters: &Filters<'_>) -> bool {
    weights_len::<S, T>(filters) * 4 > FUSED_WEIGHTS
}

/// [`convolve`] with weights that change before they are used again: each thread transforms a panel of them, uses it
/// while it is in its cache, and forgets it. Nine numbers are read from memory for thirty-six.
pub(super) fn convolve_once<S: Simd, T: Tile>(
    x: &[f32],
    input: Maps,
    filters: &Filters<'_>,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let (out_channels, in_channels) = filters.sizes();
    let panel = S::PANEL_VECTORS * LANES;
    let (in_blocks, panels) = (input.blocks(), out_channels.div_ceil(panel));
    let output = input.with_channels(out_channels);
    let written = if epilogue.pool {
        output.pooled()
    } else {
        output
    };
    assert_eq!(input.channels, in_channels);
    assert_eq!((x.len(), y.len()), (input.len(), written.len()));
    assert!(
        epilogue
            .bias
            .is_none_or(|bias| bias.len() >= panels * panel)
    );
    assert!(epilogue.gate.is_none_or(|gate| gate.len() == y.len()));

    let (from, to) = (Grid::new::<T>(input), Grid::new::<T>(output));
    let a_row = in_blocks * LANES + PAD;
    let tiles = from.tiles();
    let most = (PHASED_BYTES / (4 * T::POINTS * a_row)).max(S::ROWS);
    let chunk = tiles.div_ceil(tiles.div_ceil(most).max(1));
    let (v_point, m_point) = (chunk * a_row + PAD, chunk * panel + PAD);
    let u_point = in_blocks * LANES * panel;
    let mut v = Scratch::new(T::POINTS * v_point);
    let (v, y) = (Shared::new(&mut v), Shared::new(y));
    for first in (0..tiles).step_by(chunk.max(1)) {
        let count = chunk.min(tiles - first);
        // SAFETY, for both loops: the kernels were chosen for this processor; sizes of x and y were checked and v is
        // made for a chunk. An item writes what no other item does: its tile's and block's points, its panel's pixels.
        for_each(count * in_blocks, 8, |item| unsafe {
            let (tile, block) = (item / in_blocks, item % in_blocks);
            let v = v.at(tile * a_row + block * LANES);
            S::vectorize(
                #[inline(always)]
                || input_tile::<S, T, false>(x.as_ptr(), &from, first + tile, block, v, v_point),
            );
        });
        let product = Product {
            rows: count,
            segments: &[0],
            terms: in_blocks * LANES,
            a_row,
            a_k: 1,
            b_k: panel,
            c_row: panel,
            accumulate: false,
        };
        for_each(panels, 1, |index| {
            with_own(T::POINTS * (u_point + m_point), |own| {
                let (u, m) = own.split_at_mut(T::POINTS * u_point);
                let (u, m) = (u.as_mut_ptr(), m.as_mut_ptr());
                // SAFETY: as above; u is made for a panel's weights and m for its products.
                unsafe {
                    S::vectorize(
                        #[inline(always)]
                        || {
                            for input in 0..product.terms {
                                panel_weights::<S, T>(filters, index, input, u);
                            }
                            for point in 0..T::POINTS {
                                product.run::<S>(
                                    v.at(point * v_point),
                                    u.add(point * u_point),
                                    m.add(point * m_point),
                                );
                            }
                            for vector in 0..S::PANEL_VECTORS {
                                let block = index * S::PANEL_VECTORS + vector;
                                if block == output.blocks() {
                                    break;
                                }
                                for tile in 0..count {
                                    let m = m.add(tile * panel + vector * LANES);
                                    let (place, y) = (first + tile, y.at(0));
                                    output_tile::<S, T>(m, m_point, &to, place, block, epilogue, y);
                                }
                            }
                        },
                    );
                }
            });
        });
    }
}

/// Weights (out, in, 3, 3), or for the gradient of the input their transpose turned by 180°.
#[derive(Clone, Copy)]
pub(super) struct Filters<'a> {
    pub(super) weights: &'a [f32],
    /// As the tensor says.
    pub(super) out_channels: usize,
    /// As the tensor says.
    pub(super) in_channels: usize,
    pub(super) transposed: bool,
}

impl Filters<'_> {
    /// (outputs, inputs) of the convolution.
    pub(super) fn sizes(&self) -> (usize, usize) {
        if self.transposed {
            (self.in_channels, self.out_channels)
        } else {
            (self.out_channels, self.in_channels)
        }
    }

    /// The nine weights from one input to sixteen outputs from `first` on; 0 past the last.
    pub(super) fn gather(&self, input: usize, first: usize) -> [[f32; LANES]; 9] {
        let mut taps = [[0.0; LANES]; 9];
        let (outputs, _) = self.sizes();
        for lane in 0..LANES.min(outputs.saturating_sub(first)) {
            let output = first + lane;
            let (o, i) = if self.transposed {
                (input, output)
            } else {
                (output, input)
            };
            let filter = &self.weights[(o * self.in_channels + i) * 9..][..9];
            for (tap, values) in taps.iter_mut().enumerate() {
                values[lane] = filter[if self.transposed { 8 - tap } else { tap }];
            }
        }
        taps
    }
}

/// Transforms weights for [`convolve`]: (panel, point, input, output within the panel), padded with zeros.
pub(super) fn weights<S: Simd, T: Tile>(filters: &Filters<'_>, u: &mut [f32]) {
    let (outputs, inputs) = filters.sizes();
    let panel = S::PANEL_VECTORS * LANES;
    let padded = inputs.next_multiple_of(LANES);
    assert_eq!(u.len(), weights_len::<S, T>(filters));
    let u = Shared::new(u);
    for_each(outputs.div_ceil(panel) * padded, 4, |item| {
        let (index, input) = (item / padded, item % padded);
        // SAFETY: the kernels were chosen for this processor; the length of u was checked, and an item writes its
        // panel's and input's vectors alone.
        unsafe {
            let u = u.at(index * T::POINTS * padded * panel);
            S::vectorize(
                #[inline(always)]
                || panel_weights::<S, T>(filters, index, input, u),
            );
        }
    });
}

/// Transforms the weights from one input to one panel of outputs: a panel row at each point, of the panel's own
/// weights (point, input, output within the panel).
///
/// # Safety
/// Inside `vectorize`; `u` is valid for the panel's weights.
#[inline(always)]
unsafe fn panel_weights<S: Simd, T: Tile>(
    filters: &Filters<'_>,
    index: usize,
    input: usize,
    u: *mut f32,
) {
    let (_, inputs) = filters.sizes();
    let panel = S::PANEL_VECTORS * LANES;
    let padded = inputs.next_multiple_of(LANES);
    for vector in 0..S::PANEL_VECTORS {
        let taps = if input < inputs {
            filters.gather(input, index * panel + vector * LANES)
        } else {
            [[0.0; LANES]; 9]
        };
        // SAFETY: the caller's: every point's row is within the panel's weights.
        unsafe {
            let mut rows = [[S::splat(0.0); 3]; MAX_SIZE];
            for j in 0..3 {
                let column = T::weights::<S>([
                    S::load(taps[j].as_ptr()),
                    S::load(taps[3 + j].as_ptr()),
                    S::load(taps[6 + j].as_ptr()),
                ]);
                for i in 0..T::SIZE {
                    rows[i][j] = column[i];
                }
            }
            for (i, row) in rows.iter().enumerate().take(T::SIZE) {
                let row = T::weights::<S>(*row);
                for (j, value) in row.iter().enumerate().take(T::SIZE) {
                    let row = (i * T::SIZE + j) * padded + input;
                    S::store(u.add(row * panel + vector * LANES), *value);
                }
            }
        }
    }
}

/// How many floats [`weights`] writes.
pub(super) fn weights_len<S: Simd, T: Tile>(filters: &Filters<'_>) -> usize {
    let (outputs, inputs) = filters.sizes();
    let panel = S::PANEL_VECTORS * LANES;
    outputs.next_multiple_of(panel) * T::POINTS * inputs.next_multiple_of(LANES)
}
