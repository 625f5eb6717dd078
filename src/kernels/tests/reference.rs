//! A direct convolution in f64, forward and backward, on planar maps.

use std::ops::Range;

use super::super::shape::Shape;

pub(super) fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

/// Where a tap's inputs lie beside its outputs: for each row of a map the tap and two ranges of pixels.
pub(super) fn stretches(shape: Shape) -> Vec<(usize, Range<usize>, Range<usize>)> {
    let (height, width) = (shape.height, shape.width);
    let inside =
        |shift: usize, side: usize| 1usize.saturating_sub(shift)..side.min(side + 1 - shift);
    (0..9)
        .flat_map(|tap| {
            let (down, right) = (tap / 3, tap % 3);
            inside(down, height).map(move |row| {
                let columns = inside(right, width);
                let (to, from) = (row * width, (row + down - 1) * width + right);
                let outputs = to + columns.start..to + columns.end;
                (
                    tap,
                    outputs,
                    from + columns.start - 1..from + columns.end - 1,
                )
            })
        })
        .filter(|(_, outputs, _)| !outputs.is_empty())
        .collect()
}

/// The sums of a convolution of planar maps in f64.
pub(super) fn sums(x: &[f64], shape: Shape, weights: &[f32], bias: &[f32]) -> Vec<f64> {
    let (size, stretches) = (shape.height * shape.width, stretches(shape));
    let mut y = Vec::new();
    for n in 0..shape.batch {
        for (o, bias) in bias.iter().enumerate() {
            let mut sums = vec![f64::from(*bias); size];
            for c in 0..shape.channels {
                let x = &x[(n * shape.channels + c) * size..][..size];
                let filter = &weights[(o * shape.channels + c) * 9..][..9];
                for (tap, outputs, inputs) in &stretches {
                    let weight = f64::from(filter[*tap]);
                    let sums = sums[outputs.clone()].iter_mut();
                    for (sum, x) in sums.zip(&x[inputs.clone()]) {
                        *sum += weight * x;
                    }
                }
            }
            y.extend(sums);
        }
    }
    y
}

pub(super) fn relu(sums: &[f64]) -> Vec<f64> {
    let relu = |sum: &f64| if *sum < 0.0 { 0.0 } else { *sum };
    sums.iter().map(relu).collect()
}

/// Convolution with bias and ReLU of planar maps in f64.
pub(super) fn reference(x: &[f32], shape: Shape, weights: &[f32], bias: &[f32]) -> Vec<f64> {
    relu(&sums(&widened(x), shape, weights, bias))
}

/// The gradient of the input in f64, from that of the sums.
pub(super) fn input_gradient(
    dy: &[f64],
    shape: Shape,
    weights: &[f32],
    outputs: usize,
) -> Vec<f64> {
    let (size, stretches) = (shape.height * shape.width, stretches(shape));
    let mut dx = vec![0.0; shape.planar_len()];
    for n in 0..shape.batch {
        for o in 0..outputs {
            let dy = &dy[(n * outputs + o) * size..][..size];
            for c in 0..shape.channels {
                let dx = &mut dx[(n * shape.channels + c) * size..][..size];
                let filter = &weights[(o * shape.channels + c) * 9..][..9];
                for (tap, outputs, inputs) in &stretches {
                    let weight = f64::from(filter[*tap]);
                    let dx = dx[inputs.clone()].iter_mut();
                    for (dx, dy) in dx.zip(&dy[outputs.clone()]) {
                        *dx += weight * dy;
                    }
                }
            }
        }
    }
    dx
}

/// The gradient of the weights in f64, from that of the sums.
pub(super) fn weight_gradient(x: &[f64], shape: Shape, dy: &[f64], outputs: usize) -> Vec<f64> {
    let (size, stretches) = (shape.height * shape.width, stretches(shape));
    let mut dw = vec![0.0; outputs * shape.channels * 9];
    for n in 0..shape.batch {
        for o in 0..outputs {
            let dy = &dy[(n * outputs + o) * size..][..size];
            for c in 0..shape.channels {
                let x = &x[(n * shape.channels + c) * size..][..size];
                let dw = &mut dw[(o * shape.channels + c) * 9..][..9];
                for (tap, outputs, inputs) in &stretches {
                    let products = dy[outputs.clone()].iter().zip(&x[inputs.clone()]);
                    dw[*tap] += products.map(|(dy, x)| dy * x).sum::<f64>();
                }
            }
        }
    }
    dw
}

/// The gradient of the bias in f64, from that of the sums.
pub(super) fn bias_gradient(dy: &[f64], shape: Shape, outputs: usize) -> Vec<f64> {
    let mut db = vec![0.0; outputs];
    for (map, dy) in dy.chunks_exact(shape.height * shape.width).enumerate() {
        db[map % outputs] += dy.iter().sum::<f64>();
    }
    db
}

/// Which of the sums each number is that a layer hands on, by its outputs `y` before the pool: the first largest of the
/// window if they are pooled; none where a ReLU is closed.
pub(super) fn routes(y: &[f32], shape: Shape, relu: bool, pool: bool) -> Vec<Option<usize>> {
    let open = |at: usize| (!relu || y[at] > 0.0 || y[at].is_nan()).then_some(at);
    if !pool {
        return (0..y.len()).map(open).collect();
    }
    let (height, width) = (shape.height, shape.width);
    let mut routes = Vec::new();
    for map in 0..shape.batch * shape.channels {
        for row in 0..height / 2 {
            for column in 0..width / 2 {
                let at = |r: usize, c: usize| (map * height + 2 * row + r) * width + 2 * column + c;
                let corners = [at(0, 1), at(1, 0), at(1, 1)].into_iter();
                let largest = corners.fold(at(0, 0), |a, b| if y[b] > y[a] { b } else { a });
                routes.push(open(largest));
            }
        }
    }
    routes
}

pub(super) fn routed<T: Copy + Default>(routes: &[Option<usize>], y: &[T]) -> Vec<T> {
    let number = |route: &Option<usize>| route.map_or(T::default(), |at| y[at]);
    routes.iter().map(number).collect()
}

/// 2×2 max-pool of planar maps.
pub(super) fn pooled(y: &[f64], shape: Shape) -> Vec<f64> {
    let (height, width) = (shape.height, shape.width);
    let mut out = Vec::new();
    for map in y.chunks_exact((height * width).max(1)) {
        for row in 0..height / 2 {
            for column in 0..width / 2 {
                let at = |r: usize, c: usize| map[(2 * row + r) * width + 2 * column + c];
                let largest = [at(0, 1), at(1, 0), at(1, 1)]
                    .into_iter()
                    .fold(at(0, 0), |a, b| if a.is_nan() || a > b { a } else { b });
                out.push(largest);
            }
        }
    }
    out
}

pub(super) fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    error_beside(found, expected, expected)
}

/// The norm of the error over that of `scale`.
pub(super) fn error_beside(found: &[f32], expected: &[f64], scale: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square: f64 = scale.iter().map(|e| e * e).sum();
    let error: f64 = found
        .iter()
        .zip(expected)
        .map(|(f, e)| (f64::from(*f) - e).powi(2))
        .sum();
    (error / square.max(1e-30)).sqrt()
}
