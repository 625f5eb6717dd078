use candle_core::{Device, Tensor};
use headstart::{ConvBase, Weights};
use std::time::Instant;
fn main() {
    let d = Device::Cpu;
    let base = ConvBase::vgg19(Weights::Random { seed: 1 }, &d).unwrap().frozen();
    for (n, s) in [(20, 64), (1, 64), (1, 224), (8, 224)] {
        let x = Tensor::randn(0f32, 1., (n, 3, s, s), &d).unwrap();
        base.forward(&x).unwrap();
        let mut t: Vec<f64> = (0..if s * n > 1000 { 6 } else { 15 }).map(|_| { let i = Instant::now(); base.forward(&x).unwrap(); i.elapsed().as_secs_f64() * 1e3 }).collect();
        t.sort_by(f64::total_cmp);
        println!("{n}x{s}: median {:.1} min {:.1} ms", t[t.len() / 2], t[0]);
    }
}
