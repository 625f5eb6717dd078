//! Which method convolves a layer, and with which instructions.

use std::sync::OnceLock;

use super::epilogue::Epilogue;
use super::filters::{self, Filters};
use super::layout::Maps;
use super::scratch::Scratch;
#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{LANES, Portable};
use super::tile::{F2, F4, F6};
use super::tiling::Tiling;
use super::winograd;
use super::{direct, gradient, pool};
use direct::Input;

/// The environment variable that chooses other kernels than the processor's best.
const SWITCH: &str = "HEADSTART_KERNELS";

/// The instructions the kernels use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Portable,
}

impl Isa {
    /// Those this processor has, the best first.
    pub(crate) fn available() -> Vec<Self> {
        let mut available = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                available.push(Self::Avx512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                available.push(Self::Avx2);
            }
        }
        #[cfg(target_arch = "aarch64")]
        available.push(Self::Neon);
        available.push(Self::Portable);
        available
    }

    fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Self::Neon => "neon",
            Self::Portable => "portable",
        }
    }

    /// What the switch asks for, if the processor has it, else the best; none if the switch asks for candle's
    /// operations. Looked up once.
    pub(crate) fn chosen() -> Option<Self> {
        static CHOSEN: OnceLock<Option<Isa>> = OnceLock::new();
        *CHOSEN.get_or_init(|| {
            let available = Self::available();
            match std::env::var(SWITCH).as_deref() {
                Ok("candle") => None,
                Ok(name) => {
                    let named = available.iter().find(|isa| isa.name() == name);
                    Some(*named.unwrap_or(&available[0]))
                }
                Err(_) => Some(available[0]),
            }
        })
    }
}

/// Runs a generic function with the lanes of an instruction set.
macro_rules! with_lanes {
    ($isa:expr, $lanes:ident => $body:expr) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                type $lanes = Avx512;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                type $lanes = Avx2;
                $body
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => {
                type $lanes = Neon;
                $body
            }
            Isa::Portable => {
                type $lanes = Portable;
                $body
            }
        }
    };
}

/// What is not a choice of method, with an instruction set's lanes.
impl Isa {
    /// See [`pool::max_pool`].
    pub(super) fn max_pool(self, x: &[f32], maps: Maps, y: &mut [f32]) {
        with_lanes!(self, L => pool::max_pool::<L>(x, maps, y));
    }

    /// See [`pool::relu_max_pool_gradient`].
    pub(super) fn relu_max_pool_gradient(
        self,
        x: &[f32],
        maps: Maps,
        gradient: &[f32],
        dx: &mut [f32],
    ) {
        with_lanes!(self, L => pool::relu_max_pool_gradient::<L>(x, maps, gradient, dx));
    }

    /// See [`pool::relu_gradient`].
    pub(super) fn relu_gradient(self, y: &[f32], gradient: &mut [f32]) {
        with_lanes!(self, L => pool::relu_gradient::<L>(y, gradient));
    }

    /// See [`gradient::parameters`]; the tiles are those with the fewest products.
    pub(super) fn parameter_gradients(
        self,
        x: &[f32],
        input: Maps,
        dy: &[f32],
        dw: &mut [f32],
        db: &mut [f32],
    ) {
        let points = |largest: usize| Tiling::of_largest(input, largest).all_points();
        with_lanes!(self, L => if points(6) < points(4) {
            gradient::parameters::<L, F6>(x, input, dy, dw, db);
        } else if points(4) < points(2) {
            gradient::parameters::<L, F4>(x, input, dy, dw, db);
        } else {
            gradient::parameters::<L, F2>(x, input, dy, dw, db);
        });
    }
}

/// How a layer is convolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    /// Winograd's F(6×6, 3×3), and smaller tiles at a map's edge.
    Winograd6,
    /// F(4×4, 3×3), and smaller tiles at a map's edge.
    Winograd4,
    /// F(2×2, 3×3).
    Winograd2,
    /// Nine shifted products.
    Direct,
    /// The same from one plane per channel, for few channels.
    DirectPlanar,
}

impl Method {
    /// The cheapest for maps of this shape, by a model of the time.
    pub(crate) fn for_maps(maps: Maps, out_channels: usize) -> Self {
        // All in the time of a multiply-add. A channel's value at a point, transformed and written:
        const VALUE: f64 = 10.0;
        // A weight, read from memory while others are multiplied with:
        const WEIGHT: f64 = 15.0;
        let (inputs, outputs) = (
            maps.channels.next_multiple_of(LANES) as f64,
            out_channels.next_multiple_of(LANES) as f64,
        );
        let winograd = |largest: usize| {
            let tiling = Tiling::of_largest(maps, largest);
            let ((down, across), all) = (tiling.points(), tiling.all_points() as f64);
            let weights = WEIGHT * (down * across) as f64;
            all.max(weights) * inputs * outputs + VALUE * all * (inputs + outputs)
        };
        let pixels = (maps.pictures * maps.height * maps.width) as f64;
        [
            // Of equals the first, which rounds less.
            (Self::Winograd2, winograd(2)),
            (Self::Winograd4, winograd(4)),
            (Self::Winograd6, winograd(6)),
            (Self::Direct, 9.0 * pixels.max(WEIGHT) * inputs * outputs),
        ]
        .into_iter()
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(Self::Winograd4, |(method, _)| method)
    }

    /// Weights to be used often, as this method wants them.
    pub(super) fn prepare(self, isa: Isa, filters: &Filters<'_>) -> Scratch {
        with_lanes!(isa, L => match self {
            Self::Winograd6 => filters::points::<L, F6>(filters),
            Self::Winograd4 => filters::points::<L, F4>(filters),
            Self::Winograd2 => filters::points::<L, F2>(filters),
            Self::Direct => direct::prepare::<L>(filters, Input::Blocked),
            Self::DirectPlanar => direct::prepare::<L>(filters, Input::Planar),
        })
    }

    /// Convolves `x` into `y` with the weights of `filters`, which [`prepare`](Self::prepare) may have seen.
    #[expect(clippy::too_many_arguments, reason = "a layer's operands")]
    pub(super) fn convolve(
        self,
        isa: Isa,
        x: &[f32],
        maps: Maps,
        filters: &Filters<'_>,
        prepared: Option<&[f32]>,
        epilogue: &Epilogue<'_>,
        y: &mut [f32],
    ) {
        with_lanes!(isa, L => match self {
            Self::Winograd6 => winograd::convolve::<L, F6>(x, maps, filters, prepared, epilogue, y),
            Self::Winograd4 => winograd::convolve::<L, F4>(x, maps, filters, prepared, epilogue, y),
            Self::Winograd2 => winograd::convolve::<L, F2>(x, maps, filters, prepared, epilogue, y),
            Self::Direct | Self::DirectPlanar => {
                let input = if self == Self::Direct { Input::Blocked } else { Input::Planar };
                let made;
                let weights = match prepared {
                    Some(prepared) => prepared,
                    None => {
                        made = direct::prepare::<L>(filters, input);
                        &made
                    }
                };
                let (outputs, _) = filters.sizes();
                if !epilogue.pool {
                    direct::convolve::<L>(x, maps, input, weights, outputs, epilogue, y);
                    return;
                }
                let whole = maps.with_channels(outputs);
                let mut unpooled = Scratch::new(whole.len());
                let epilogue = Epilogue { pool: false, ..*epilogue };
                direct::convolve::<L>(x, maps, input, weights, outputs, &epilogue, &mut unpooled);
                pool::max_pool::<L>(&unpooled, whole, y);
            }
        });
    }
}
