//! Gradients of weights, biases and inputs.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::super::activation::Activation;
use super::super::candle::{Input, backward, dense, run_with_graph};
use super::super::epilogue::{Epilogue, Gate};
use super::super::isa::Isa;
use super::super::method::Method;
use super::super::node::Operation;
use super::super::reference;
use super::super::shape::Shape;
use super::super::weights::Weights;
use super::super::window::{Padding, Window};
use super::super::winograd::parameter_gradients;
use super::network::{Found, Network, layer, numbers, sooner, tensor};
use super::reference::*;
use super::{METHODS, blocked, cases, noise, planar, shapes, size};

/// Runs layers with a graph and holds outputs and gradients against f64. `open` says which take a gradient,
/// `with_input` whether the input does.
///
/// A sum next to zero, or two next to each other in a window, may round to the other side, and the gradient then takes
/// another way: among a million sums some do. A network is linear wherever its gates and winners are the same, so f64
/// takes those of the kernels. That they are the right ones, but for sums that are zero or equal to rounding, is what
/// every layer's outputs are checked for: a wrong gate would be an error as large as the sum it should have let
/// through.
fn check_training(isa: Isa, network: &Network, open: [bool; 3], with_input: bool, seed: u64) {
    let x = noise(network.shape.planar_len(), seed);
    let cotangent = noise(network.output().planar_len(), seed ^ 30);
    let outputs = network.unpooled(isa, &x);
    let expected = network.expected(&outputs, &x, &cotangent);
    // Both ways for gradients to come out; which one a case takes is as random as the rest.
    let gradients_of = if seed.is_multiple_of(2) {
        sooner
    } else {
        Tensor::backward
    };
    let Found {
        output,
        gradients,
        input,
    } = network.run(isa, &open, with_input, &x, &cotangent, gradients_of);
    let what = format!("{isa:?} {:?}, open {open:?}", network.shapes());
    for (index, (outputs, sums)) in outputs.iter().zip(&expected.sums).enumerate() {
        let error = if network.layers[index].relu {
            relative_error(outputs, &relu(sums))
        } else {
            relative_error(outputs, sums)
        };
        assert!(
            error < 1e-5,
            "{what}: outputs of layer {index}: error {error:e}"
        );
    }
    // One layer at a time, as the gates were taken, gives what all of them give.
    let routes = network.routes(&outputs);
    assert!(output == routed(&routes[2], &outputs[2]), "{what}");
    let error = relative_error(&output, &expected.output);
    assert!(error < 1e-5, "{what}: output error {error:e}");
    for (index, [dw, db, added]) in expected.gradients.iter().enumerate() {
        let [weight, bias] = &gradients[index];
        for (found, expected, scale, name) in
            [(weight, dw, dw, "weight"), (bias, db, added, "bias")]
        {
            assert_eq!(
                found.is_some(),
                open[index],
                "{what}: {name} of layer {index}"
            );
            let Some(found) = found else { continue };
            let error = error_beside(found, expected, scale);
            assert!(
                error < 2e-5,
                "{what}: {name} of layer {index}: error {error:e}"
            );
        }
    }
    assert_eq!(input.is_some(), with_input, "{what}: input");
    if let Some(input) = input {
        let error = relative_error(&input, &expected.input);
        assert!(error < 2e-5, "{what}: input: error {error:e}");
    }
}

proptest! {
    #![proptest_config(cases(24))]

    /// The way back of a layer whose input another ReLU made. Training takes the cheapest method: here all are held
    /// to account.
    #[test]
    fn every_method_takes_gradients_back(
        shape in shapes(),
        outputs in size(),
        seed in any::<u64>(),
    ) {
        let whole = shape.with_channels(outputs);
        let dy = noise(whole.planar_len(), seed);
        let weights = noise(outputs * shape.channels * 9, seed ^ 1);
        let gate = noise(shape.planar_len(), seed ^ 2);
        let mut expected = input_gradient(&widened(&dy), shape, &weights, outputs);
        for (dx, gate) in expected.iter_mut().zip(&gate) {
            *dx *= f64::from(u8::from(*gate > 0.0));
        }
        let weights = Weights {
            values: &weights,
            out_channels: outputs,
            in_channels: shape.channels,
            size: 3,
            scale: None,
            transposed: true,
        };
        let gate = blocked(shape, &gate);
        let epilogue = Epilogue {
            gate: Gate::of(Activation::Relu, &gate),
            ..Epilogue::default()
        };
        for method in METHODS {
            let dy = match method {
                Method::DirectPlanar => dy.clone(),
                _ => blocked(whole, &dy),
            };
            for isa in Isa::available() {
                let mut dx = vec![f32::NAN; shape.blocked_len()];
                method.convolve(isa, &dy, whole, Window::SAME_3X3, &weights, None, &epilogue, &mut dx);
                let error = relative_error(&planar(shape, &dx), &expected);
                prop_assert!(error < 1e-5, "{isa:?} {method:?} {shape:?} → {outputs}: error {error:e}");
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn gradients_of_a_run_are_those_of_f64(
        shape in shapes(),
        channels in prop::array::uniform3(size()),
        seed in any::<u64>(),
        open in prop::array::uniform3(any::<bool>()),
        with_input in any::<bool>(),
        relu in prop::array::uniform3(any::<bool>()),
        pool in prop::array::uniform3(any::<bool>()),
    ) {
        // A pool needs two pixels each way.
        let mut side = shape.height.min(shape.width);
        let pool = pool.map(|pool| {
            let pool = pool && side > 1;
            side /= if pool { 2 } else { 1 };
            pool
        });
        let open = if open == [false; 3] && !with_input { [true; 3] } else { open };
        let network = Network::random(shape, &channels, &relu, &pool, seed);
        for isa in Isa::available() {
            check_training(isa, &network, open, with_input, seed);
        }
    }
}

#[test]
fn weight_gradients_of_many_tiles_take_several_chunks() {
    let input = Shape {
        batch: 3,
        channels: 33,
        height: 61,
        width: 118,
    };
    let output = input.with_channels(48);
    let (x, dy) = (noise(input.planar_len(), 1), noise(output.planar_len(), 2));
    let expected = weight_gradient(&widened(&x), input, &widened(&dy), 48);
    let (x, dy) = (blocked(input, &x), blocked(output, &dy));
    for isa in Isa::available() {
        let mut dw = vec![f32::NAN; expected.len()];
        parameter_gradients(
            isa,
            &x,
            input,
            Window::SAME_3X3,
            &dy,
            &mut dw,
            &mut [0.0; 48],
        );
        let error = relative_error(&dw, &expected);
        assert!(error < 1e-5, "{isa:?}: error {error:e}");
    }
}

#[test]
fn threads_change_no_bit() {
    let shape = Shape {
        batch: 3,
        channels: 20,
        height: 37,
        width: 30,
    };
    let (weights, bias) = (noise(50 * 20 * 9, 1), noise(50, 2));
    let (x, cotangent) = (noise(shape.planar_len(), 3), noise(3 * 50 * 18 * 15, 4));
    for isa in Isa::available() {
        let run = || {
            let weight = Tensor::from_slice(&weights, (50, 20, 3, 3), &Device::Cpu).unwrap();
            let bias = Tensor::from_slice(&bias, 50, &Device::Cpu).unwrap();
            let (weight, bias) = (
                Var::from_tensor(&weight).unwrap(),
                Var::from_tensor(&bias).unwrap(),
            );
            let parameters = [&weight, &bias].map(|variable| variable.as_tensor().clone());
            let nodes = [layer(0, parameters, true, true)];
            let y = run_with_graph(isa, &nodes, Input::Planar(tensor(&x, shape)), shape).unwrap();
            let cotangent = Tensor::from_slice(&cotangent, y.shape(), &Device::Cpu).unwrap();
            let loss = (&y * cotangent).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            [
                &y,
                gradients.get(&weight).unwrap(),
                gradients.get(&bias).unwrap(),
            ]
            .map(|tensor| {
                let values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
                values.into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            })
        };
        let in_pool = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            pool.install(run)
        };
        let one = in_pool(1);
        for threads in [2, 3, 5] {
            assert!(
                in_pool(threads) == one,
                "{isa:?}: {threads} threads differ from one"
            );
        }
    }
}

#[test]
fn gradients_that_go_around_candle_add_up_as_in_it() {
    let shape = Shape {
        batch: 2,
        channels: 16,
        height: 6,
        width: 9,
    };
    let weight = Tensor::from_vec(noise(16 * 16 * 9, 1), (16, 16, 3, 3), &Device::Cpu).unwrap();
    let bias = Tensor::from_vec(noise(16, 2), 16, &Device::Cpu).unwrap();
    let (weight, bias) = (
        Var::from_tensor(&weight).unwrap(),
        Var::from_tensor(&bias).unwrap(),
    );
    let run = |seed| {
        let parameters = [&weight, &bias].map(|variable| variable.as_tensor().clone());
        let x = Input::Planar(tensor(&noise(shape.planar_len(), seed), shape));
        run_with_graph(Isa::best(), &[layer(0, parameters, true, false)], x, shape).unwrap()
    };
    // The same variables in two runs, and once outside of any.
    let loss = ((run(3).sqr().unwrap() + run(4)).unwrap().sum_all().unwrap()
        + weight.sqr().unwrap().sum_all().unwrap())
    .unwrap();
    // A spent tensor may hold anything, and is taken.
    let mut spent = vec![(weight.ones_like().unwrap() * f64::NAN).unwrap()];
    let found = backward(&loss, &mut spent).unwrap();
    assert!(spent.is_empty());
    let candle = loss.backward().unwrap();
    for var in [&weight, &bias] {
        let numbers = |store: &candle_core::backprop::GradStore| -> Vec<f32> {
            let gradient = store.get(var).unwrap();
            gradient.flatten_all().unwrap().to_vec1().unwrap()
        };
        let expected: Vec<f64> = numbers(&candle).into_iter().map(f64::from).collect();
        let error = relative_error(&numbers(&found), &expected);
        assert!(error < 1e-6, "error {error:e}");
    }
}

/// What stands before a run takes its gradient from it, whatever lies in between.
#[test]
fn a_graph_goes_on_before_the_run() {
    let shape = Shape {
        batch: 2,
        channels: 5,
        height: 7,
        width: 6,
    };
    let network = Network::random(shape, &[18, 7], &[false, true], &[true, false], 4);
    let x = noise(shape.planar_len(), 1);
    let outputs = network.unpooled(Isa::best(), &x);
    let cotangent = noise(network.output().planar_len(), 2);
    let expected = network.expected(&outputs, &x, &cotangent).input;
    // (N, H, W, C), half of the numbers.
    let halved = tensor(&x, shape).permute((0, 2, 3, 1)).unwrap();
    let halved = Var::from_tensor(&(halved.contiguous().unwrap() * 0.5).unwrap()).unwrap();
    let planar = (halved.permute((0, 3, 1, 2)).unwrap() * 2.0).unwrap();
    let layers = network.layers.iter().zip(network.variables()).enumerate();
    let layers = layers.map(|(index, (of_layer, variables))| {
        let parameters = variables.each_ref().map(Var::as_detached_tensor);
        layer(index, parameters, of_layer.relu, of_layer.pool)
    });
    let layers: Vec<_> = layers.collect();
    let y = run_with_graph(Isa::best(), &layers, Input::Planar(planar), shape).unwrap();
    let cotangent = Tensor::from_slice(&cotangent, y.shape(), &Device::Cpu).unwrap();
    let loss = (y * cotangent).unwrap().sum_all().unwrap();
    for gradients_of in [sooner, Tensor::backward] {
        let store = gradients_of(&loss).unwrap();
        let found = store.get(&halved).unwrap().permute((0, 3, 1, 2)).unwrap();
        let expected: Vec<f64> = expected.iter().map(|dx| 2.0 * dx).collect();
        let error = relative_error(&numbers(&found), &expected);
        assert!(error < 1e-5, "error {error:e}");
    }
}

/// Products over pixels that are cut in every way: a few images at a time, parts of an image, several images together,
/// maps gathered. What candle makes of it in f64.
#[test]
fn weight_gradients_of_any_cut_are_candles_in_f64() {
    let window = |kernel, stride, padding| Window {
        kernel,
        stride,
        padding: Padding::even(padding),
    };
    // Images, channels, side, outputs.
    for ([batch, channels, side, outputs], window) in [
        ([5, 3, 97, 20], window(7, 2, 3)),
        ([3, 1, 40, 17], Window::SAME_3X3),
        ([40, 24, 64, 20], window(3, 2, 1)),
        ([70, 40, 4, 50], Window::POINTWISE),
        ([70, 40, 7, 8], window(1, 2, 0)),
        ([2, 200, 30, 200], Window::POINTWISE),
    ] {
        let shape = Shape {
            batch,
            channels,
            height: side,
            width: side,
        };
        let tensor = |seed, dims: &[usize]| {
            let numbers = noise(dims.iter().product(), seed);
            Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap()
        };
        let weight = tensor(1, &[outputs, channels, window.kernel, window.kernel]);
        let (weight, bias) = (Var::from_tensor(&weight).unwrap(), tensor(2, &[outputs]));
        let x = tensor(3, &shape.dims());
        let dims = window.output(shape).with_channels(outputs).dims();
        let cotangent = tensor(4, &dims).to_dtype(DType::F64).unwrap();
        let of = |y: &Tensor| {
            let y = y.to_dtype(DType::F64).unwrap();
            let loss = (y * &cotangent).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let found = gradients.get(&weight).unwrap().flatten_all().unwrap();
            let found = found.to_dtype(DType::F64).unwrap();
            found.to_vec1::<f64>().unwrap()
        };
        let double = |x: &Tensor| x.to_dtype(DType::F64).unwrap();
        let y = reference::convolution(&double(&x), &double(&weight), window, 1).unwrap();
        let expected = of(&y);
        for isa in Isa::available() {
            let parameters = [weight.as_tensor().clone(), bias.clone()];
            let mut node = layer(0, parameters, false, false);
            let Operation::Conv(conv) = &mut node.operation else {
                unreachable!()
            };
            conv.window = window;
            let input = Input::Planar(x.clone());
            let found = of(&run_with_graph(isa, &[node], input, shape).unwrap());
            let found: Vec<f32> = found.into_iter().map(|number| number as f32).collect();
            let error = relative_error(&found, &expected);
            assert!(error < 1e-5, "{isa:?} {shape:?} {window:?}: {error:e}");
        }
    }
}

/// A weight times a number for each output, as a batch norm leaves it: what candle makes of the product in f64.
#[test]
fn a_scaled_weight_and_its_scale_take_gradients() {
    let shape = Shape {
        batch: 2,
        channels: 19,
        height: 7,
        width: 9,
    };
    let variable = |seed, dims: &[usize]| {
        let numbers = noise(dims.iter().product(), seed);
        Var::from_tensor(&Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap()).unwrap()
    };
    let (weight, scale) = (variable(1, &[37, 19, 3, 3]), variable(2, &[37]));
    let (bias, x) = (variable(3, &[37]), variable(4, &shape.dims()));
    let double = |var: &Var| var.as_tensor().to_dtype(DType::F64).unwrap();
    let by_output = double(&scale).reshape((37, 1, 1, 1)).unwrap();
    let product = double(&weight).broadcast_mul(&by_output).unwrap();
    let window = Window::SAME_3X3;
    let sums = reference::convolution(&double(&x), &product, window, 1).unwrap();
    let expected = reference::bias_activation(&sums, &double(&bias), Activation::Silu).unwrap();
    let store = expected
        .sqr()
        .unwrap()
        .sum_all()
        .unwrap()
        .backward()
        .unwrap();
    for isa in Isa::available() {
        let parameters = [weight.as_tensor().clone(), bias.as_tensor().clone()];
        let mut nodes = [layer(0, parameters, false, false)];
        let Operation::Conv(conv) = &mut nodes[0].operation else {
            unreachable!()
        };
        conv.activation = Activation::Silu;
        conv.scale = Some(scale.as_tensor().clone());
        for gradients_of in [sooner, Tensor::backward] {
            let input = Input::Planar(x.as_tensor().clone());
            let y = run_with_graph(isa, &nodes, input, shape).unwrap();
            let found = gradients_of(&y.sqr().unwrap().sum_all().unwrap()).unwrap();
            for var in [&weight, &scale, &bias, &x] {
                let expected = store.get(var).unwrap().flatten_all().unwrap();
                let expected = expected
                    .to_dtype(DType::F64)
                    .unwrap()
                    .to_vec1::<f64>()
                    .unwrap();
                let error = relative_error(&numbers(found.get(var).unwrap()), &expected);
                assert!(error < 1e-5, "{isa:?} {:?}: {error:e}", var.dims());
            }
        }
    }
}

/// A dense layer's product and its gradients, also around candle, are those of candle's own matrices in f64.
#[test]
fn a_dense_product_takes_gradients() {
    let variable = |seed, dims: &[usize]| {
        let numbers = noise(dims.iter().product(), seed);
        Var::from_tensor(&Tensor::from_vec(numbers, dims, &Device::Cpu).unwrap()).unwrap()
    };
    let (x, weight) = (variable(1, &[7, 300]), variable(2, &[11, 300]));
    let double = |var: &Var| var.as_tensor().to_dtype(DType::F64).unwrap();
    let product = double(&x).matmul(&double(&weight).t().unwrap()).unwrap();
    let store = product.sqr().unwrap().sum_all().unwrap();
    let expected_store = store.backward().unwrap();
    let numbers_of = |tensor: &Tensor| -> Vec<f64> {
        let tensor = tensor.to_dtype(DType::F64).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    };
    for gradients_of in [sooner, Tensor::backward] {
        let y = dense(&x, &weight).unwrap();
        let error = relative_error(&numbers(&y), &numbers_of(&product));
        assert!(error < 1e-6, "{error:e}");
        let found = gradients_of(&y.sqr().unwrap().sum_all().unwrap()).unwrap();
        for var in [&x, &weight] {
            let expected = numbers_of(expected_store.get(var).unwrap());
            let error = relative_error(&numbers(found.get(var).unwrap()), &expected);
            assert!(error < 1e-6, "{error:e}");
        }
    }
    // Without a graph, and of another type, it is candle's.
    let plain = dense(x.as_tensor(), &weight.as_detached_tensor()).unwrap();
    assert_eq!(plain.dims(), [7, 11]);
    assert_eq!(
        dense(&double(&x), &double(&weight)).unwrap().dims(),
        [7, 11]
    );
}
