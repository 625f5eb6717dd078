//! The conv base's forward pass, frozen: VGG19 at the notebook's batch, and every family at one and at eight full-size
//! pictures.

use candle_core::Tensor;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use headstart::model::Arch;
use headstart::{ConvBase, Weights, best_device};

/// Base, pictures, side in pixels.
const FORWARDS: [(&str, usize, usize); 15] = [
    ("vgg19", 20, 64),
    ("vgg19", 1, 64),
    ("vgg19", 1, 224),
    ("resnet18", 1, 224),
    ("resnet18", 8, 224),
    ("resnet50", 1, 224),
    ("resnet50", 8, 224),
    ("repvgg_a0", 1, 224),
    ("repvgg_a0", 8, 224),
    ("tf_efficientnet_lite0", 1, 224),
    ("tf_efficientnet_lite0", 8, 224),
    ("efficientnet_b0", 1, 224),
    ("efficientnet_b0", 8, 224),
    ("mobilenetv3_large_100", 1, 224),
    ("mobilenetv3_large_100", 8, 224),
];

fn forward(criterion: &mut Criterion) {
    let device = best_device();
    let mut group = criterion.benchmark_group("conv_base");
    group.sample_size(10);
    for (name, pictures, side) in FORWARDS {
        let arch: Arch = name.parse().unwrap();
        let base = ConvBase::new(arch, Weights::Random { seed: 1 }, &device);
        let base = base.unwrap().frozen();
        let images = Tensor::randn(0f32, 1., (pictures, 3, side, side), &device).unwrap();
        let id = BenchmarkId::new(name, format!("{pictures}x{side}x{side}"));
        group.bench_with_input(id, &images, |bencher, images| {
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
