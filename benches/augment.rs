//! One picture of 64×64 and one of 224×224 through the notebook's augmentation.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use headstart::Augmenter;
use image::{Rgb, Rgb32FImage};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

fn augment(criterion: &mut Criterion) {
    let augmenter = Augmenter::notebook();
    let mut group = criterion.benchmark_group("augment");
    for side in [64u32, 224] {
        let picture = Rgb32FImage::from_fn(side, side, |x, y| Rgb([x as f32, y as f32, 128.0]));
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        group.bench_function(BenchmarkId::from_parameter(side), |bencher| {
            bencher.iter(|| {
                let params = augmenter.sample(side as usize, side as usize, &mut rng);
                augmenter.apply(&picture, &params)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, augment);
criterion_main!(benches);
