//! The conv base's forward pass: VGG19, frozen, at the notebook's batch and at one full-size picture.

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use headstart::{ConvBase, Weights};

fn forward(criterion: &mut Criterion) {
    let device = Device::cuda_if_available(0).unwrap();
    let base = ConvBase::vgg19(Weights::Random { seed: 1 }, &device)
        .unwrap()
        .frozen();
    let mut group = criterion.benchmark_group("conv_base");
    group.sample_size(10);
    for (pictures, side) in [(20, 64), (1, 64), (1, 224)] {
        let images = Tensor::randn(0f32, 1., (pictures, 3, side, side), &device).unwrap();
        let name = BenchmarkId::new("forward", format!("{pictures}x{side}x{side}"));
        group.bench_with_input(name, &images, |bencher, images| {
            bencher.iter(|| {
                let features = base.forward(images).unwrap();
                device.synchronize().unwrap();
                features
            });
        });
    }
    group.finish();
}

criterion_group!(benches, forward);
criterion_main!(benches);
