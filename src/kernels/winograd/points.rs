//! The minimal filtering transforms F(m, 3) of Winograd (Lavin & Gray, "Fast Algorithms for Convolutional Neural
//! Networks", 2015), one dimension at a time.
//!
//! A tile of m×n outputs is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, with d the (m+2)×(n+2) inputs and g the 3×3 weights. The
//! transforms are those of Toom and Cook for the points 0, ∞, ±a, ±b, ±c: F(2, 3) takes the first pair of points, F(4,
//! 3) two of them and F(6, 3) all three. So weights that were transformed for a tile are, at fewer points, those of a
//! smaller one, and tiles of several sizes share them. For that, all that depends on a tile's size, 1 / Π (p − q), is
//! in the output's transform.

use std::marker::PhantomData;

use super::super::simd::Simd;

/// The most values on a side of a tile: six outputs, eight inputs, eight points.
pub(super) const MAX_SIZE: usize = 8;

/// Tiles of several sizes that share points, and so transformed weights.
pub(crate) trait TileFamily: Copy + Send + Sync + 'static {
    /// Outputs on a side of the largest tile.
    const LARGEST: usize;
    /// a, b and c, of the pairs of points ±a, ±b and ±c; 0 past the largest tile's.
    const PAIRS: [f32; 3];
    /// a², b² and c², exactly. PAIRS may hold roots, whose f32 squares are not exact.
    const SQUARES: [f32; 3];
}

/// Up to F(6×6, 3×3): as few as 1.8 products an output. Rounds about four times as coarsely as a direct convolution.
#[derive(Clone, Copy)]
pub(crate) struct F6;

impl TileFamily for F6 {
    const LARGEST: usize = 6;
    const PAIRS: [f32; 3] = [0.5, 2.0, 1.0];
    const SQUARES: [f32; 3] = [0.25, 4.0, 1.0];
}

/// Up to F(4×4, 3×3), at points with which it rounds as finely as a direct convolution does.
#[derive(Clone, Copy)]
pub(crate) struct F4;

impl TileFamily for F4 {
    const LARGEST: usize = 4;
    const PAIRS: [f32; 3] = [
        std::f32::consts::FRAC_1_SQRT_2,
        std::f32::consts::SQRT_2,
        0.0,
    ];
    const SQUARES: [f32; 3] = [0.5, 2.0, 0.0];
}

/// F(2×2, 3×3): four products an output, and weights that grow the least.
#[derive(Clone, Copy)]
pub(crate) struct F2;

impl TileFamily for F2 {
    const LARGEST: usize = 2;
    const PAIRS: [f32; 3] = [1.0, 0.0, 0.0];
    const SQUARES: [f32; 3] = [1.0, 0.0, 0.0];
}

/// The values on a side of a tile; those past its size count for nothing.
pub(super) type Line<S> = [<S as Simd>::V; MAX_SIZE];

/// Π (x² − q²) over so many pairs but one, or (the last) over all: the coefficients of 1, x², x⁴ and x⁶.
pub(super) const fn polynomials(squares: [f32; 3], pairs: usize) -> [[f32; 4]; 4] {
    let mut polynomials = [[1.0, 0.0, 0.0, 0.0]; 4];
    let mut without = 0;
    while without <= pairs {
        let polynomial = &mut polynomials[without];
        let (mut pair, mut degree) = (0, 0);
        while pair < pairs {
            if pair != without {
                // Times x², and −q² times itself.
                let mut power = degree + 1;
                while power > 0 {
                    power -= 1;
                    polynomial[power + 1] += polynomial[power];
                    polynomial[power] *= -squares[pair];
                }
                degree += 1;
            }
            pair += 1;
        }
        without += 1;
    }
    polynomials
}

/// The numbers in the transforms of a tile with so many pairs of points.
struct Constants<P, const PAIRS: usize>(PhantomData<P>);

impl<P: TileFamily, const PAIRS: usize> Constants<P, PAIRS> {
    /// Π (x² − q²) over the pairs but one, or (the last) over all: the coefficients of 1, x², x⁴ and x⁶.
    const POLYNOMIALS: [[f32; 4]; 4] = polynomials(P::SQUARES, PAIRS);

    /// 1 / Π (p − q) over the other finite points q, for the point 0.
    const ZERO: f32 = {
        let (mut product, mut pair) = (1.0, 0);
        while pair < PAIRS {
            product *= -P::SQUARES[pair];
            pair += 1;
        }
        1.0 / product
    };

    /// p^k / Π (p − q), for the points ±p of each pair (which differ in the sign of odd k) and each output k.
    const OUTPUTS: [[f32; MAX_SIZE]; 3] = {
        let mut outputs = [[0.0; MAX_SIZE]; 3];
        let mut pair = 0;
        while pair < PAIRS {
            let own = P::SQUARES[pair];
            let (mut product, mut other) = (2.0 * own, 0);
            while other < PAIRS {
                if other != pair {
                    product *= own - P::SQUARES[other];
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

/// Σ c d over the coefficients of one of the [`polynomials`], the last of which is 1, and every other value from
/// `first` on.
#[inline(always)]
pub(super) fn polynomial<S: Simd>(
    simd: S,
    coefficients: [f32; 4],
    degree: usize,
    d: &Line<S>,
    first: usize,
) -> S::V {
    let mut sum = d[first + 2 * degree];
    for power in 0..degree {
        sum = simd.mul_add(simd.splat(coefficients[power]), d[first + 2 * power], sum);
    }
    sum
}

/// Bᵀ d: 2 · PAIRS + 2 inputs to as many points.
#[inline(always)]
pub(super) fn input<S: Simd, P: TileFamily, const PAIRS: usize>(simd: S, d: Line<S>) -> Line<S> {
    let all = Constants::<P, PAIRS>::POLYNOMIALS[PAIRS];
    let mut points = [simd.splat(0.0); MAX_SIZE];
    points[0] = polynomial(simd, all, PAIRS, &d, 0);
    points[1] = polynomial(simd, all, PAIRS, &d, 1);
    for pair in 0..PAIRS {
        let others = Constants::<P, PAIRS>::POLYNOMIALS[pair];
        let even = polynomial(simd, others, PAIRS - 1, &d, 2);
        let odd = polynomial(simd, others, PAIRS - 1, &d, 1);
        let p = P::PAIRS[pair];
        points[2 + 2 * pair] = simd.mul_add(simd.splat(p), odd, even);
        points[3 + 2 * pair] = simd.mul_add(simd.splat(-p), odd, even);
    }
    points
}

/// G g: three weights to points.
#[inline(always)]
pub(super) fn weights<S: Simd, P: TileFamily, const PAIRS: usize>(
    simd: S,
    g: [S::V; 3],
) -> Line<S> {
    let mut points = [simd.splat(0.0); MAX_SIZE];
    (points[0], points[1]) = (g[0], g[2]);
    for pair in 0..PAIRS {
        let p = P::PAIRS[pair];
        let even = simd.mul_add(simd.splat(P::SQUARES[pair]), g[2], g[0]);
        points[2 + 2 * pair] = simd.mul_add(simd.splat(p), g[1], even);
        points[3 + 2 * pair] = simd.mul_add(simd.splat(-p), g[1], even);
    }
    points
}

/// Gᵀ u, the transpose of [`weights`]: gradients at points to gradients of three weights.
#[inline(always)]
pub(super) fn weights_back<S: Simd, P: TileFamily, const PAIRS: usize>(
    simd: S,
    u: Line<S>,
) -> [S::V; 3] {
    let mut g = [u[0], simd.splat(0.0), u[1]];
    for pair in 0..PAIRS {
        let p = P::PAIRS[pair];
        let (plus, minus) = (u[2 + 2 * pair], u[3 + 2 * pair]);
        let (sum, difference) = (simd.add(plus, minus), simd.sub(plus, minus));
        g[0] = simd.add(g[0], sum);
        g[1] = simd.mul_add(simd.splat(p), difference, g[1]);
        g[2] = simd.mul_add(simd.splat(P::SQUARES[pair]), sum, g[2]);
    }
    g
}

/// Aᵀ m: points to `2 · PAIRS` outputs.
#[inline(always)]
pub(super) fn output<S: Simd, P: TileFamily, const PAIRS: usize>(simd: S, m: Line<S>) -> Line<S> {
    let mut y = [simd.splat(0.0); MAX_SIZE];
    y[0] = simd.mul(simd.splat(Constants::<P, PAIRS>::ZERO), m[0]);
    y[2 * PAIRS - 1] = m[1];
    for pair in 0..PAIRS {
        let (plus, minus) = (m[2 + 2 * pair], m[3 + 2 * pair]);
        let parts = [simd.add(plus, minus), simd.sub(plus, minus)];
        for power in 0..2 * PAIRS {
            let part = parts[power % 2];
            let coefficient = simd.splat(Constants::<P, PAIRS>::OUTPUTS[pair][power]);
            let begun = pair > 0 || power == 0 || power == 2 * PAIRS - 1;
            y[power] = if begun {
                simd.mul_add(coefficient, part, y[power])
            } else {
                simd.mul(coefficient, part)
            };
        }
    }
    y
}

/// A y, the transpose of [`output`]: gradients of outputs to gradients at points.
#[inline(always)]
pub(super) fn output_back<S: Simd, P: TileFamily, const PAIRS: usize>(
    simd: S,
    y: Line<S>,
) -> Line<S> {
    let mut m = [simd.splat(0.0); MAX_SIZE];
    m[0] = simd.mul(simd.splat(Constants::<P, PAIRS>::ZERO), y[0]);
    m[1] = y[2 * PAIRS - 1];
    for pair in 0..PAIRS {
        let mut parts = [simd.splat(0.0); 2];
        for power in 0..2 * PAIRS {
            let coefficient = simd.splat(Constants::<P, PAIRS>::OUTPUTS[pair][power]);
            parts[power % 2] = if power < 2 {
                simd.mul(coefficient, y[power])
            } else {
                simd.mul_add(coefficient, y[power], parts[power % 2])
            };
        }
        m[2 + 2 * pair] = simd.add(parts[0], parts[1]);
        m[3 + 2 * pair] = simd.sub(parts[0], parts[1]);
    }
    m
}
