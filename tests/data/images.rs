//! Images in memory as a dataset.

use candle_core::DType;
use headstart::data::{Loader, Policy};
use headstart::{Augmenter, Dataset, DirectoryDataset, Error};
use image::{DynamicImage, ImageBuffer, Rgb, RgbImage, Rgba};

use crate::numbers::bits;

/// `count` images of different sizes and colours, of two classes in turn.
fn images(count: u32) -> Vec<(DynamicImage, usize)> {
    (0..count)
        .map(|number| {
            let image = RgbImage::from_fn(9 + number, 7, |x, y| {
                Rgb([x * 20, y * 30, number * 12].map(|level| level as u8))
            });
            (DynamicImage::from(image), number as usize % 2)
        })
        .collect()
}

#[test]
fn they_keep_their_order_labels_and_pixels() {
    let images = images(7);
    let dataset = Dataset::from_images(images.clone(), &["even", "odd"]).unwrap();
    assert_eq!(dataset.class_names(), ["even", "odd"]);
    assert_eq!(dataset.counts(), [4, 3]);
    for (number, (item, (image, label))) in dataset.items().iter().zip(&images).enumerate() {
        assert_eq!(item.path.to_str().unwrap(), format!("image {number}"));
        assert_eq!((item.label, item.id), (*label, number as u64));
        assert_eq!(&item.decode().unwrap(), image.as_rgb8().unwrap());
    }
}

/// A class folder of PNGs, which keep every pixel, is the same dataset but for the paths.
#[test]
fn batches_splits_and_orders_are_those_of_files() {
    let root = tempfile::tempdir().unwrap();
    let mut images = images(12);
    // As a folder sorts them: class by class.
    images.sort_by_key(|(_, label)| *label);
    for class in ["even", "odd"] {
        std::fs::create_dir(root.path().join(class)).unwrap();
    }
    for (number, (image, label)) in images.iter().enumerate() {
        let class = ["even", "odd"][*label];
        let path = root.path().join(class).join(format!("{number:02}.png"));
        image.save(path).unwrap();
    }
    let files = DirectoryDataset::open(root.path()).unwrap();
    let memory = Dataset::from_images(images, &["even", "odd"]).unwrap();

    let batches = |dataset: &Dataset| -> Vec<(Vec<u64>, Vec<u32>, Vec<u32>)> {
        let (rest, part) = dataset.split(0.3, 5).unwrap();
        let batches = [rest.shuffle(2), part].map(|dataset| {
            let loader = Loader::new(&dataset, 8, 6).batch_size(4).shuffle(1);
            let loader = loader.augment(Augmenter::notebook(), 3);
            loader.epoch(2).collect::<Result<Vec<_>, _>>().unwrap()
        });
        let batches = batches.into_iter().flatten();
        batches
            .map(|batch| (batch.ids, batch.labels, bits(&batch.inputs)))
            .collect()
    };
    assert_eq!(batches(&memory), batches(&files));
}

#[test]
fn batches_enter_the_base_at_its_first_block() {
    let dataset = Dataset::from_images(images(2), &["even", "odd"]).unwrap();
    let batch = Loader::new(&dataset, 8, 6)
        .epoch(0)
        .next()
        .unwrap()
        .unwrap();
    assert_eq!(batch.first_block, 0);
    assert_eq!(
        (batch.inputs.dims(), batch.inputs.dtype()),
        (&[2, 3, 8, 6][..], DType::F32)
    );
}

/// As a file of the same pixels: transparency shows white, 16 bits are scaled.
#[test]
fn any_kind_of_image_becomes_rgb() {
    // Clear everywhere: its alpha was never meant.
    let clear = ImageBuffer::from_pixel(3, 2, Rgba([10u8, 20, 30, 0]));
    let deep = ImageBuffer::from_pixel(3, 2, Rgb([257u16 * 7, 0, u16::MAX]));
    let images = [
        (DynamicImage::from(clear), 0),
        (DynamicImage::from(deep), 1),
    ];
    let dataset = Dataset::from_images(images, &["clear", "deep"]).unwrap();
    let pixels = dataset
        .items()
        .iter()
        .map(|item| item.decode().unwrap()[(0, 0)].0);
    assert_eq!(pixels.collect::<Vec<_>>(), [[10, 20, 30], [7, 0, 255]]);
}

#[test]
fn labels_and_names_are_checked() {
    let from = |count, names: &[&str]| Dataset::from_images(images(count), names);
    let error = Dataset::from_images([(images(1).remove(0).0, 2)], &["a", "b"]).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }));
    assert_eq!(
        error.to_string(),
        "label of image 0: found 2; expected an index into the 2 class names"
    );
    assert!(matches!(from(0, &["a", "b"]), Err(Error::Dataset { .. })));
    for names in [&["a"][..], &["a", "a"], &[]] {
        let error = from(2, names);
        assert!(matches!(
            error,
            Err(Error::InvalidOption {
                option: "classes",
                ..
            })
        ));
    }
    assert_eq!(from(4, &["a", "b", "none"]).unwrap().counts(), [2, 2, 0]);
}

#[test]
fn an_image_without_pixels_is_a_problem_by_the_policy() {
    let mut images = images(4);
    images[2].0 = DynamicImage::from(RgbImage::new(0, 5));
    let dataset = Dataset::from_images(images, &["even", "odd"]).unwrap();
    let ids = |dataset: &Dataset| -> headstart::Result<Vec<u64>> {
        let mut ids = Vec::new();
        for batch in Loader::new(dataset, 8, 8).epoch(0) {
            ids.extend(batch?.ids);
        }
        Ok(ids)
    };
    match ids(&dataset.clone().policy(Policy::Fail).unwrap()) {
        Err(Error::Picture { path, .. }) => assert_eq!(path.to_str(), Some("image 2")),
        other => panic!("{other:?}"),
    }
    assert_eq!(ids(&dataset).unwrap(), [0, 1, 3]);
    assert_eq!(
        dataset.problem_summary().unwrap(),
        "<memory>: 1 of 4 files skipped: image 2 (5 × 0 pixels: there is nothing to see)"
    );
}

#[test]
fn debug_output_does_not_hold_the_pixels() {
    let dataset = Dataset::from_images(images(2), &["even", "odd"]).unwrap();
    let text = format!("{dataset:?}");
    assert!(text.contains("7 × 9") && text.len() < 1000, "{text}");
}
