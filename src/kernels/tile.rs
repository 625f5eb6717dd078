//! The minimal filtering transforms F(m, 3) of Winograd (Lavin & Gray, "Fast Algorithms for Convolutional Neural
//! Networks", 2015), one dimension at a time.
//!
//! A tile of m×n outputs is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, with d the (m+2)×(n+2) inputs and g the 3×3 weights. The
//! transforms are those of Toom and Cook for the points 0, ∞, ±a, ±b, ±c: F(2, 3) takes the first pair of points,
//! F(4, 3) two of them and F(6, 3) all three. So weights that were transformed for a tile are, at fewer points, those of
//! a smaller one, and tiles of several sizes share them. For that, all that depends on a tile's size, 1 / Π (p − q), is
//! in the output's transform.

use std::marker::PhantomData;

use super::simd::Simd;

/// The most values on a side of a tile: six outputs, eight inputs, eight points.
pub(super) const MAX_SIZE: usize = 8;

/// The points of a family of tiles.
pub(super) trait Points: Copy + Send + Sync + 'static {
    /// Outputs on a side of the largest tile.
    const LARGEST: usize;
    /// a, b, c. The squares are exact or nearly so.
    const PAIRS: [f32; 3];
}

/// Up to F(6×6, 3×3): as few as 1.8 products an output. Rounds about four times as coarsely as a direct convolution.
#[derive(Clone, Copy)]
pub(super) struct F6;

impl Points for F6 {
    const LARGEST: usize = 6;
    const PAIRS: [f32; 3] = [0.5, 2.0, 1.0];
}

/// Up to F(4×4, 3×3), at points with which it rounds as finely as a direct convolution does.
#[derive(Clone, Copy)]
pub(super) struct F4;

impl Points for F4 {
    const LARGEST: usize = 4;
    const PAIRS: [f32; 3] = [
        std::f32::consts::FRAC_1_SQRT_2,
        std::f32::consts::SQRT_2,
        0.0,
    ];
}

/// F(2×2, 3×3): four products an output, and weights that grow the least.
#[derive(Clone, Copy)]
pub(super) struct F2;

impl Points for F2 {
    const LARGEST: usize = 2;
    const PAIRS: [f32; 3] = [1.0, 0.0, 0.0];
}

type Side<S> = [<S as Simd>::V; MAX_SIZE];

/// p², of a pair of points: of roots the number under them.
const fn square<P: Points>(pair: usize) -> f32 {
    let p = P::PAIRS[pair] as f64;
    (p * p * 64.0 + 0.5) as u32 as f32 / 64.0
}

/// The numbers in the transforms of a tile with so many pairs of points.
struct Constants<P, const PAIRS: usize>(PhantomData<P>);

impl<P: Points, const PAIRS: usize> Constants<P, PAIRS> {
    /// Π (x² − q²) over the pairs but one, or (the last) over all: the coefficients of 1, x², x⁴ and x⁶.
    const POLYNOMIALS: [[f32; 4]; 4] = {
        let mut polynomials = [[1.0, 0.0, 0.0, 0.0]; 4];
        let mut without = 0;
        while without <= PAIRS {
            let polynomial = &mut polynomials[without];
            let (mut pair, mut degree) = (0, 0);
            while pair < PAIRS {
                if pair != without {
                    // Times x², and −q² times itself.
                    let mut power = degree + 1;
                    while power > 0 {
                        power -= 1;
                        polynomial[power + 1] += polynomial[power];
                        polynomial[power] *= -square::<P>(pair);
                    }
                    degree += 1;
                }
                pair += 1;
            }
            without += 1;
        }
        polynomials
    };

    /// 1 / Π (p − q) over the other finite points q, for the point 0.
    const ZERO: f32 = {
        let (mut product, mut pair) = (1.0, 0);
        while pair < PAIRS {
            product *= -square::<P>(pair);
            pair += 1;
        }
        1.0 / product
    };

    /// p^k / Π (p − q), for the points ±p of each pair (which differ in the sign of odd k) and each output k.
    const OUTPUTS: [[f32; MAX_SIZE]; 3] = {
        let mut outputs = [[0.0; MAX_SIZE]; 3];
        let mut pair = 0;
        while pair < PAIRS {
            let own = square::<P>(pair);
            let (mut product, mut other) = (2.0 * own, 0);
            while other < PAIRS {
                if other != pair {
                    product *= own - square::<P>(other);
                }
                other += 1;
            }
            outputs[pair][0] = 1.0 / product;
            outputs[pair][1] = P::PAIRS[pair] / product;
            let mut power = 2;
            while power < 2 * PAIRS {
                outputs[pair][power] = outputs[pair][power - 2] * own;
                power += 1;
            }
            pair += 1;
        }
        outputs
    };
}

/// Σ c d over the coefficients of one of the [`POLYNOMIALS`](Constants::POLYNOMIALS), the last of which is 1, and every other
/// value from `first` on.
///
/// # Safety
/// Inside [`Simd::vectorize`]; so for all functions here.
#[inline(always)]
unsafe fn polynomial<S: Simd>(
    coefficients: [f32; 4],
    degree: usize,
    d: &Side<S>,
    first: usize,
) -> S::V {
    // SAFETY: the caller's; so for all functions here.
    unsafe {
        let mut sum = d[first + 2 * degree];
        for power in 0..degree {
            sum = S::mul_add(S::splat(coefficients[power]), d[first + 2 * power], sum);
        }
        sum
    }
}

/// Bᵀ d: 2 · PAIRS + 2 inputs to as many points.
#[inline(always)]
pub(super) unsafe fn input<S: Simd, P: Points, const PAIRS: usize>(d: Side<S>) -> Side<S> {
    unsafe {
        let all = Constants::<P, PAIRS>::POLYNOMIALS[PAIRS];
        let mut points = [S::splat(0.0); MAX_SIZE];
        points[0] = polynomial::<S>(all, PAIRS, &d, 0);
        points[1] = polynomial::<S>(all, PAIRS, &d, 1);
        for pair in 0..PAIRS {
            let others = Constants::<P, PAIRS>::POLYNOMIALS[pair];
            let even = polynomial::<S>(others, PAIRS - 1, &d, 2);
            let odd = polynomial::<S>(others, PAIRS - 1, &d, 1);
            let p = P::PAIRS[pair];
            points[2 + 2 * pair] = S::mul_add(S::splat(p), odd, even);
            points[3 + 2 * pair] = S::mul_add(S::splat(-p), odd, even);
        }
        points
    }
}

/// G g: three weights to points.
#[inline(always)]
pub(super) unsafe fn weights<S: Simd, P: Points, const PAIRS: usize>(g: [S::V; 3]) -> Side<S> {
    unsafe {
        let mut points = [S::splat(0.0); MAX_SIZE];
        (points[0], points[1]) = (g[0], g[2]);
        for pair in 0..PAIRS {
            let p = P::PAIRS[pair];
            let even = S::mul_add(S::splat(square::<P>(pair)), g[2], g[0]);
            points[2 + 2 * pair] = S::mul_add(S::splat(p), g[1], even);
            points[3 + 2 * pair] = S::mul_add(S::splat(-p), g[1], even);
        }
        points
    }
}

/// Gᵀ u, the transpose of [`weights`]: gradients at points to gradients of three weights.
#[inline(always)]
pub(super) unsafe fn weights_back<S: Simd, P: Points, const PAIRS: usize>(u: Side<S>) -> [S::V; 3] {
    unsafe {
        let mut g = [u[0], S::splat(0.0), u[1]];
        for pair in 0..PAIRS {
            let p = P::PAIRS[pair];
            let (plus, minus) = (u[2 + 2 * pair], u[3 + 2 * pair]);
            let (sum, difference) = (S::add(plus, minus), S::sub(plus, minus));
            g[0] = S::add(g[0], sum);
            g[1] = S::mul_add(S::splat(p), difference, g[1]);
            g[2] = S::mul_add(S::splat(square::<P>(pair)), sum, g[2]);
        }
        g
    }
}

/// Aᵀ m: points to `2 · PAIRS` outputs.
#[inline(always)]
pub(super) unsafe fn output<S: Simd, P: Points, const PAIRS: usize>(m: Side<S>) -> Side<S> {
    unsafe {
        let mut y = [S::splat(0.0); MAX_SIZE];
        y[0] = S::mul(S::splat(Constants::<P, PAIRS>::ZERO), m[0]);
        y[2 * PAIRS - 1] = m[1];
        for pair in 0..PAIRS {
            let (plus, minus) = (m[2 + 2 * pair], m[3 + 2 * pair]);
            let parts = [S::add(plus, minus), S::sub(plus, minus)];
            for power in 0..2 * PAIRS {
                let part = parts[power % 2];
                let coefficient = S::splat(Constants::<P, PAIRS>::OUTPUTS[pair][power]);
                let begun = pair > 0 || power == 0 || power == 2 * PAIRS - 1;
                y[power] = if begun {
                    S::mul_add(coefficient, part, y[power])
                } else {
                    S::mul(coefficient, part)
                };
            }
        }
        y
    }
}

/// A y, the transpose of [`output`]: gradients of outputs to gradients at points.
#[inline(always)]
pub(super) unsafe fn output_back<S: Simd, P: Points, const PAIRS: usize>(y: Side<S>) -> Side<S> {
    unsafe {
        let mut m = [S::splat(0.0); MAX_SIZE];
        m[0] = S::mul(S::splat(Constants::<P, PAIRS>::ZERO), y[0]);
        m[1] = y[2 * PAIRS - 1];
        for pair in 0..PAIRS {
            let mut parts = [S::splat(0.0); 2];
            for power in 0..2 * PAIRS {
                let coefficient = S::splat(Constants::<P, PAIRS>::OUTPUTS[pair][power]);
                parts[power % 2] = if power < 2 {
                    S::mul(coefficient, y[power])
                } else {
                    S::mul_add(coefficient, y[power], parts[power % 2])
                };
            }
            m[2 + 2 * pair] = S::add(parts[0], parts[1]);
            m[3 + 2 * pair] = S::sub(parts[0], parts[1]);
        }
        m
    }
}
