//! What is done for devices' sake in candle's operations, tried on the CPU.

use candle_core::{Device, Tensor, Var};
use proptest::prelude::*;

use super::super::reference::{in_parts, max_pool};
use super::super::window::Window;
use super::super::{reference, weight_only};
use super::windows::cases_of_windows;
use super::{cases, noise};

fn maps(dims: [usize; 4], seed: u64) -> Tensor {
    let numbers = noise(dims.iter().product(), seed);
    Tensor::from_vec(numbers, &dims, &Device::Cpu).unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let numbers: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    // A sum with zero makes 0 of −0.
    numbers.iter().map(|x| (x + 0.0).to_bits()).collect()
}

/// The gradient of the weighted sum of what `run` makes of a variable.
fn gradient(of: &Tensor, run: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let var = Var::from_tensor(of).unwrap();
    let y = run(var.as_tensor());
    let slopes = maps(y.dims().try_into().unwrap(), 9);
    let loss = (y * slopes).unwrap().sum_all().unwrap();
    loss.backward().unwrap().get(&var).unwrap().clone()
}

#[test]
fn the_gradient_of_the_weight_alone_is_the_one_with_the_maps() {
    for stride in 1..=2 {
        let (x, weight) = (maps([3, 4, 9, 11], 1), maps([5, 4, 3, 3], 2));
        let with_maps = gradient(&weight, |weight| x.conv2d(weight, 0, stride, 1, 1).unwrap());
        let alone = gradient(&weight, |weight| {
            let y = weight_only::convolution(&x, weight, stride).unwrap();
            assert_eq!(bits(&y), bits(&x.conv2d(weight, 0, stride, 1, 1).unwrap()));
            y
        });
        assert_eq!(bits(&alone), bits(&with_maps));
        // Where the maps are a variable's, they get theirs.
        let dx = gradient(&x, |x| {
            let weight = Var::from_tensor(&weight).unwrap();
            reference::convolution(x, weight.as_tensor(), window(3, stride), 1).unwrap()
        });
        assert_eq!(dx.dims(), x.dims());
    }
}

fn window(kernel: usize, stride: usize) -> Window {
    Window {
        kernel,
        stride,
        ..Window::POINTWISE
    }
}

#[test]
fn a_batch_in_parts_is_the_batch_in_one() {
    let (x, weight) = (maps([7, 4, 6, 5], 3), maps([6, 4, 3, 3], 4));
    for (together, groups) in [(1, 1), (2, 1), (3, 1), (7, 1), (2, 2)] {
        let weight = weight.narrow(1, 0, 4 / groups).unwrap();
        let weight = weight.contiguous().unwrap();
        let parts = |x: &Tensor, weight: &Tensor| in_parts(x, weight, 1, groups, together).unwrap();
        let whole = |x: &Tensor, weight: &Tensor| x.conv2d(weight, 0, 1, 1, groups).unwrap();
        assert_eq!(bits(&parts(&x, &weight)), bits(&whole(&x, &weight)));
        let dx = gradient(&x, |x| parts(x, &weight));
        assert_eq!(bits(&dx), bits(&gradient(&x, |x| whole(x, &weight))));
        let dw = gradient(&weight, |weight| parts(&x, weight));
        let expected = gradient(&weight, |weight| whole(&x, weight));
        let error = (dw - expected).unwrap().abs().unwrap().max_all().unwrap();
        assert!(error.to_scalar::<f32>().unwrap() < 1e-5);
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn a_pool_without_a_graph_is_the_one_with_it(
        (shape, window) in cases_of_windows(),
        seed: u64,
        odd in prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0]),
    ) {
        let dims = [shape.batch, shape.channels, shape.height, shape.width];
        let mut numbers = noise(dims.iter().product(), seed);
        let place = seed as usize % numbers.len();
        numbers[place] = odd;
        let x = Tensor::from_vec(numbers, &dims, &Device::Cpu).unwrap();
        let padding = window.padding.top;
        prop_assume!(shape.height.min(shape.width) + 2 * padding >= window.kernel);
        let pool = |x: &Tensor| max_pool(x, window.kernel, window.stride, padding).unwrap();
        let without: Vec<f32> = pool(&x).flatten_all().unwrap().to_vec1().unwrap();
        let with = pool(Var::from_tensor(&x).unwrap().as_tensor());
        let with: Vec<f32> = with.flatten_all().unwrap().to_vec1().unwrap();
        for (a, b) in without.iter().zip(&with) {
            prop_assert!(a == b || a.is_nan() && b.is_nan(), "{a} {b}");
        }
    }
}
