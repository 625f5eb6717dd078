//! Pictures per second from disk to batches: 100 JPEG-compressed pictures of 220×160 pixels, decoded, resized
//! to 64×64 and, in one case, augmented.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headstart::data::Loader;
use headstart::{Augmenter, DirectoryDataset};
use image::{Rgb, RgbImage};

const PICTURES: usize = 100;

fn loading(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    for index in 0..PICTURES {
        let class = folder
            .path()
            .join(if index % 2 == 0 { "even" } else { "odd" });
        std::fs::create_dir_all(&class).unwrap();
        let shade = index as f32;
        let picture = RgbImage::from_fn(220, 160, |x, y| {
            let wave = |phase: f32| (127.0 + 120.0 * (phase + shade).sin()) as u8;
            Rgb([
                wave(x as f32 / 9.0),
                wave(y as f32 / 7.0),
                wave((x + y) as f32 / 5.0),
            ])
        });
        picture.save(class.join(format!("{index}.jpg"))).unwrap();
    }
    let dataset = DirectoryDataset::open(folder.path()).unwrap();

    let mut group = criterion.benchmark_group("loader");
    group.sample_size(10);
    group.throughput(Throughput::Elements(PICTURES as u64));
    for (name, augmenter) in [("plain", None), ("augmented", Some(Augmenter::notebook()))] {
        group.bench_function(name, |bencher| {
            // A loader without memory: each epoch reads the disk again.
            let mut loader = Loader::new(&dataset, 64, 64).batch_size(20).cache(0);
            if let Some(augmenter) = &augmenter {
                loader = loader.augment(augmenter.clone(), 1);
            }
            bencher.iter(|| {
                loader
                    .epoch(0)
                    .map(|batch| batch.unwrap().labels.len())
                    .sum::<usize>()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, loading);
criterion_main!(benches);
