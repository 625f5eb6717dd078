//! The minimal filtering transforms F(m×m, 3×3) of Winograd (Lavin & Gray, "Fast Algorithms for Convolutional
//! Neural Networks", 2015), one dimension at a time.
//!
//! A tile of m×m outputs is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, with d the (m+2)×(m+2) inputs and g the 3×3 weights: (m+2)²
//! multiplications instead of 9m².

use super::simd::Simd;

/// The largest tile's inputs on a side.
pub(super) const MAX_SIZE: usize = 6;

/// The one-dimensional transforms of F(m, 3). Arrays hold `SIZE` (or `OUT`) values; the rest is not looked at.
///
/// # Safety
/// All methods: inside [`Simd::vectorize`].
pub(super) trait Tile: Copy + Send + Sync + 'static {
    /// Outputs on a side, m.
    const OUT: usize;
    /// Inputs on a side, m + 2.
    const SIZE: usize;
    /// Products per tile, (m + 2)².
    const POINTS: usize = Self::SIZE * Self::SIZE;

    /// Bᵀ d.
    unsafe fn input<S: Simd>(d: [S::V; MAX_SIZE]) -> [S::V; MAX_SIZE];
    /// G g, from three weights.
    unsafe fn weights<S: Simd>(g: [S::V; 3]) -> [S::V; MAX_SIZE];
    /// Aᵀ m.
    unsafe fn output<S: Simd>(m: [S::V; MAX_SIZE]) -> [S::V; MAX_SIZE];
    /// A y, the transpose of `output`: from gradients of outputs to gradients of products.
    unsafe fn output_back<S: Simd>(y: [S::V; MAX_SIZE]) -> [S::V; MAX_SIZE];
    /// Gᵀ u, the transpose of `weights`: from gradients of transformed weights to gradients of weights.
    unsafe fn weights_back<S: Simd>(u: [S::V; MAX_SIZE]) -> [S::V; 3];
}

/// F(4×4, 3×3) at the points 0, ±1/√2, ±√2, ∞, which round as little as a direct convolution does.
#[derive(Clone, Copy)]
pub(super) struct F4;

const A: f32 = std::f32::consts::FRAC_1_SQRT_2;
const B: f32 = std::f32::consts::SQRT_2;

impl Tile for F4 {
    const OUT: usize = 4;
    const SIZE: usize = 6;

    #[inline(always)]
    unsafe fn input<S: Simd>(d: [S::V; 6]) -> [S::V; 6] {
        // SAFETY: the caller is inside `vectorize`; so for all methods here.
        unsafe {
            let even_a = S::mul_add(S::splat(-2.0), d[2], d[4]);
            let odd_a = S::mul(S::splat(A), S::mul_add(S::splat(-2.0), d[1], d[3]));
            let even_b = S::mul_add(S::splat(-0.5), d[2], d[4]);
            let odd_b = S::mul(S::splat(B), S::mul_add(S::splat(-0.5), d[1], d[3]));
            [
                S::mul_add(S::splat(-2.5), d[2], S::add(d[0], d[4])),
                S::add(even_a, odd_a),
                S::sub(even_a, odd_a),
                S::add(even_b, odd_b),
                S::sub(even_b, odd_b),
                S::mul_add(S::splat(-2.5), d[3], S::add(d[1], d[5])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>(g: [S::V; 3]) -> [S::V; 6] {
        unsafe {
            // (1, ±a, a²) / −1.5 and (1, ±b, b²) / 6
            let even_a = S::mul(S::splat(-2.0 / 3.0), S::mul_add(S::splat(0.5), g[2], g[0]));
            let odd_a = S::mul(S::splat(-2.0 / 3.0 * A), g[1]);
            let even_b = S::mul(S::splat(1.0 / 6.0), S::mul_add(S::splat(2.0), g[2], g[0]));
            let odd_b = S::mul(S::splat(B / 6.0), g[1]);
            [
                g[0],
                S::add(even_a, odd_a),
                S::sub(even_a, odd_a),
                S::add(even_b, odd_b),
                S::sub(even_b, odd_b),
                g[2],
            ]
        }
    }

    #[inline(always)]
    unsafe fn output<S: Simd>(m: [S::V; 6]) -> [S::V; 6] {
        unsafe {
            let (sum_a, diff_a) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
            let (sum_b, diff_b) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
            let zero = S::splat(0.0);
            [
                S::add(m[0], S::add(sum_a, sum_b)),
                S::mul_add(S::splat(B), diff_b, S::mul(S::splat(A), diff_a)),
                S::mul_add(S::splat(2.0), sum_b, S::mul(S::splat(0.5), sum_a)),
                S::mul_add(
                    S::splat(2.0 * B),
                    diff_b,
                    S::mul_add(S::splat(0.5 * A), diff_a, m[5]),
                ),
                zero,
                zero,
            ]
        }
    }

    #[inline(always)]
    unsafe fn output_back<S: Simd>(y: [S::V; 6]) -> [S::V; 6] {
        unsafe {
            // Rows of A: (1, ±a, a², ±a³) and (1, ±b, b², ±b³)
            let even_a = S::mul_add(S::splat(0.5), y[2], y[0]);
            let odd_a = S::mul(S::splat(A), S::mul_add(S::splat(0.5), y[3], y[1]));
            let even_b = S::mul_add(S::splat(2.0), y[2], y[0]);
            let odd_b = S::mul(S::splat(B), S::mul_add(S::splat(2.0), y[3], y[1]));
            [
                y[0],
                S::add(even_a, odd_a),
                S::sub(even_a, odd_a),
                S::add(even_b, odd_b),
                S::sub(even_b, odd_b),
                y[3],
            ]
        }
    }

    #[inline(always)]
    unsafe fn weights_back<S: Simd>(u: [S::V; 6]) -> [S::V; 3] {
        unsafe {
            let (sum_a, diff_a) = (S::add(u[1], u[2]), S::sub(u[1], u[2]));
            let (sum_b, diff_b) = (S::add(u[3], u[4]), S::sub(u[3], u[4]));
            let (ca, cb) = (-2.0 / 3.0, 1.0 / 6.0);
            [
                S::mul_add(S::splat(cb), sum_b, S::mul_add(S::splat(ca), sum_a, u[0])),
                S::mul_add(S::splat(cb * B), diff_b, S::mul(S::splat(ca * A), diff_a)),
                S::mul_add(
                    S::splat(cb * 2.0),
                    sum_b,
                    S::mul_add(S::splat(ca * 0.5), sum_a, u[5]),
                ),
            ]
        }
    }
}

/// F(2×2, 3×3) at the points 0, ±1, ∞: a larger share of the products, less than half of F(4×4)'s weights.
#[derive(Clone, Copy)]
pub(super) struct F2;

impl Tile for F2 {
    const OUT: usize = 2;
    const SIZE: usize = 4;

    #[inline(always)]
    unsafe fn input<S: Simd>(d: [S::V; 6]) -> [S::V; 6] {
        unsafe {
            let zero = S::splat(0.0);
            [
                S::sub(d[0], d[2]),
                S::add(d[1], d[2]),
                S::sub(d[2], d[1]),
                S::sub(d[3], d[1]),
                zero,
                zero,
            ]
        }
    }

    #[inline(always)]
    unsafe fn weights<S: Simd>(g: [S::V; 3]) -> [S::V; 6] {
        unsafe {
            let half = S::splat(0.5);
            let even = S::mul(half, S::add(g[0], g[2]));
            let odd = S::mul(half, g[1]);
            let zero = S::splat(0.0);
            [g[0], S::add(even, odd), S::sub(even, odd), g[2], zero, zero]
        }
    }

    #[inline(always)]
    unsafe fn output<S: Simd>(m: [S::V; 6]) -> [S::V; 6] {
        unsafe {
            let zero = S::splat(0.0);
            [
                S::add(m[0], S::add(m[1], m[2])),
                S::add(S::sub(m[1], m[2]), m[3]),
                zero,
                zero,
                zero,
                zero,
            ]
        }
    }

    #[inline(always)]
    unsafe fn output_back<S: Simd>(y: [S::V; 6]) -> [S::V; 6] {
        unsafe {
            let zero = S::splat(0.0);
            [
                y[0],
                S::add(y[0], y[1]),
                S::sub(y[0], y[1]),
                y[1],
                zero,
                zero,
            ]
        }
    }

    #[inline(always)]
    unsafe fn weights_back<S: Simd>(u: [S::V; 6]) -> [S::V; 3] {
        unsafe {
            let half = S::splat(0.5);
            let sum = S::mul(half, S::add(u[1], u[2]));
            [
                S::add(u[0], sum),
                S::mul(half, S::sub(u[1], u[2])),
                S::add(u[3], sum),
            ]
        }
    }
}
