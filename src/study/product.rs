//! Inner products, and rows made comparable.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Mul};

/// Eight sums side by side, in a fixed order.
pub(super) fn dot<T>(a: &[T], b: &[T]) -> T
where
    T: Copy + Default + Add<Output = T> + AddAssign + Mul<Output = T> + Sum,
{
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [T::default(); 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, &a), &b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(&a, &b)| a * b);
    sums.into_iter().sum::<T>() + rest.sum()
}

/// The mean of rows of one length.
pub(super) fn mean<'a>(rows: impl Iterator<Item = &'a [f32]>, width: usize) -> Vec<f32> {
    let (mut sums, mut n) = (vec![0f64; width], 0.0);
    for row in rows {
        sums.iter_mut()
            .zip(row)
            .for_each(|(sum, x)| *sum += f64::from(*x));
        n += 1.0;
    }
    sums.into_iter()
        .map(|sum| (sum / f64::max(n, 1.0)) as f32)
        .collect()
}

/// A row without the mean and of length 1, so that products are cosines; zeros of the mean itself.
pub(super) fn direction(row: &[f32], mean: &[f32]) -> Vec<f32> {
    let mut row: Vec<f32> = row.iter().zip(mean).map(|(x, mean)| x - mean).collect();
    let length = dot(&row, &row).sqrt();
    let factor = if length > 0.0 { 1.0 / length } else { 0.0 };
    row.iter_mut().for_each(|x| *x *= factor);
    row
}
