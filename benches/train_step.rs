//! One training step of the notebook's model, forward, backward and RMSprop: VGG19 at 20×64×64 with all
//! frozen, with block 5 open, and with every block open.

use candle_core::{Device, Tensor};
use candle_nn::Optimizer;
use criterion::{Criterion, criterion_group, criterion_main};
use headstart::model::{Backbone, Mode};
use headstart::train::Loss;
use headstart::{Block, ConvBase, Head, RmsProp, Weights};

fn step(criterion: &mut Criterion) {
    let device = Device::cuda_if_available(0).unwrap();
    let images = Tensor::randn(0f32, 1., (20, 3, 64, 64), &device).unwrap();
    let labels: Vec<u32> = (0..20).map(|picture| picture % 2).collect();
    let mut group = criterion.benchmark_group("train_step");
    group.sample_size(10);
    for (name, first_open) in [
        ("frozen", None),
        ("block5", Some(Block::Conv5)),
        ("all", Some(Block::Conv1)),
    ] {
        let mut base = ConvBase::vgg19(Weights::Random { seed: 1 }, &device)
            .unwrap()
            .frozen();
        if let Some(block) = first_open {
            base = base.unfreeze_from(block).unwrap();
        }
        let head = Head::sigmoid().hidden(132);
        let loss = Loss::for_head(&head);
        let head = head.build([512, 2, 2], &device).unwrap();
        let variables = base.variables().into_iter().chain(head.variables());
        let variables = variables.map(|(_, var)| var).collect();
        let mut optimizer = RmsProp::new(2e-5).with_variables(variables).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let features = Backbone::forward(&base, &images, Mode::Train).unwrap();
                let logits = head.forward(&features, Mode::Train, None).unwrap();
                let loss = loss.forward(&logits, &labels).unwrap();
                optimizer.backward_step(&loss).unwrap();
                device.synchronize().unwrap();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
