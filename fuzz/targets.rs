//! What may be done with bytes from outside, one function a door: each may refuse, none may panic, hang, take memory
//! without bound or answer with what is no number. cargo-fuzz calls them, and so does `tests/train/fuzz.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use headstart::data::{Loader, decode_bytes};
use headstart::model::{Pooling, Vgg};
use headstart::study::{Doubt, Features, Gallery};
use headstart::{
    Checkpoints, Classifier, ConvBase, Dataset, Device, FeatureCache, Head, Sgd, Trainer, Weights,
};
use image::{DynamicImage, Rgb, RgbImage};
use tempfile::TempDir;

#[cfg(feature = "hub")]
#[path = "hub.rs"]
mod hub;
#[path = "options.rs"]
mod options;
#[path = "reseal.rs"]
mod reseal;
#[path = "run_files.rs"]
mod run_files;

#[cfg(feature = "hub")]
pub use hub::hub;
pub use options::options;
#[cfg(feature = "cli")]
pub use run_files::config;
pub use run_files::{history, metrics, study};

/// A door: its name, what goes through it, and whole files to begin with.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "model",
        run: model,
        seeds: model_seeds,
    },
    Target {
        name: "weights",
        run: weights,
        seeds: weights_seeds,
    },
    Target {
        name: "checkpoint",
        run: checkpoint,
        seeds: checkpoint_seeds,
    },
    Target {
        name: "features",
        run: features,
        seeds: features_seeds,
    },
    Target {
        name: "gallery",
        run: gallery,
        seeds: gallery_seeds,
    },
    Target {
        name: "picture",
        run: picture,
        seeds: picture_seeds,
    },
    Target {
        name: "tar",
        run: tar,
        seeds: tar_seeds,
    },
    #[cfg(feature = "hub")]
    Target {
        name: "hub",
        run: hub,
        seeds: hub::seeds,
    },
    Target {
        name: "history",
        run: history,
        seeds: run_files::history_seeds,
    },
    Target {
        name: "metrics",
        run: metrics,
        seeds: run_files::metrics_seeds,
    },
    Target {
        name: "study",
        run: study,
        seeds: run_files::study_seeds,
    },
    #[cfg(feature = "cli")]
    Target {
        name: "config",
        run: config,
        seeds: run_files::config_seeds,
    },
    Target {
        name: "options",
        run: options,
        seeds: options::seeds,
    },
];

/// A VGG11 of very few numbers.
fn vgg() -> Vgg {
    Vgg::Vgg11.width(1.0 / 64.0).expect("a width in range")
}

fn fresh() -> Classifier {
    of_seed(3)
}

fn of_seed(seed: u64) -> Classifier {
    let base = ConvBase::new(vgg(), Weights::Random { seed }, &Device::Cpu);
    let head = Head::softmax(2).hidden(3).pooling(Pooling::GlobalAverage);
    let model = Classifier::new(base.expect("a base").frozen(), head, &["ant", "bee"]);
    model
        .and_then(|model| model.input_size(32, 32))
        .expect("a model")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder for files")
}

/// A file of these bytes, and the same with whatever checksum it has made right, so that damage gets past it.
fn with_and_without_seal(data: &[u8], kind: reseal::Kind, mut open: impl FnMut(&Path)) {
    let folder = folder();
    let path = folder.path().join("file");
    let resealed = reseal::reseal(data, kind);
    for bytes in std::iter::once(data).chain(resealed.as_deref()) {
        fs::write(&path, bytes).expect("room for a file");
        open(&path);
    }
}

fn small(height: usize, width: usize) -> bool {
    height.saturating_mul(width) <= 1 << 14
}

/// A saved classifier: what loads answers with numbers or an error, and what it saves loads again.
pub fn model(data: &[u8]) {
    with_and_without_seal(data, reseal::Kind::Blake3, |path| {
        let Ok(model) = Classifier::load(path, &Device::Cpu) else {
            return;
        };
        let (height, width) = model.size();
        let _ = model.summary().to_string();
        if !small(height, width) {
            return;
        }
        if let Ok(prediction) = model.predict(DynamicImage::new_rgb8(40, 30)) {
            for class in model.class_names() {
                let probability = prediction.probability(class).expect("its own class");
                assert!((0.0..=1.0).contains(&probability), "{class}: {probability}");
            }
        }
        model.save(path).expect("what was loaded can be saved");
        Classifier::load(path, &Device::Cpu).expect("what was saved can be loaded");
    });
}

fn model_seeds() -> Vec<Vec<u8>> {
    let folder = folder();
    let path = folder.path().join("model");
    fresh().save(&path).expect("a saved model");
    let plain = fs::read(&path).expect("the file that was saved");
    // Of so few random numbers many come to nothing, and then to nothing that could be doubted.
    let doubting = (0..100).find_map(|seed| {
        let mut model = of_seed(seed);
        let features = Features::of(&model, &pictures()).ok()?;
        Doubt::teach(&mut model, &features, &features, 0.5).ok()?;
        Some(model)
    });
    let doubting = doubting.expect("a network that tells pictures apart");
    doubting.save(&path).expect("a saved model");
    vec![plain, fs::read(path).expect("the file that was saved")]
}

/// A base's weights: what loads computes.
pub fn weights(data: &[u8]) {
    with_and_without_seal(data, reseal::Kind::Blake3, |path| {
        let Ok(base) = ConvBase::new(vgg(), Weights::file(path), &Device::Cpu) else {
            return;
        };
        let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
        let model = Classifier::new(base, head, &["a", "b"]).expect("a head on a base");
        // Weights that are finite may still multiply to what is not, which is an error then.
        let _ = model.predict(DynamicImage::new_rgb8(40, 30));
    });
}

fn weights_seeds() -> Vec<Vec<u8>> {
    let folder = folder();
    let path = folder.path().join("base");
    let types = [candle_core::DType::F16, candle_core::DType::F32];
    let save = |dtype| {
        fresh()
            .base()
            .save(&path, dtype, &[])
            .expect("saved weights");
        fs::read(&path).expect("the file that was saved")
    };
    types.into_iter().map(save).chain(model_seeds()).collect()
}

fn pictures() -> Dataset {
    let images = (0..4u8).map(|number| {
        let image = RgbImage::from_fn(32, 32, |x, y| {
            Rgb([(x * 7) as u8, (y * 5) as u8, number.wrapping_mul(60)])
        });
        (DynamicImage::from(image), usize::from(number % 2))
    });
    Dataset::from_images(images, &["ant", "bee"]).expect("four pictures")
}

fn trainer() -> Trainer {
    Trainer::new(Sgd::new(0.01).momentum(0.9))
        .epochs(1)
        .batch_size(2)
}

/// A checkpoint: a run goes on from it, or begins afresh, or refuses.
pub fn checkpoint(data: &[u8]) {
    for bytes in std::iter::once(data).chain(reseal::reseal(data, reseal::Kind::Crc32).as_deref()) {
        let folder = folder();
        fs::write(
            folder.path().join("checkpoint-00001-000000.safetensors"),
            bytes,
        )
        .expect("room for a file");
        let resumed = trainer().epochs(2).resume(folder.path());
        let mut model = fresh();
        if let Ok(history) = resumed.fit(&mut model, &pictures(), &pictures()) {
            // One, where the file says that the run was stopped.
            assert!((1..=2).contains(&history.epochs.len()));
            assert!(model.predict(DynamicImage::new_rgb8(40, 30)).is_ok());
        }
    }
}

fn checkpoint_seeds() -> Vec<Vec<u8>> {
    let folder = folder();
    let kept = trainer().checkpoint(Checkpoints::new(folder.path()).every_steps(1).keep(9));
    kept.fit(&mut fresh(), &pictures(), &pictures())
        .expect("a run");
    contents(folder.path(), "checkpoint-")
}

/// Cached features: a file that is not the one that was written changes nothing.
pub fn features(data: &[u8]) {
    let folder = folder();
    let run = || {
        let cached = trainer().feature_cache(FeatureCache::on_disk(folder.path()));
        let history = cached
            .fit(&mut fresh(), &pictures(), &pictures())
            .expect("a run");
        let epoch = &history.epochs[0];
        [epoch.loss, epoch.val_loss.expect("a validation")].map(f64::to_bits)
    };
    let expected = run();
    let files = files(folder.path(), "");
    assert!(!files.is_empty());
    for path in files {
        fs::write(path, data).expect("room for a file");
    }
    assert_eq!(run(), expected);
}

fn features_seeds() -> Vec<Vec<u8>> {
    let folder = folder();
    let cached = trainer().feature_cache(FeatureCache::on_disk(folder.path()));
    cached
        .fit(&mut fresh(), &pictures(), &pictures())
        .expect("a run");
    contents(folder.path(), "")
}

/// A gallery: what loads answers with numbers, and what it saves loads again.
pub fn gallery(data: &[u8]) {
    with_and_without_seal(data, reseal::Kind::Blake3, |path| {
        let Ok(gallery) = Gallery::load(path) else {
            return;
        };
        if let Ok(nearest) = gallery.nearest(&[0.5; 3], 2) {
            for neighbour in nearest {
                assert!(!neighbour.similarity.is_nan(), "{neighbour:?}");
            }
        }
        gallery.save(path).expect("what was loaded can be saved");
        Gallery::load(path).expect("what was saved can be loaded");
    });
}

fn gallery_seeds() -> Vec<Vec<u8>> {
    let folder = folder();
    let path = folder.path().join("gallery");
    let rows = vec![1.0, 0.0, 2.0, 0.5, 1.5, 0.0, 3.0, 1.0, 0.25];
    let features = Features::from_rows(rows, 3, &[0, 1, 0], &["ant", "bee"]);
    let gallery = Gallery::of(&features.expect("three rows"));
    gallery.save(&path).expect("a saved gallery");
    vec![fs::read(path).expect("the file that was saved")]
}

fn files(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of ours");
    let paths = entries.map(|entry| entry.expect("an entry of ours").path());
    let named = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        path.is_file() && name.starts_with(prefix) && name.ends_with(".safetensors")
    };
    let mut files: Vec<PathBuf> = paths.filter(named).collect();
    files.sort();
    files
}

fn contents(folder: &Path, prefix: &str) -> Vec<Vec<u8>> {
    let files = files(folder, prefix).into_iter();
    files
        .map(|path| fs::read(path).expect("a file of ours"))
        .collect()
}

/// A picture: pixels of a size in bounds, or an error.
pub fn picture(data: &[u8]) {
    if let Ok(picture) = decode_bytes(data) {
        let (width, height) = picture.dimensions();
        assert!((1..=65_535).contains(&width) && (1..=65_535).contains(&height));
        if small(height as usize, width as usize) {
            headstart::data::resize(&picture, 16, 24, headstart::Resize::Bilinear);
        }
    }
}

fn picture_seeds() -> Vec<Vec<u8>> {
    let image = RgbImage::from_fn(13, 9, |x, y| Rgb([(x * 19) as u8, (y * 28) as u8, 90]));
    let formats = ["png", "jpg", "bmp", "gif", "tif", "webp"];
    let encoded = formats.iter().map(|extension| encode(&image, extension));
    encoded.collect()
}

/// A picture's file of this extension.
pub fn encode(image: &RgbImage, extension: &str) -> Vec<u8> {
    match extension {
        "gif" => gif(image),
        "tif" => tiff(image),
        _ => {
            let format = image::ImageFormat::from_extension(extension).expect("a format");
            let mut bytes = std::io::Cursor::new(Vec::new());
            image.write_to(&mut bytes, format).expect("an encoder");
            bytes.into_inner()
        }
    }
}

fn gif(image: &RgbImage) -> Vec<u8> {
    let [width, height] = [image.width(), image.height()].map(|side| side as u16);
    let mut bytes = Vec::new();
    // Six levels of each colour.
    let palette: Vec<u8> = (0..216u8)
        .flat_map(|color| [color / 36, color / 6 % 6, color % 6].map(|level| level * 51))
        .collect();
    let nearest = |Rgb([r, g, b]): &Rgb<u8>| r / 51 * 36 + g / 51 * 6 + b / 51;
    let pixels: Vec<u8> = image.pixels().map(nearest).collect();
    let mut encoder = gif::Encoder::new(&mut bytes, width, height, &palette).expect("a header");
    let frame = gif::Frame::from_indexed_pixels(width, height, pixels, None);
    encoder.write_frame(&frame).expect("a frame");
    drop(encoder);
    bytes
}

/// An uncompressed one of one strip: the header, the pixels, their three depths, and the directory.
fn tiff(image: &RgbImage) -> Vec<u8> {
    const HEADER: u32 = 8;
    let pixels = image.as_raw();
    // What follows begins at an even place.
    let depths = (HEADER + pixels.len() as u32).next_multiple_of(2);
    let mut bytes = b"II*\0".to_vec();
    bytes.extend((depths + 6).to_le_bytes());
    bytes.extend(pixels);
    bytes.resize(depths as usize, 0);
    bytes.extend([8u16; 3].map(u16::to_le_bytes).concat());
    // Tag, type (3: two bytes, 4: four bytes), count, and the value or where it is.
    let entries: [(u16, u16, u32, u32); 9] = [
        (256, 4, 1, image.width()),
        (257, 4, 1, image.height()),
        (258, 3, 3, depths),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, HEADER),
        (277, 3, 1, 3),
        (278, 4, 1, image.height()),
        (279, 4, 1, pixels.len() as u32),
    ];
    bytes.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in entries {
        bytes.extend([tag, kind].map(u16::to_le_bytes).concat());
        bytes.extend([count, value].map(u32::to_le_bytes).concat());
    }
    bytes.extend(0u32.to_le_bytes());
    bytes
}

/// A tar archive: what opens gives batches, or problems with names.
pub fn tar(data: &[u8]) {
    let folder = folder();
    let path = folder.path().join("archive.tar");
    fs::write(&path, data).expect("room for a file");
    if let Ok(dataset) = Dataset::open_tar(&[&path]) {
        let batches = Loader::new(&dataset, 8, 8).batch_size(4).epoch(0);
        for batch in batches.flatten() {
            assert!(
                batch
                    .labels
                    .iter()
                    .all(|label| (*label as usize) < dataset.class_names().len())
            );
        }
        let _ = dataset.problem_summary();
    }
}

fn tar_seeds() -> Vec<Vec<u8>> {
    let png = picture_seeds().swap_remove(0);
    let archive = |members: &[(&str, &[u8])]| {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, *content)
                .expect("a member");
        }
        tar.into_inner().expect("an archive")
    };
    let long = format!("train/{}/1.png", "a".repeat(150));
    vec![
        archive(&[("a/1.png", &png), ("b/1.png", &png)]),
        archive(&[
            ("0.png", &png),
            ("0.cls", b"1"),
            ("1.png", &png),
            ("1.cls", b"0"),
            ("classes.txt", b"x\ny"),
        ]),
        archive(&[(&long, &png), ("train/b/1.png", &png)]),
    ]
}
