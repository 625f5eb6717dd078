//! Every number of an option or a file has a bound, and what was learnt is not lost by a call.

use crate::common::files::unsealed;

use std::time::{Duration, Instant};

use candle_core::Device;
use headstart::data::Loader;
use headstart::model::arch::BlockTable;
use headstart::model::arch::layer::{Conv, Layer, Padding};
use headstart::model::{Arch, Backbone, Pooling, Vgg};
use headstart::train::Phase;
use headstart::train::callback::ReduceLrOnPlateau;
use headstart::train::optimizer::Schedule;
use headstart::{
    Augmenter, Checkpoints, Classifier, ConvBase, Dataset, EarlyStopping, Error, FeatureCache,
    Head, Sgd, Trainer, Weights,
};
use image::{DynamicImage, RgbImage};
use serde_json::{Value, json};

fn base() -> ConvBase {
    let vgg = Vgg::Vgg11.width(1.0 / 64.0).unwrap();
    ConvBase::new(vgg, Weights::Random { seed: 3 }, &Device::Cpu)
        .unwrap()
        .frozen()
}

fn model(head: Head) -> Classifier {
    Classifier::new(base(), head, &["a", "b"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

/// The message of a failure, which comes at once.
fn refusal<T>(what: &str, outcome: impl FnOnce() -> headstart::Result<T>) -> String {
    let begun = Instant::now();
    let error = match outcome() {
        Ok(_) => panic!("{what} is accepted"),
        Err(error) => error.to_string(),
    };
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{what} takes {:?}",
        begun.elapsed()
    );
    error
}

#[test]
fn numbers_that_no_table_has_are_refused_by_name() {
    let made = |layers: Vec<Layer>| {
        let arch = Arch::new("own", vec![BlockTable::new("b", layers)]);
        refusal("a table", || {
            ConvBase::new(arch, Weights::Random { seed: 1 }, &Device::Cpu)
        })
    };
    let conv = || Conv::new("c", 3, 4, 3);
    let pool = |kernel, stride| Layer::AveragePool {
        name: "p".into(),
        kernel,
        stride,
    };
    for (layers, named) in [
        (vec![pool(2, 2)], "without convolutions"),
        (vec![Layer::Conv(conv()), pool(2, 0)], "`stride` is 0"),
        (vec![Layer::Conv(conv()), pool(0, 1)], "`kernel` is 0"),
        (vec![Layer::Conv(conv().stride(0))], "`stride` is 0"),
        (
            vec![Layer::Conv(conv().padding(Padding::Zeros(usize::MAX)))],
            "`padding`",
        ),
        (
            vec![Layer::Conv(Conv {
                groups: 0,
                ..conv()
            })],
            "`groups` is 0",
        ),
        (
            vec![Layer::Conv(Conv {
                groups: 3,
                ..conv()
            })],
            "divides 3 and 4",
        ),
        (
            vec![Layer::Conv(Conv {
                outputs: 0,
                ..conv()
            })],
            "`outputs` is 0",
        ),
        (
            vec![Layer::Conv(Conv {
                kernel: 0,
                ..conv()
            })],
            "`kernel` is 0",
        ),
    ] {
        let error = made(layers);
        assert!(error.contains(named), "{named}: {error}");
    }
}

#[test]
fn sizes_in_a_file_are_bounded_before_they_are_used() {
    let folder = tempfile::tempdir().unwrap();
    let (saved, hostile) = (folder.path().join("model"), folder.path().join("hostile"));
    let pooled = Head::sigmoid().pooling(Pooling::GlobalAverage);
    model(pooled).save(&saved).unwrap();
    let names: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
    let changes: [(&str, Value); 12] = [
        ("input_size", json!([20_000, 20_000])),
        ("input_size", json!([8192, 8192])),
        ("input_size", json!([u64::MAX, 2])),
        ("input_size", json!([0, 32])),
        ("input_size", json!([-1, 32])),
        ("head/layers", json!([{"hidden": 4_294_967_296u64}])),
        ("head/layers", json!([{"hidden": u64::MAX}])),
        ("head/layers", json!(vec![json!({"hidden": 65_536}); 2])),
        ("head/layers", json!(vec![json!({"dropout": 0.5}); 100_000])),
        ("head/output", json!({"softmax": 4_294_967_298u64})),
        ("classes", json!(names)),
        ("architecture", json!("vgg19-1e300")),
    ];
    for (key, value) in changes {
        let bytes = unsealed(&saved, |description| {
            *description.pointer_mut(&format!("/{key}")).unwrap() = value.clone();
            if key == "classes" {
                description["head"]["output"] = json!({"softmax": 100_000});
            }
        });
        std::fs::write(&hostile, bytes).unwrap();
        let error = refusal(key, || Classifier::load(&hostile, &Device::Cpu));
        assert!(!error.is_empty(), "{key}");
    }
    // Names twice, among as many as there may be.
    let mut names: Vec<String> = (0..50_000).map(|number| number.to_string()).collect();
    names[49_999] = "7".into();
    let head = Head::softmax(50_000).pooling(Pooling::GlobalAverage);
    let error = refusal("a name twice", || Classifier::new(base(), head, &names));
    assert!(error.contains("`7` twice"), "{error}");
}

#[test]
fn sizes_in_options_are_bounded_before_they_are_used() {
    let huge = [4_294_967_296usize, usize::MAX];
    let picture = RgbImage::new(40, 40);
    let images = (0..4).map(|label| (DynamicImage::from(picture.clone()), label % 2));
    let dataset = Dataset::from_images(images, &["a", "b"]).unwrap();
    let fit = |trainer: Trainer| {
        trainer
            .fit(&mut model(Head::sigmoid()), &dataset, &dataset)
            .map(|_| ())
    };
    let trainer = || Trainer::new(Sgd::new(0.1));
    let cached = |views| trainer().feature_cache(FeatureCache::in_memory().views(views));
    for n in huge {
        let named = |option: &str, error: String| {
            assert!(
                error.contains(&format!("`{option}`")),
                "{error} does not name {option}"
            );
        };
        let two = &["a", "b"];
        named(
            "hidden",
            refusal("hidden", || {
                Classifier::new(base(), Head::sigmoid().hidden(n), two)
            }),
        );
        named(
            "softmax",
            refusal("softmax", || Classifier::new(base(), Head::softmax(n), two)),
        );
        let sized = || model(Head::sigmoid());
        named(
            "input_size",
            refusal("input_size", || sized().input_size(n, n)),
        );
        named(
            "input_size",
            refusal("input_size", || sized().input_size(1, n)),
        );
        named(
            "input_size",
            refusal("input_size", || sized().fresh_head(n, 32)),
        );
        named(
            "count",
            refusal("count", || Augmenter::new().preview(&picture, n, 1)),
        );
        named("views", refusal("views", || fit(cached(n))));
        named("epochs", refusal("epochs", || fit(trainer().epochs(n))));
        named(
            "epochs",
            refusal("epochs", || {
                fit(trainer().phases([Phase::new(n), Phase::new(n)]))
            }),
        );
        named(
            "batch_size",
            refusal("batch_size", || fit(trainer().batch_size(n))),
        );
        named(
            "warmup",
            refusal("warmup", || {
                fit(trainer().schedule(Schedule::constant().warmup(n)))
            }),
        );
        named(
            "patience",
            refusal(
                "patience",
                || fit(trainer().callback(EarlyStopping::new(n))),
            ),
        );
        let plateau = ReduceLrOnPlateau::new(0.5, 1).cooldown(n);
        named(
            "cooldown",
            refusal("cooldown", || fit(trainer().callback(plateau))),
        );
        let folder = tempfile::tempdir().unwrap();
        let kept = Checkpoints::new(folder.path()).keep(n);
        named("keep", refusal("keep", || fit(trainer().checkpoint(kept))));
        let load = |loader: Loader| loader.epoch(0).next().unwrap();
        named(
            "height",
            refusal("height", || load(Loader::new(&dataset, n, 8))),
        );
        named(
            "batch_size",
            refusal("batch", || load(Loader::new(&dataset, 8, 8).batch_size(n))),
        );
        let own = |outputs| {
            let conv = Layer::Conv(Conv::new("conv", 3, outputs, 3));
            Arch::new("own", vec![BlockTable::new("block", vec![conv])])
        };
        let random = Weights::Random { seed: 1 };
        named(
            "arch",
            refusal("arch", || ConvBase::new(own(n), random, &Device::Cpu)),
        );
    }
    // Products, where each factor is in bounds.
    let deep = Head::sigmoid().hidden(65_536).hidden(65_536);
    let error = refusal("hidden × hidden", || {
        Classifier::new(base(), deep, &["a", "b"])
    });
    assert!(error.contains("65536 × 65536"), "{error}");
    let large = Loader::new(&dataset, 4096, 4096).batch_size(65_536);
    assert!(refusal("a batch", || large.epoch(0).next().unwrap()).contains("in a batch"));
    assert!(Trainer::new(Sgd::new(0.1)).batch_size(0).check().is_err());
    assert!(Trainer::new(Sgd::new(0.1)).check().is_ok());
}

fn weights(model: &Classifier) -> Vec<Vec<u32>> {
    let head = model.head().tensors().into_iter();
    head.map(|(_, tensor)| crate::common::numbers::bits(&tensor))
        .collect()
}

/// A head whose numbers are not those it was made with.
fn trained(head: Head) -> Classifier {
    let model = model(head);
    for (_, var) in model.head().variables() {
        var.set(&(var.as_detached_tensor() + 0.5).unwrap()).unwrap();
    }
    model
}

#[test]
fn another_size_keeps_the_head_or_says_that_it_cannot() {
    let flat = || Head::sigmoid().hidden(3);
    let pooled = || flat().pooling(Pooling::GlobalAverage);
    for head in [flat(), pooled()] {
        let model = trained(head);
        let same = model.clone().input_size(32, 32).unwrap();
        assert_eq!(weights(&same), weights(&model));
    }
    let model = trained(pooled());
    let larger = model.clone().input_size(96, 64).unwrap();
    assert_eq!(weights(&larger), weights(&model));
    larger.predict(DynamicImage::new_rgb8(50, 50)).unwrap();
    let model = trained(flat());
    let error = model.clone().input_size(96, 96).unwrap_err();
    assert!(matches!(error, Error::Mismatch { .. }), "{error}");
    for word in ["`input_size`", "96×96", "fresh_head", "pooling"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    let fresh = model.clone().fresh_head(96, 96).unwrap();
    assert_eq!(fresh.size(), (96, 96));
    // Until it has learnt something, a head is made for the size that is wanted, in any order.
    let built = self::model(flat())
        .input_size(96, 96)
        .unwrap()
        .input_size(64, 96)
        .unwrap();
    assert_eq!(built.size(), (64, 96));
    assert_eq!(built.base().output_shape(64, 96).unwrap()[1..], [2, 3]);
}

#[test]
fn three_classes_with_a_sigmoid_name_the_way_out() {
    let error = Classifier::new(base(), Head::sigmoid(), &["a", "b", "c"]).unwrap_err();
    assert!(error.to_string().contains("Head::softmax(3)"), "{error}");
}
