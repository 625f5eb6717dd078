//! The minimal filtering transforms F(4, 2) and F(4, 4), one dimension at a time.
//!
//! As those of [`points`](super::points), but for other numbers of taps, and without the point 0: Toom's and Cook's for
//! ±a, ±b, for four taps ±c, and ∞. A tile's 1 / Π (p − q) is in the output's transform.

use super::super::simd::Simd;
use super::points::{Line, MAX_SIZE, polynomial, polynomials};

/// Outputs of a tile.
pub(super) const OUTPUTS: usize = 4;

/// Pairs of points, and what follows from them. With N pairs there are 2N + 1 points, as many inputs, and 2N − 2 taps.
pub(super) struct Pairs<const N: usize> {
    /// a, b and c.
    points: [f32; N],
    /// Π (x² − q²) over the pairs but one, or (the last) over all: the coefficients of 1, x², x⁴ and x⁶.
    polynomials: [[f32; 4]; 4],
    /// p^k / Π (p − q) for the points p of each pair, and each output k. For −p those of even k are the opposite.
    outputs: [[f32; OUTPUTS]; N],
}

impl<const N: usize> Pairs<N> {
    /// Of points whose squares are exact.
    pub(super) const fn new(points: [f32; N]) -> Self {
        let (mut squares, mut outputs) = ([0.0; 3], [[0.0; OUTPUTS]; N]);
        let mut pair = 0;
        while pair < N {
            let p = points[pair];
            squares[pair] = p * p;
            let (mut product, mut other) = (2.0 * p, 0);
            while other < N {
                if other != pair {
                    product *= p * p - points[other] * points[other];
                }
                other += 1;
            }
            let (mut power, mut value) = (0, 1.0 / product);
            while power < OUTPUTS {
                outputs[pair][power] = value;
                value *= p;
                power += 1;
            }
            pair += 1;
        }
        Self {
            points,
            polynomials: polynomials(squares, N),
            outputs,
        }
    }

    /// Where the point ∞ is.
    pub(super) const INFINITE: usize = 2 * N;

    /// Bᵀ d: inputs to points. The finite points are those of all inputs but the last.
    #[inline(always)]
    pub(super) fn input<S: Simd>(&self, simd: S, d: Line<S>) -> Line<S> {
        let mut points = [simd.splat(0.0); MAX_SIZE];
        for pair in 0..N {
            let others = self.polynomials[pair];
            let odd = polynomial(simd, others, N - 1, &d, 1);
            let even = polynomial(simd, others, N - 1, &d, 0);
            let p = self.points[pair];
            points[2 * pair] = simd.mul_add(simd.splat(p), even, odd);
            points[2 * pair + 1] = simd.mul_add(simd.splat(-p), even, odd);
        }
        points[Self::INFINITE] = polynomial(simd, self.polynomials[N], N, &d, 0);
        points
    }

    /// Aᵀ m: points to outputs.
    #[inline(always)]
    pub(super) fn output<S: Simd>(&self, simd: S, m: Line<S>) -> Line<S> {
        let mut y = [simd.splat(0.0); MAX_SIZE];
        y[OUTPUTS - 1] = m[Self::INFINITE];
        for pair in 0..N {
            let (plus, minus) = (m[2 * pair], m[2 * pair + 1]);
            let parts = [simd.sub(plus, minus), simd.add(plus, minus)];
            for power in 0..OUTPUTS {
                let coefficient = simd.splat(self.outputs[pair][power]);
                y[power] = simd.mul_add(coefficient, parts[power % 2], y[power]);
            }
        }
        y
    }

    /// A y, the transpose of [`output`](Self::output).
    #[inline(always)]
    pub(super) fn output_back<S: Simd>(&self, simd: S, y: Line<S>) -> Line<S> {
        let mut m = [simd.splat(0.0); MAX_SIZE];
        m[Self::INFINITE] = y[OUTPUTS - 1];
        for pair in 0..N {
            let mut parts = [simd.splat(0.0); 2];
            for power in 0..OUTPUTS {
                let coefficient = simd.splat(self.outputs[pair][power]);
                parts[power % 2] = simd.mul_add(coefficient, y[power], parts[power % 2]);
            }
            let [even, odd] = parts;
            m[2 * pair] = simd.add(odd, even);
            m[2 * pair + 1] = simd.sub(odd, even);
        }
        m
    }

    /// G g: taps to points.
    #[inline(always)]
    pub(super) fn weights<S: Simd>(&self, simd: S, g: Line<S>) -> Line<S> {
        let mut points = [simd.splat(0.0); MAX_SIZE];
        let last = 2 * N - 3;
        for pair in 0..N {
            let p = self.points[pair];
            let square = simd.splat(p * p);
            let (mut even, mut odd) = (g[last - 1], g[last]);
            for tap in (0..last / 2).rev() {
                even = simd.mul_add(square, even, g[2 * tap]);
                odd = simd.mul_add(square, odd, g[2 * tap + 1]);
            }
            points[2 * pair] = simd.mul_add(simd.splat(p), odd, even);
            points[2 * pair + 1] = simd.mul_add(simd.splat(-p), odd, even);
        }
        points[Self::INFINITE] = g[last];
        points
    }

    /// Gᵀ u, the transpose of [`weights`](Self::weights).
    #[inline(always)]
    pub(super) fn weights_back<S: Simd>(&self, simd: S, u: Line<S>) -> Line<S> {
        let mut g = [simd.splat(0.0); MAX_SIZE];
        let last = 2 * N - 3;
        g[last] = u[Self::INFINITE];
        for pair in 0..N {
            let (plus, minus) = (u[2 * pair], u[2 * pair + 1]);
            let parts = [simd.add(plus, minus), simd.sub(plus, minus)];
            let mut power = 1.0;
            for tap in 0..=last {
                g[tap] = simd.mul_add(simd.splat(power), parts[tap % 2], g[tap]);
                power *= self.points[pair];
            }
        }
        g
    }
}
