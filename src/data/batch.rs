//! Some pictures as one tensor.

use candle_core::{Device, Tensor};
use image::{ImageBuffer, Rgb};
use rayon::prelude::*;

use super::preprocess::Preprocess;
use crate::error::{Error, Result};

/// Some pictures of a dataset, ready for a model.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What enters the base at [`first_block`](Self::first_block), f32: at block 0 preprocessed images
    /// (N, 3, H, W), later what the blocks before made of them, (N, C, h, w).
    pub inputs: Tensor,
    /// The block of the base that comes next, counted from 0. A [`Loader`](super::Loader) gives 0;
    /// features of frozen blocks enter further on.
    pub first_block: usize,
    /// The classes of the N pictures. A label is at most a few thousand: u32 is what candle takes as an index.
    pub labels: Vec<u32>,
    /// Their N [ids](super::Item::id).
    pub ids: Vec<u64>,
}

/// Pictures of one size, in grey levels 0 to 255 (bytes or floats) → (N, 3, H, W), f32, preprocessed.
///
/// # Errors
/// [`Error::Shape`] when a picture has another size than the first, or there is none.
pub(crate) fn to_batch<S>(
    pictures: &[&ImageBuffer<Rgb<S>, Vec<S>>],
    preprocess: Preprocess,
    device: &Device,
) -> Result<Tensor>
where
    Rgb<S>: image::Pixel<Subpixel = S>,
    S: Copy + Into<f32> + Send + Sync,
{
    let shape_error = |expected: String, found: Vec<usize>| Error::Shape {
        what: "pictures of a batch (H, W)".into(),
        expected,
        found,
    };
    let Some(first) = pictures.first() else {
        return Err(shape_error("one picture or more".into(), vec![0]));
    };
    let (width, height) = first.dimensions();
    for picture in pictures {
        if picture.dimensions() != (width, height) {
            let (w, h) = picture.dimensions();
            return Err(shape_error(
                format!("({height}, {width})"),
                vec![h as usize, w as usize],
            ));
        }
    }
    let (height, width) = (height as usize, width as usize);
    let mut data = vec![0f32; pictures.len() * 3 * height * width];
    if !data.is_empty() {
        data.par_chunks_mut(3 * height * width)
            .zip(pictures)
            .for_each(|(planes, picture)| write_planes(picture, preprocess, planes));
    }
    Ok(Tensor::from_vec(
        data,
        (pictures.len(), 3, height, width),
        device,
    )?)
}

/// Writes an interleaved picture as three preprocessed planes.
pub(super) fn write_planes<S>(
    picture: &ImageBuffer<Rgb<S>, Vec<S>>,
    preprocess: Preprocess,
    planes: &mut [f32],
) where
    Rgb<S>: image::Pixel<Subpixel = S>,
    S: Copy + Into<f32>,
{
    let (mean, std) = preprocess.mean_std();
    let plane_len = planes.len() / 3;
    for (c, plane) in planes.chunks_exact_mut(plane_len).enumerate() {
        let from = if preprocess.is_bgr() { 2 - c } else { c };
        for (to, rgb) in plane.iter_mut().zip(picture.as_raw().chunks_exact(3)) {
            *to = (rgb[from].into() - mean[c]) / std[c];
        }
    }
}

#[cfg(test)]
mod tests {
    use image::{Rgb32FImage, RgbImage};

    use super::*;

    #[test]
    fn bytes_and_floats_give_the_same_planes() {
        let bytes = RgbImage::from_fn(3, 2, |x, y| Rgb([x as u8, y as u8, 200]));
        let floats = Rgb32FImage::from_fn(3, 2, |x, y| Rgb([x as f32, y as f32, 200.0]));
        let by = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for preprocess in Preprocess::ALL {
            let a = to_batch(&[&bytes], preprocess, &Device::Cpu).unwrap();
            let b = to_batch(&[&floats], preprocess, &Device::Cpu).unwrap();
            assert_eq!(a.dims(), [1, 3, 2, 3]);
            assert_eq!(by(a), by(b));
        }
    }

    #[test]
    fn pictures_of_different_sizes_are_an_error() {
        let (a, b) = (RgbImage::new(3, 2), RgbImage::new(2, 3));
        let error = to_batch(&[&a, &b], Preprocess::Unit, &Device::Cpu).unwrap_err();
        assert!(matches!(error, Error::Shape { found, .. } if found == [3, 2]));
        let none: [&RgbImage; 0] = [];
        assert!(to_batch(&none, Preprocess::Unit, &Device::Cpu).is_err());
    }
}
