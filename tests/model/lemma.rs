//! A sigmoid is a two-class softmax: one unit with weights w1 − w0 and bias b1 − b0 gives the probabilities, the
//! loss and the gradients of the two units (w0, b0), (w1, b1).

use candle_core::{Device, Tensor, Var};
use headstart::Head;
use headstart::model::{HeadLayers, Mode};
use headstart::train::metrics::Loss;
use proptest::prelude::*;

const CHANNELS: usize = 6;

/// Features (N, C, 1, 1) with labels, and how large the largest logit may get.
#[derive(Clone, Debug)]
struct Case {
    features: Vec<Vec<f32>>,
    labels: Vec<u32>,
    largest_logit: f32,
    seed: u64,
    hidden: bool,
}

fn case() -> impl Strategy<Value = Case> {
    (
        1usize..9,
        prop_oneof![Just(80f32), 0.01f32..80.0],
        any::<u64>(),
        any::<bool>(),
    )
        .prop_flat_map(|(pictures, largest_logit, seed, hidden)| {
            let row = prop::collection::vec(-1f32..1.0, CHANNELS);
            (
                prop::collection::vec(row, pictures),
                prop::collection::vec(0u32..2, pictures),
            )
                .prop_map(move |(features, labels)| Case {
                    features,
                    labels,
                    largest_logit,
                    seed,
                    hidden,
                })
        })
}

/// What a head makes of the features: probabilities, loss, gradients of features and of each parameter.
struct Outcome {
    probabilities: Vec<Vec<f32>>,
    loss: f32,
    features: Vec<f32>,
    parameters: Vec<(String, Vec<f32>)>,
}

fn outcome(head: &HeadLayers, features: &Tensor, labels: &[u32]) -> Outcome {
    let features = Var::from_tensor(features).unwrap();
    let logits = head.forward(&features, Mode::Train, None).unwrap();
    let loss = Loss::for_head(head.config())
        .forward(&logits, labels)
        .unwrap();
    let gradients = loss.backward().unwrap();
    let flat = |var: &Var| {
        let gradient = gradients.get(var).unwrap();
        gradient.flatten_all().unwrap().to_vec1().unwrap()
    };
    Outcome {
        probabilities: head.probabilities(&logits).unwrap().to_vec2().unwrap(),
        loss: loss.to_scalar().unwrap(),
        features: flat(&features),
        parameters: head
            .variables()
            .into_iter()
            .map(|(name, var)| (name, flat(&var)))
            .collect(),
    }
}

fn close(a: f32, b: f32, scale: f32) -> bool {
    (a - b).abs() <= 2e-5 * scale.max(1.0)
}

/// Scales the features so that what the largest logit adds up, all of one sign, has the size wanted: two sums that
/// cancel to a logit round as coarsely as they are large.
fn scaled(case: &Case, head: &HeadLayers) -> Tensor {
    let flat: Vec<f32> = case.features.concat();
    let features =
        Tensor::from_vec(flat, (case.features.len(), CHANNELS, 1, 1), &Device::Cpu).unwrap();
    // The same weights, of its own: a clone would share them.
    let absolute = head.config().build([CHANNELS, 1, 1], &Device::Cpu).unwrap();
    for (_, var) in absolute.variables() {
        var.set(&var.abs().unwrap()).unwrap();
    }
    let sums = absolute.forward(&features.abs().unwrap(), Mode::Infer, None);
    let largest = sums.unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    // Biases are zero and ReLU is homogeneous: logits scale with the features.
    (features * f64::from(case.largest_logit / largest.max(1e-3))).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_sigmoid_is_a_two_class_softmax(case in case()) {
        let config = Head::softmax(2).seed(case.seed);
        let config = if case.hidden { config.hidden(5) } else { config };
        let softmax = config.build([CHANNELS, 1, 1], &Device::Cpu).unwrap();
        let sigmoid = softmax.to_sigmoid().unwrap();
        let features = scaled(&case, &softmax);
        let two = outcome(&softmax, &features, &case.labels);
        let one = outcome(&sigmoid, &features, &case.labels);

        for (a, b) in one.probabilities.iter().flatten().zip(two.probabilities.iter().flatten()) {
            prop_assert!(close(*a, *b, 1.0), "probability {a} and {b}");
        }
        prop_assert!(close(one.loss, two.loss, case.largest_logit), "loss {} and {}", one.loss, two.loss);
        for (a, b) in one.features.iter().zip(&two.features) {
            prop_assert!(close(*a, *b, 1.0), "gradient of a feature {a} and {b}");
        }
        // d/d(w1 − w0) is d/dw1, and d/dw0 its opposite; hidden layers have the same gradients.
        let magnitude = |values: &[f32]| values.iter().fold(0f32, |most, value| most.max(value.abs()));
        for ((name, a), (_, b)) in one.parameters.iter().zip(&two.parameters) {
            let scale = magnitude(b);
            if name.starts_with("output.") {
                let (class0, class1) = b.split_at(b.len() / 2);
                for ((a, w0), w1) in a.iter().zip(class0).zip(class1) {
                    prop_assert!(close(*a, *w1, scale) && close(-a, *w0, scale), "{name}: {a}, {w0}, {w1}");
                }
            } else {
                for (a, b) in a.iter().zip(b) {
                    prop_assert!(close(*a, *b, scale), "{name}: {a} and {b}");
                }
            }
        }
    }

    #[test]
    fn the_way_back_is_the_same_head(case in case()) {
        let config = Head::sigmoid().hidden(3).seed(case.seed);
        let sigmoid = config.build([CHANNELS, 1, 1], &Device::Cpu).unwrap();
        let features = scaled(&case, &sigmoid);
        let softmax = sigmoid.to_softmax().unwrap();
        let back = softmax.to_sigmoid().unwrap();
        for ((name, a), (_, b)) in sigmoid.tensors().iter().zip(back.tensors()) {
            let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            prop_assert_eq!(flat(a), flat(&b), "{}", name);
        }
        let one = outcome(&sigmoid, &features, &case.labels);
        let two = outcome(&softmax, &features, &case.labels);
        for (a, b) in one.probabilities.iter().flatten().zip(two.probabilities.iter().flatten()) {
            prop_assert!(close(*a, *b, 1.0), "probability {a} and {b}");
        }
    }
}

#[test]
fn other_heads_do_not_convert() {
    let build = |head: Head| head.build([CHANNELS, 1, 1], &Device::Cpu).unwrap();
    assert!(build(Head::softmax(3)).to_sigmoid().is_err());
    assert!(build(Head::sigmoid()).to_sigmoid().is_err());
    assert!(build(Head::softmax(2)).to_softmax().is_err());
}
