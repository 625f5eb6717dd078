//! Which method convolves a layer.

use super::blocking::{KEPT_WEIGHT_BYTES, VALUE_COST, WEIGHT_COST};
use super::direct;
use super::epilogue::Epilogue;
use super::isa::{Isa, Token, with_simd};
use super::padded::Layout;
use super::pool::max_pool;
use super::scratch::Scratch;
use super::shape::{FeatureMaps, Shape};
use super::simd::{LANES, Simd};
use super::weights::Weights;
use super::window::Window;
use super::winograd::{
    self, F2, F4, F6, SpaceToDepth, Strided, Tiling, space_to_depth, strided_back,
};

/// How a layer is convolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Method {
    /// Winograd's F(6×6, 3×3), and smaller tiles at a map's edge.
    Winograd6,
    /// F(4×4, 3×3), and smaller tiles at a map's edge.
    Winograd4,
    /// F(2×2, 3×3).
    Winograd2,
    /// The same for stride 2, tiles of 4×4 outputs.
    Strided,
    /// The same for 7×7 with stride 2, from one plane per channel.
    SpaceToDepth,
    /// A shifted product for each tap.
    Direct,
    /// The same from one plane per channel, for few channels.
    DirectPlanar,
}

impl Method {
    /// The method for maps that lie like `x`, of this shape. It may differ from `x`'s in the number of images.
    pub(super) fn choose(
        x: FeatureMaps<'_>,
        shape: Shape,
        window: Window,
        out_channels: usize,
    ) -> Self {
        match x {
            FeatureMaps::Planar(_) if SpaceToDepth::is_for(shape, window) => Self::SpaceToDepth,
            FeatureMaps::Planar(_) if shape.is_narrow() => Self::DirectPlanar,
            _ if window == Window::SAME_3X3 => Self::cheapest(shape, out_channels),
            _ if window.is_strided_3x3() => {
                Self::cheapest_strided(window.output(shape), shape.channels, out_channels)
            }
            _ => Self::Direct,
        }
    }

    /// The same method, or one that can end in this epilogue: Winograd's write tiles and settle nothing.
    pub(super) fn for_epilogue(self, epilogue: &Epilogue<'_>) -> Self {
        match self {
            Self::DirectPlanar => self,
            Self::SpaceToDepth if epilogue.is_unsettled() => Self::DirectPlanar,
            _ if epilogue.is_unsettled() => Self::Direct,
            _ => self,
        }
    }

    /// The method of a 3×3 convolution for blocked maps of this shape that the cost model takes for the fastest.
    pub(super) fn cheapest(shape: Shape, out_channels: usize) -> Self {
        let (inputs, outputs) = (
            shape.channels.next_multiple_of(LANES) as f64,
            out_channels.next_multiple_of(LANES) as f64,
        );
        let winograd = |largest: usize| {
            let tiling = Tiling::of_largest(shape, largest);
            let ((down, across), all) = (tiling.point_grid(), tiling.total_points() as f64);
            let weights = WEIGHT_COST * (down * across) as f64;
            all.max(weights) * inputs * outputs + VALUE_COST * all * (inputs + outputs)
        };
        let pixels = (shape.batch * shape.height * shape.width) as f64;
        [
            // Of equals the first, which rounds less.
            (Self::Winograd2, winograd(2)),
            (Self::Winograd4, winograd(4)),
            (Self::Winograd6, winograd(6)),
            (
                Self::Direct,
                9.0 * pixels.max(WEIGHT_COST) * inputs * outputs,
            ),
        ]
        .into_iter()
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(Self::Winograd4, |(method, _)| method)
    }

    /// The method of a 3×3 convolution with stride 2 to maps of this shape.
    fn cheapest_strided(output: Shape, in_channels: usize, out_channels: usize) -> Self {
        let (inputs, outputs) = (
            in_channels.next_multiple_of(LANES) as f64,
            out_channels.next_multiple_of(LANES) as f64,
        );
        let (products, weights) = (
            Strided::products(output) as f64,
            WEIGHT_COST * Strided::NUMBERS_OF_A_WEIGHT as f64,
        );
        let strided =
            products.max(weights) * inputs * outputs + VALUE_COST * products * (inputs + outputs);
        let pixels = (output.batch * output.height * output.width) as f64;
        if strided < 9.0 * pixels.max(WEIGHT_COST) * inputs * outputs {
            Self::Strided
        } else {
            Self::Direct
        }
    }

    /// Whether the gradient of the weights of a convolution of maps of this shape goes through tiles.
    pub(super) fn weights_have_tiles(shape: Shape, window: Window) -> bool {
        let output = window.output(shape);
        let pixels = output.batch * output.height * output.width;
        let is_cheaper = || Strided::products(output) < window.taps() * pixels;
        window == Window::SAME_3X3 || window.is_strided_3x3() && is_cheaper()
    }

    /// Whether the gradient of maps of this shape goes through tiles of its own: not through those of a convolution
    /// with turned weights, which after a stride make two and a quarter products for each number.
    pub(super) fn inputs_have_tiles(shape: Shape, window: Window) -> bool {
        let numbers = shape.batch * shape.height * shape.width;
        window.is_strided_3x3() && 4 * strided_back::products(shape, window) < 9 * numbers
    }

    /// Whether it reads maps as tensors have them.
    pub(super) fn reads_planar(self) -> bool {
        matches!(self, Self::DirectPlanar | Self::SpaceToDepth)
    }

    /// Whether weights that are used often are packed ahead.
    pub(super) fn packs_ahead(self, isa: Isa, weights: &Weights<'_>) -> bool {
        with_simd!(isa, simd => match self {
            Self::Strided => 4 * winograd::packed_len::<_, Strided>(simd, weights) <= KEPT_WEIGHT_BYTES,
            _ => true,
        })
    }

    /// Packs weights that are used often, as this method reads them.
    pub(super) fn pack(self, isa: Isa, weights: &Weights<'_>) -> Scratch {
        with_simd!(isa, simd => match self {
            Self::Strided => winograd::pack::<_, Strided>(simd, weights),
            Self::SpaceToDepth => space_to_depth::pack(simd, weights),
            Self::Winograd6 => winograd::pack::<_, F6>(simd, weights),
            Self::Winograd4 => winograd::pack::<_, F4>(simd, weights),
            Self::Winograd2 => winograd::pack::<_, F2>(simd, weights),
            Self::Direct => direct::pack(simd, weights, Layout::Blocked),
            Self::DirectPlanar => direct::pack(simd, weights, Layout::Planar),
        })
    }

    /// Convolves `x`, of `shape`, into blocked `y` with `weights`, of which `packed` is what [`pack`](Self::pack) made
    /// if it did. `x` is planar for methods that read it so, else blocked.
    #[expect(clippy::too_many_arguments, reason = "a layer's operands")]
    pub(super) fn convolve(
        self,
        isa: Isa,
        x: &[f32],
        shape: Shape,
        window: Window,
        weights: &Weights<'_>,
        packed: Option<&[f32]>,
        epilogue: &Epilogue<'_>,
        y: &mut [f32],
    ) {
        let layout = match self {
            Self::DirectPlanar => Layout::Planar,
            _ => Layout::Blocked,
        };
        with_simd!(isa, simd => match self {
            Self::Winograd6 => winograd::convolve::<_, F6>(simd, x, shape, window, weights, packed, epilogue, y),
            Self::Winograd4 => winograd::convolve::<_, F4>(simd, x, shape, window, weights, packed, epilogue, y),
            Self::Winograd2 => winograd::convolve::<_, F2>(simd, x, shape, window, weights, packed, epilogue, y),
            Self::Strided => winograd::convolve::<_, Strided>(simd, x, shape, window, weights, packed, epilogue, y),
            Self::SpaceToDepth => {
                let made;
                let packed = match packed {
                    Some(packed) => packed,
                    None => {
                        made = space_to_depth::pack(simd, weights);
                        &made
                    }
                };
                space_to_depth::convolve(simd, x, shape, window, packed, weights.sizes().0, epilogue, y);
            }
            Self::Direct | Self::DirectPlanar if epilogue.pool => {
                let unpooled = window.output(shape).with_channels(weights.sizes().0);
                let mut sums = Scratch::new(unpooled.blocked_len());
                let epilogue = Epilogue { pool: false, ..*epilogue };
                convolve_directly(simd, x, shape, layout, window, weights, packed, &epilogue, &mut sums);
                max_pool(isa, &sums, unpooled, y);
            }
            Self::Direct | Self::DirectPlanar => {
                convolve_directly(simd, x, shape, layout, window, weights, packed, epilogue, y);
            }
        });
    }
}

/// The direct convolution, whose weights are packed if they are not.
#[expect(clippy::too_many_arguments, reason = "a layer's operands")]
fn convolve_directly<S: Simd>(
    simd: S,
    x: &[f32],
    shape: Shape,
    layout: Layout,
    window: Window,
    weights: &Weights<'_>,
    packed: Option<&[f32]>,
    epilogue: &Epilogue<'_>,
    y: &mut [f32],
) {
    let (outputs, inputs) = weights.sizes();
    assert_eq!(shape.channels, inputs);
    let made;
    let packed = match packed {
        Some(packed) => packed,
        None => {
            made = direct::pack(simd, weights, layout);
            &made
        }
    };
    direct::convolve(simd, x, shape, layout, window, packed, outputs, epilogue, y);
}
