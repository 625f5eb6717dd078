//! One training step of 20 pictures, forward, backward and RMSprop, with all blocks frozen, with the last one
//! trainable, and with every block trainable: the notebook's model, VGG19 at 64×64, and every family at 128×128.

use candle_core::Tensor;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use headstart::model::{Arch, Backbone, Mode, Pooling};
use headstart::train::metrics::Loss;
use headstart::{ConvBase, Head, RmsProp, Weights, best_device};

/// Base, side in pixels, and the first block that is trained where the last stage is: the whole of it, not a lone 1×1
/// convolution at its end.
const STEPS: [(&str, usize, &str); 7] = [
    ("vgg19", 64, "block5"),
    ("resnet18", 128, "layer4"),
    ("resnet50", 128, "layer4"),
    ("repvgg_a0", 128, "stages.3"),
    ("tf_efficientnet_lite0", 128, "blocks.6"),
    ("efficientnet_b0", 128, "blocks.6"),
    ("mobilenetv3_large_100", 128, "blocks.5"),
];

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("train_step");
    group.sample_size(10);
    for (name, side, last) in STEPS {
        let arch: Arch = name.parse().unwrap();
        let first = arch.block_names()[0].to_owned();
        for (what, first) in [
            ("frozen", None),
            ("last", Some(last)),
            ("all", Some(&*first)),
        ] {
            let mut step = step(&arch, side, first);
            group.bench_function(BenchmarkId::new(name, what), |bencher| {
                bencher.iter(&mut step)
            });
        }
    }
    group.finish();
}

/// A step of a base whose blocks from `first` on are trainable.
fn step(arch: &Arch, side: usize, first: Option<&str>) -> impl FnMut() + use<> {
    let device = best_device();
    let images = Tensor::randn(0f32, 1., (20, 3, side, side), &device).unwrap();
    let labels: Vec<u32> = (0..20).map(|picture| picture % 2).collect();
    let base = ConvBase::new(arch.clone(), Weights::Random { seed: 1 }, &device);
    let mut base = base.unwrap().frozen();
    if let Some(first) = first {
        base = base.unfreeze_from(first).unwrap();
    }
    // The notebook's head on VGG's small maps, the mean of each map for the others.
    let head = match arch.name() {
        "vgg19" => Head::sigmoid().hidden(132),
        _ => Head::sigmoid().pooling(Pooling::GlobalAverage),
    };
    let loss = Loss::for_head(&head);
    let features = base.output_shape(side, side).unwrap();
    let head = head.build(features, &device).unwrap();
    let variables = base.variables().into_iter().chain(head.variables());
    let variables = variables.map(|(_, var)| var).collect();
    let mut optimizer = RmsProp::new(2e-5).with_variables(variables).unwrap();
    let mut recycled = Vec::new();
    move || {
        let features = base.features(&images, Mode::Train).unwrap();
        let logits = head.forward(&features, Mode::Train, None).unwrap();
        let loss = loss.forward(&logits, &labels).unwrap();
        let gradients = base.backward(&loss, &mut recycled).unwrap();
        recycled = optimizer.step_spending(gradients).unwrap();
        device.synchronize().unwrap();
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
