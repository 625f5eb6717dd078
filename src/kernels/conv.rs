//! Which method convolves a layer, and with which instructions.

use std::sync::OnceLock;

use super::layout::Maps;
use super::scratch::Scratch;
#[cfg(target_arch = "aarch64")]
use super::simd::Neon;
#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{LANES, Portable};
use super::tile::{F2, F4};
use super::winograd::{self, Epilogue, Filters};
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

    /// See [`gradient::weights`]; the tile is the one with fewer products.
    pub(super) fn weight_gradient(
        self,
        x: &[f32],
        input: Maps,
        dy: &[f32],
        out_channels: usize,
        dw: &mut [f32],
    ) {
        let products = |side: usize| {
            (side + 2).pow(2) * input.height.div_ceil(side) * input.width.div_ceil(side)
        };
        with_lanes!(self, L => if products(4) <= products(2) {
            gradient::weights::<L, F4>(x, input, dy, out_channels, dw);
        } else {
            gradient::weights::<L, F2>(x, input, dy, out_channels, dw);
        });
    }

    /// See [`gradient::bias`].
    pub(super) fn bias_gradient(self, dy: &[f32], output: Maps, db: &mut [f32]) {
        with_lanes!(self, L => gradient::bias::<L>(dy, output, db));
    }
}

/// How a layer is convolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Method {
    /// Winograd F(4×4, 3×3).
    Winograd4,
    /// Winograd F(2×2, 3×3).
    Winograd2,
    /// Nine shifted products.
    Direct,
    /// The same from one plane per channel, for few channels.
    DirectPlanar,
}

impl Method {
    /// The cheapest for maps of this shape, by a model of the time: multiply-adds at the processor's rate or
    /// weights at the memory's, whichever takes longer, and the transforms' traffic.
    pub(crate) fn for_maps(maps: Maps, out_channels: usize) -> Self {
        const MULTIPLY_ADDS: f64 = 130e9;
        const WEIGHTS: f64 = 5e9;
        const TRANSFORMED: f64 = 6e9;
        let (inputs, outputs) = (
            maps.channels.next_multiple_of(LANES) as f64,
            out_channels.next_multiple_of(LANES) as f64,
        );
        let cost = |products: f64, tiles: f64, transformed: bool| {
            let weights = products * inputs * outputs;
            let traffic = if transformed {
                products * tiles * (inputs + outputs)
            } else {
                0.0
            };
            (weights * tiles / MULTIPLY_ADDS).max(weights / WEIGHTS) + traffic / TRANSFORMED
        };
        let tiles = |side: usize| {
            (maps.pictures * maps.height.div_ceil(side) * maps.width.div_ceil(side)) as f64
        };
        // Pixels between rows of padded maps are computed and dropped.
        let waste = (maps.width + 2) as f64 / maps.width.max(1) as f64;
        [
            (Self::Winograd4, cost(36.0, tiles(4), true)),
            (Self::Winograd2, cost(16.0, tiles(2), true)),
            (Self::Direct, cost(9.0, waste * tiles(1), false)),
        ]
        .into_iter()
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(Self::Winograd4, |(method, _)| method)
    }

    /// Weights as this method wants them.
    pub(super) fn prepare(self, isa: Isa, filters: &Filters<'_>) -> Scratch {
        with_lanes!(isa, L => match self {
            Self::Winograd4 => {
                let mut u = Scratch::new(winograd::weights_len::<L, F4>(filters));
                winograd::weights::<L, F4>(filters, &mut u);
                u
            }
            Self::Winograd2 => {
                let mut u = Scratch::new(winograd::weights_len::<L, F2>(filters));
                winograd::weights::<L, F2>(filters, &mut u);
                u
            }
            Self::Direct => {
                let mut w = Scratch::new(direct::weights_len::<L>(filters, Input::Blocked));
                direct::weights::<L>(filters, Input::Blocked, &mut w);
                w
            }
            Self::DirectPlanar => {
                let mut w = Scratch::new(direct::weights_len::<L>(filters, Input::Planar));
                direct::weights::<L>(filters, Input::Planar, &mut w);
                w
            }
        })
    }

    /// Convolves `x` into `y` with weights from [`prepare`](Self::prepare).
    #[expect(clippy::too_many_arguments, reason = "a layer's operands")]
    pub(super) fn convolve(
        self,
        isa: Isa,
        x: &[f32],
        maps: Maps,
        weights: &[f32],
        out_channels: usize,
        epilogue: &Epilogue<'_>,
        y: &mut [f32],
    ) {
        let input = match self {
            Self::Winograd4 => {
                return with_lanes!(isa, L => {
                    winograd::convolve::<L, F4>(x, maps, weights, out_channels, epilogue, y)
                });
            }
            Self::Winograd2 => {
                return with_lanes!(isa, L => {
                    winograd::convolve::<L, F2>(x, maps, weights, out_channels, epilogue, y)
                });
            }
            Self::Direct => Input::Blocked,
            Self::DirectPlanar => Input::Planar,
        };
        if !epilogue.pool {
            return with_lanes!(isa, L => {
                direct::convolve::<L>(x, maps, input, weights, out_channels, epilogue, y)
            });
        }
        let whole = maps.with_channels(out_channels);
        let mut unpooled = Scratch::new(whole.len());
        let epilogue = Epilogue {
            pool: false,
            ..*epilogue
        };
        with_lanes!(isa, L => {
            direct::convolve::<L>(x, maps, input, weights, out_channels, &epilogue, &mut unpooled);
            pool::max_pool::<L>(&unpooled, whole, y);
        });
    }
}

/// What weights that change with every step are convolved with.
impl Method {
    /// Convolves `x` into `y` with weights that are not used again.
    pub(super) fn convolve_once(
        self,
        isa: Isa,
        x: &[f32],
        maps: Maps,
        filters: &Filters<'_>,
        epilogue: &Epilogue<'_>,
        y: &mut [f32],
    ) {
        with_lanes!(isa, L => match self {
            Self::Winograd4 if winograd::is_large::<L, F4>(filters) => {
                return winograd::convolve_once::<L, F4>(x, maps, filters, epilogue, y);
            }
            Self::Winograd2 if winograd::is_large::<L, F2>(filters) => {
                return winograd::convolve_once::<L, F2>(x, maps, filters, epilogue, y);
            }
            _ => {}
        });
        let prepared = self.prepare(isa, filters);
        let (outputs, _) = filters.sizes();
        self.convolve(isa, x, maps, &prepared, outputs, epilogue, y);
    }
}

/// A bias as epilogues want it: padded with zeros to whole panels.
pub(super) fn pad_bias(bias: &[f32]) -> Vec<f32> {
    let mut padded = bias.to_vec();
    padded.resize(bias.len().next_multiple_of(2 * LANES), 0.0);
    padded
}
