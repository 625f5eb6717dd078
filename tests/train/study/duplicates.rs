//! Pictures that are there twice, and pictures that show nothing.

use std::io::Cursor;
use std::path::Path;

use headstart::model::Pooling;
use headstart::study::{Duplicates, Features, Fingerprints, Split};
use headstart::{Classifier, ConvBase, Dataset, Device, Head};
use image::imageops::{FilterType, crop_imm, flip_horizontal, resize};
use image::{ImageFormat, Rgb, RgbImage};

const PICTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/santa/pictures");

pub fn as_jpeg(picture: &RgbImage, quality: u8) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut file, quality);
    picture.write_with_encoder(encoder).unwrap();
    file.into_inner()
}

/// The number-th way to hide a copy.
pub fn disguised(picture: &RgbImage, number: usize) -> RgbImage {
    let (width, height) = picture.dimensions();
    match number % 4 {
        0 => picture.clone(), // JPEG again, at quality 60
        1 => resize(
            picture,
            width.div_ceil(3),
            height.div_ceil(3),
            FilterType::Triangle,
        ),
        2 => flip_horizontal(picture),
        _ => {
            let (x, y) = (width / 20, height / 20);
            crop_imm(
                picture,
                x * (number as u32 / 4 % 2),
                y,
                width - x,
                height - y,
            )
            .to_image()
        }
    }
}

fn model(dataset: &Dataset) -> Classifier {
    let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
    let base = ConvBase::compact(&Device::Cpu).unwrap();
    Classifier::new(base, head, dataset.class_names()).unwrap()
}

fn find(train: &Dataset, test: &Dataset) -> Duplicates {
    let model = model(train);
    let features = [train, test].map(|part| Features::of(&model, part).unwrap());
    let prints = [train, test].map(|part| Fingerprints::of(part).unwrap());
    let split = |name, i: usize| Split {
        name,
        features: &features[i],
        fingerprints: &prints[i],
    };
    Duplicates::of(&[split("train", 0), split("test", 1)]).unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    std::fs::copy(from, to).unwrap();
}

#[test]
fn copies_are_found_across_splits_and_classes_however_they_are_disguised() {
    let train = Dataset::open(format!("{PICTURES}/train")).unwrap();
    let own = Dataset::open_with_classes(format!("{PICTURES}/test"), train.class_names()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for item in own.items() {
        let name = item.path.strip_prefix(own.root()).unwrap();
        copy(&item.path, &folder.path().join(name));
    }
    let mut planted = Vec::new();
    for (number, item) in train.items().iter().step_by(4).enumerate() {
        let class = &train.class_names()[if number == 5 {
            1 - item.label
        } else {
            item.label
        }];
        let path = folder
            .path()
            .join(class)
            .join(format!("planted{number}.jpg"));
        let bytes = match number {
            8 => std::fs::read(&item.path).unwrap(),
            _ => as_jpeg(&disguised(&item.decode().unwrap(), number), 60),
        };
        std::fs::write(&path, bytes).unwrap();
        planted.push((item.path.clone(), path));
    }
    let test = Dataset::open_with_classes(folder.path(), train.class_names()).unwrap();
    let found = find(&train, &test);
    let leaks: Vec<_> = found.pairs().iter().filter(|pair| pair.leaks()).collect();
    for (number, (first, second)) in planted.iter().enumerate() {
        let mut pairs = leaks.iter();
        let pair = pairs.find(|pair| pair.first.path == *first && pair.second.path == *second);
        let pair = pair.unwrap_or_else(|| panic!("{}", second.display()));
        assert_eq!(pair.is_exact, number == 8);
        assert_eq!(pair.contradicts(), number == 5);
        assert!(pair.to_string().contains("planted"));
    }
    assert_eq!(leaks.len(), planted.len(), "{leaks:?}");
    // Copies are groups.
    let groups = found.groups();
    let (first, second) = &planted[0];
    assert!(groups.of(first).is_some() && groups.of(first) == groups.of(second));
    assert_ne!(groups.of(first), groups.of(&planted[1].0));
}

#[test]
fn broken_tiny_and_blank_pictures_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let save = |name: &str, picture: RgbImage| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        picture.save_with_format(path, ImageFormat::Png).unwrap();
    };
    let noisy = |side: u32| RgbImage::from_fn(side, side, |x, y| Rgb([(x * 37 + y * 11) as u8; 3]));
    save("a/good.png", noisy(64));
    save("a/tiny.png", noisy(10));
    save("b/blank.png", RgbImage::from_pixel(64, 64, Rgb([200; 3])));
    save(
        "b/blank too.png",
        RgbImage::from_pixel(64, 50, Rgb([201; 3])),
    );
    std::fs::write(folder.path().join("b/broken.jpg"), "not a picture").unwrap();
    let dataset = Dataset::open(folder.path()).unwrap();
    let prints = Fingerprints::of(&dataset).unwrap();
    let mut unfit: Vec<String> = prints
        .unfit()
        .iter()
        .map(|unfit| {
            let name = unfit
                .path
                .file_name()
                .unwrap()
                .to_string_lossy()
                .into_owned();
            format!("{name}: {}", unfit.reason)
        })
        .collect();
    unfit.sort();
    assert_eq!(unfit.len(), 4, "{unfit:?}");
    for (found, wanted) in unfit.iter().zip([
        "blank too.png: blank",
        "blank.png: blank",
        "broken.jpg: ",
        "tiny.png: tiny: 10 × 10",
    ]) {
        assert!(found.starts_with(wanted), "{found}");
    }
    // Two blank pictures are not one.
    let model = model(&dataset).input_size(64, 64).unwrap();
    let features = Features::of(&model, &dataset).unwrap();
    let split = Split {
        name: "all",
        features: &features,
        fingerprints: &prints,
    };
    assert!(Duplicates::of(&[split]).unwrap().pairs().is_empty());
}
