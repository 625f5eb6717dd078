//! Numbers read from a device, in one transfer: each transfer waits for all that the device was asked before.

use candle_core::{DType, Result, Tensor};

/// The numbers of tensors of one device as f32, a list for each.
pub(crate) fn read(tensors: &[&Tensor]) -> Result<Vec<Vec<f32>>> {
    let flat = |tensor: &&Tensor| tensor.detach().to_dtype(DType::F32)?.flatten_all();
    let flat = tensors.iter().map(flat).collect::<Result<Vec<_>>>()?;
    let numbers: Vec<f32> = match flat.as_slice() {
        [] => Vec::new(),
        [one] => one.to_vec1()?,
        all => Tensor::cat(all, 0)?.to_vec1()?,
    };
    let mut rest = numbers.as_slice();
    let lists = flat.iter().map(|tensor| {
        let (list, after) = rest.split_at(tensor.elem_count());
        rest = after;
        list.to_vec()
    });
    Ok(lists.collect())
}

/// Numbers in rows of this many.
pub(crate) fn rows(numbers: &[f32], columns: usize) -> Vec<Vec<f32>> {
    let rows = numbers.chunks(columns.max(1));
    rows.map(<[f32]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn tensors_of_all_shapes_and_types_come_in_order() {
        let matrix = Tensor::new(&[[1f32, 2.0], [3.0, 4.0]], &Device::Cpu).unwrap();
        let half = matrix.to_dtype(DType::BF16).unwrap().t().unwrap();
        let scalar = Tensor::new(5f64, &Device::Cpu).unwrap();
        let none = Tensor::zeros((0, 2), DType::F32, &Device::Cpu).unwrap();
        let read = |tensors: &[&Tensor]| read(tensors).unwrap();
        let expected = [
            vec![1.0, 2.0, 3.0, 4.0],
            vec![1.0, 3.0, 2.0, 4.0],
            vec![5.0],
        ];
        assert_eq!(read(&[&matrix, &half, &scalar]), expected);
        assert_eq!(read(&[&half]), [vec![1.0, 3.0, 2.0, 4.0]]);
        assert_eq!(read(&[&none, &scalar]), [vec![], vec![5.0]]);
        assert!(read(&[]).is_empty());
        assert_eq!(rows(&[1.0, 2.0, 3.0, 4.0], 2), [[1.0, 2.0], [3.0, 4.0]]);
        assert!(rows(&[], 2).is_empty());
    }
}
