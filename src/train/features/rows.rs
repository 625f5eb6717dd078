//! One view's features: a row of numbers for each picture, in memory, on the device that trains, or in a file.

use candle_core::{Device, Tensor};

use super::file::FeatureFile;
use crate::error::Result;

/// The bytes of features, of all views together, that may stay on a device for a whole run: beside activations and
/// gradients a small part of what such devices have.
const DEVICE_BUDGET: usize = 1 << 30;

/// One row of C·h·w numbers for each index of the dataset, zeros for a picture that cannot be used.
#[derive(Debug)]
pub(super) enum Rows {
    Memory(Vec<f32>),
    /// (pictures, C·h·w), on another device than the CPU.
    Device(Tensor),
    File(FeatureFile),
}

impl Rows {
    /// Rows of so many numbers, in memory or, where `views` of them have room there, on a device.
    pub(super) fn kept(rows: Vec<f32>, length: usize, views: usize, device: &Device) -> Self {
        let bytes = size_of_val(rows.as_slice()).saturating_mul(views);
        if device.is_cpu() || bytes > DEVICE_BUDGET {
            return Self::Memory(rows);
        }
        // A device without room is no reason to stop.
        match on_device(&rows, length, device) {
            Ok(tensor) => Self::Device(tensor),
            Err(_) => Self::Memory(rows),
        }
    }

    /// The features (N, C, h, w) of the pictures at these indices.
    pub(super) fn batch(
        &self,
        indices: &[usize],
        [c, h, w]: [usize; 3],
        device: &Device,
    ) -> Result<Tensor> {
        let shape = (indices.len(), c, h, w);
        let row = c * h * w;
        if let Self::Device(rows) = self {
            let places: Vec<u32> = indices.iter().map(|index| *index as u32).collect();
            let places = Tensor::from_vec(places, indices.len(), device)?;
            return Ok(rows.index_select(&places, 0)?.reshape(shape)?);
        }
        let mut numbers = vec![0.0; indices.len() * row];
        for (index, numbers) in indices.iter().zip(numbers.chunks_exact_mut(row)) {
            match self {
                Self::Memory(rows) => numbers.copy_from_slice(&rows[index * row..][..row]),
                Self::File(file) => file.read(*index, numbers)?,
                Self::Device(_) => {}
            }
        }
        Ok(Tensor::from_vec(numbers, shape, device)?)
    }
}

fn on_device(rows: &[f32], length: usize, device: &Device) -> candle_core::Result<Tensor> {
    Tensor::from_slice(rows, (rows.len() / length.max(1), length), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_on_a_device_make_the_batches_of_rows_in_memory() {
        let numbers: Vec<f32> = (0..7 * 12).map(|number| number as f32).collect();
        let device = Rows::Device(on_device(&numbers, 12, &Device::Cpu).unwrap());
        let memory = Rows::kept(numbers, 12, 1, &Device::Cpu);
        assert!(matches!(memory, Rows::Memory(_)));
        for indices in [&[0usize][..], &[6, 2, 2, 5]] {
            let batch = |rows: &Rows| {
                let batch = rows.batch(indices, [3, 2, 2], &Device::Cpu).unwrap();
                assert_eq!(batch.dims(), [indices.len(), 3, 2, 2]);
                batch.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            assert_eq!(batch(&device), batch(&memory));
        }
    }
}
