//! The cache of frozen blocks' features: it changes the time of training and nothing else, and it knows when it is
//! out of date.

use crate::common;
use crate::common::numbers::bits;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use headstart::data::{Loader, Policy};
use headstart::model::Mode;
use headstart::model::{Backbone, BlockInfo, BlockParameter, LayerInfo};
use headstart::train::metrics::History;
use headstart::{
    Augmenter, Block, Classifier, ConvBase, Dataset, FeatureCache, Head, Preprocess, Resize,
    Result, RmsProp, Trainer, Weights,
};
use tempfile::TempDir;

/// A frozen base but for these blocks. What the kernels make of frozen weights is shared.
fn base(seed: u64, open: &[Block]) -> ConvBase {
    static FROZEN: Mutex<BTreeMap<u64, ConvBase>> = Mutex::new(BTreeMap::new());
    let make = || ConvBase::vgg11(Weights::Random { seed }, &Device::Cpu).unwrap();
    let mut frozen = FROZEN.lock().unwrap();
    let frozen = frozen.entry(seed).or_insert_with(|| make().frozen());
    open.iter()
        .fold(frozen.clone(), |base, block| base.unfreeze(*block).unwrap())
}

fn classifier<B: Backbone>(base: B) -> Classifier<B> {
    let head = Head::sigmoid().hidden(16).dropout(0.2);
    Classifier::new(base, head, &["blue", "red"])
        .unwrap()
        .input_size(32, 32)
        .unwrap()
}

/// Batches of 6, the last one shorter.
fn trainer(epochs: usize) -> Trainer {
    Trainer::new(RmsProp::new(1e-3))
        .epochs(epochs)
        .batch_size(6)
        .seed(7)
}

/// Everything a run leaves but its clock: losses and accuracies, and all that was trained.
#[derive(Debug, PartialEq)]
struct Outcome {
    epochs: Vec<[u64; 4]>,
    weights: Vec<(String, Vec<u32>)>,
}

impl Outcome {
    fn new<B: Backbone>(history: &History, model: &Classifier<B>) -> Self {
        let figures = |e: &headstart::train::metrics::EpochRecord| {
            [
                e.loss,
                e.accuracy,
                e.val_loss.unwrap(),
                e.val_accuracy.unwrap(),
            ]
            .map(f64::to_bits)
        };
        let variables = model.variables().into_iter();
        Self {
            epochs: history.epochs.iter().map(figures).collect(),
            weights: variables.map(|(name, var)| (name, bits(&var))).collect(),
        }
    }
}

fn run<B: Backbone>(
    trainer: &Trainer,
    mut model: Classifier<B>,
    data: &Dataset,
) -> (Outcome, Classifier<B>) {
    let history = trainer.fit(&mut model, data, data).unwrap();
    (Outcome::new(&history, &model), model)
}

/// The files in a folder, with what is in them.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

/// A base that counts the pictures its first block sees, and notes what comes in behind the frozen blocks.
struct Spy {
    base: ConvBase,
    pictures: Cell<usize>,
    trained_on: RefCell<Vec<Vec<u32>>>,
}

impl Spy {
    fn new(base: ConvBase) -> Self {
        Self {
            base,
            pictures: Cell::default(),
            trained_on: RefCell::default(),
        }
    }
}

impl Backbone for Spy {
    fn architecture(&self) -> String {
        self.base.architecture()
    }
    fn forward_blocks(&self, input: &Tensor, blocks: Range<usize>, mode: Mode) -> Result<Tensor> {
        if blocks.start == 0 {
            self.pictures
                .set(self.pictures.get() + input.dim(0).unwrap());
        } else if mode == Mode::Train {
            let rows = (0..input.dim(0).unwrap()).map(|row| bits(&input.get(row).unwrap()));
            self.trained_on.borrow_mut().extend(rows);
        }
        self.base.forward_blocks(input, blocks, mode)
    }
    fn output_shape(&self, height: usize, width: usize) -> Result<[usize; 3]> {
        self.base.output_shape(height, width)
    }
    fn blocks(&self) -> Vec<BlockInfo> {
        self.base.blocks()
    }
    fn set_trainable(&mut self, block: usize, trainable: bool) -> Result<()> {
        self.base.set_trainable(block, trainable)
    }
    fn parameters(&self) -> Vec<BlockParameter> {
        self.base.parameters()
    }
    fn backward(&self, loss: &Tensor, recycled: &mut Vec<Tensor>) -> Result<GradStore> {
        self.base.backward(loss, recycled)
    }
    fn numerics(&self) -> String {
        self.base.numerics()
    }
    fn layers(&self, height: usize, width: usize) -> Result<Vec<LayerInfo>> {
        self.base.layers(height, width)
    }
    fn device(&self) -> Device {
        self.base.device()
    }
    fn preprocess(&self) -> Preprocess {
        self.base.preprocess()
    }
}

/// Pictures seen to find out how large features are: one for the training source, one for validation.
const PROBES: usize = 2;

/// Whether the crate's kernels run, with which equality is to the last bit.
fn on_kernels() -> bool {
    std::env::var("HEADSTART_KERNELS").as_deref() != Ok("candle")
}

#[test]
fn blocks_in_parts_make_the_whole() {
    let images = Tensor::rand(0f32, 1.0, (3, 3, 70, 48), &Device::Cpu).unwrap();
    let base = base(3, &[Block::Conv4, Block::Conv5]);
    assert_eq!(base.frozen_prefix(), 3);
    for mode in [Mode::Train, Mode::Infer] {
        let whole = base.features(&images, mode).unwrap();
        // An open block's output has a graph, and what is given one runs on candle's operations.
        let boundaries = if mode == Mode::Train { 0..=3 } else { 0..=5 };
        for boundary in boundaries {
            let first = base.forward_blocks(&images, 0..boundary, mode).unwrap();
            let second = base.forward_blocks(&first, boundary..5, mode).unwrap();
            assert!(
                bits(&whole) == bits(&second),
                "{mode:?}, parted before block {}",
                boundary + 1
            );
        }
    }
    let gradients = |output: Tensor| {
        let gradients = output.sqr().unwrap().sum_all().unwrap().backward().unwrap();
        let variables = base.variables().into_iter();
        variables
            .map(|(_, var)| bits(gradients.get(&var).unwrap()))
            .collect::<Vec<_>>()
    };
    let features = base.forward_blocks(&images, 0..3, Mode::Train).unwrap();
    assert!(!features.track_op());
    let rest = base.forward_blocks(&features, 3..5, Mode::Train).unwrap();
    let whole = base.features(&images, Mode::Train).unwrap();
    assert!(gradients(rest) == gradients(whole));

    for (shape, blocks) in [
        (vec![2, 64, 2, 2], 1..5),
        (vec![2, 32, 16, 16], 1..5),
        (vec![1, 3, 32, 32], 0..6),
    ] {
        let input = Tensor::zeros(shape.clone(), DType::F32, &Device::Cpu).unwrap();
        let outcome = base.forward_blocks(&input, blocks.clone(), Mode::Infer);
        assert!(outcome.is_err(), "{shape:?} to {blocks:?}");
    }
}

#[test]
fn frozen_features_in_training_do_not_depend_on_the_batch() {
    if !on_kernels() {
        return;
    }
    let base = base(3, &[]);
    for side in [32, 64] {
        let images = Tensor::rand(0f32, 1.0, (17, 3, side, side), &Device::Cpu).unwrap();
        let together = base.features(&images, Mode::Train).unwrap();
        for picture in [0, 9, 16] {
            let alone = images.narrow(0, picture, 1).unwrap();
            let alone = base.features(&alone, Mode::Train).unwrap();
            let among = together.narrow(0, picture, 1).unwrap();
            assert!(bits(&alone) == bits(&among), "picture {picture} at {side}");
        }
    }
}

#[test]
fn it_changes_nothing_but_time() {
    if !on_kernels() {
        return;
    }
    let (_pictures, data) = common::colours(7);
    let plain = trainer(2);
    // A view for every epoch, which is then what the epoch would see anyway.
    let augmented = trainer(2).augment(Augmenter::notebook());
    for open in [&[][..], &[Block::Conv5]] {
        for (trainer, views) in [(&plain, 1), (&augmented, 2)] {
            let (uncached, _) = run(trainer, classifier(base(3, open)), &data);
            let folder = tempfile::tempdir().unwrap();
            let in_memory = FeatureCache::in_memory().views(views);
            let on_disk = FeatureCache::on_disk(folder.path()).views(views);
            // The second time, what is on the disk is used.
            let caches = [in_memory, on_disk.clone(), on_disk];
            let caches = if open.is_empty() {
                &caches[..]
            } else {
                &caches[..2]
            };
            for cache in caches {
                let trainer = trainer.clone().feature_cache(cache.clone());
                let (cached, _) = run(&trainer, classifier(base(3, open)), &data);
                assert!(
                    cached == uncached,
                    "{open:?} open, {views} views, {cache:?}"
                );
            }
        }
    }
}

#[test]
fn views_take_turns_and_are_computed_once() {
    let (_pictures, data) = common::colours(8);
    let pictures = data.len();
    let trainer = trainer(5)
        .augment(Augmenter::notebook())
        .feature_cache(FeatureCache::in_memory().views(2));
    let (_, model) = run(
        &trainer,
        classifier(Spy::new(base(3, &[Block::Conv5]))),
        &data,
    );
    let spy = model.base();
    // Two views for training, and validation.
    assert_eq!(spy.pictures.get(), 3 * pictures + PROBES);
    let trained_on = spy.trained_on.borrow();
    let epochs: Vec<Vec<_>> = trained_on
        .chunks(pictures)
        .map(|rows| {
            let mut rows = rows.to_vec();
            rows.sort();
            rows
        })
        .collect();
    assert_eq!(epochs.len(), 5);
    assert!(epochs[0] == epochs[2] && epochs[2] == epochs[4] && epochs[1] == epochs[3]);
    assert!(epochs[0].iter().all(|row| !epochs[1].contains(row)));
    // The order is still a fresh one.
    assert!(trained_on[..pictures] != trained_on[2 * pictures..3 * pictures]);
}

#[test]
fn without_an_augmenter_there_is_one_view() {
    let (_pictures, data) = common::colours(8);
    let trainer = trainer(3).feature_cache(FeatureCache::in_memory().views(4));
    let (_, model) = run(&trainer, classifier(Spy::new(base(3, &[]))), &data);
    assert_eq!(model.base().pictures.get(), 2 * data.len() + PROBES);
}

#[test]
fn validation_features_are_kept_without_being_asked_for() {
    let (_pictures, data) = common::colours(8);
    let seen = |open: &[Block]| {
        let (_, model) = run(&trainer(3), classifier(Spy::new(base(3, open))), &data);
        model.base().pictures.get()
    };
    // Training sees every picture each epoch, validation once: one probe.
    assert_eq!(seen(&[Block::Conv5]), 3 * data.len() + data.len() + 1);
    assert_eq!(seen(&[Block::Conv1]), 6 * data.len());
}

#[test]
fn a_file_holds_the_features_and_is_used_again() {
    let (_pictures, data) = common::colours(8);
    let folder = tempfile::tempdir().unwrap();
    let trainer = trainer(2).feature_cache(FeatureCache::on_disk(folder.path().join("new")));
    let open = [Block::Conv5];
    let (first, model) = run(&trainer, classifier(Spy::new(base(3, &open))), &data);
    assert_eq!(model.base().pictures.get(), 2 * data.len() + PROBES);

    let files = files(&folder.path().join("new"));
    assert_eq!(files.len(), 2, "training and validation");
    let loader = Loader::new(&data, 32, 32);
    let batch = loader.epoch(0).next().unwrap().unwrap();
    let features = base(3, &open)
        .forward_blocks(&batch.inputs, 0..4, Mode::Train)
        .unwrap();
    let features: Vec<f32> = features.flatten_all().unwrap().to_vec1().unwrap();
    for (path, _) in &files {
        let tensors = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        assert_eq!(tensors["features"].dims(), [16, 512, 2, 2]);
        assert_eq!(tensors["usable"].to_vec1::<u8>().unwrap(), [1; 16]);
        let found = tensors["features"].flatten_all().unwrap();
        for (found, expected) in found.to_vec1::<f32>().unwrap().iter().zip(&features) {
            assert!((found - expected).abs() <= 1e-5 * expected.abs().max(1.0));
        }
    }

    let (second, model) = run(&trainer, classifier(Spy::new(base(3, &open))), &data);
    assert_eq!(model.base().pictures.get(), PROBES);
    assert!(first == second);
    // More epochs, another head and other batches for training change nothing of the training file.
    let other = trainer.clone().epochs(3).batch_size(5).seed(8);
    let (_, model) = run(&other, classifier(Spy::new(base(3, &open))), &data);
    assert_eq!(model.base().pictures.get(), data.len() + PROBES);
}

#[test]
fn a_damaged_file_is_computed_afresh() {
    let (_pictures, data) = common::colours(6);
    let folder = tempfile::tempdir().unwrap();
    let trainer = trainer(2).feature_cache(FeatureCache::on_disk(folder.path()));
    let (first, _) = run(&trainer, classifier(base(3, &[])), &data);
    let whole = files(folder.path());
    let damage: [fn(&mut Vec<u8>); 6] = [
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes.clear(),
        |bytes| bytes.push(0),
        |bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        },
        |bytes| *bytes.last_mut().unwrap() ^= 1,
        |bytes| bytes[..8].fill(255),
    ];
    let expect_repair = |what: &str| {
        let (again, model) = run(&trainer, classifier(Spy::new(base(3, &[]))), &data);
        assert_eq!(
            model.base().pictures.get(),
            2 * data.len() + PROBES,
            "{what}"
        );
        assert!(first == again, "{what}");
        assert!(files(folder.path()) == whole, "{what}");
    };
    for (number, damage) in damage.iter().enumerate() {
        for (path, bytes) in &whole {
            let mut bytes = bytes.clone();
            damage(&mut bytes);
            std::fs::write(path, bytes).unwrap();
        }
        expect_repair(&format!("damage {number}"));
    }
    // Each under the other's name.
    std::fs::write(&whole[0].0, &whole[1].1).unwrap();
    std::fs::write(&whole[1].0, &whole[0].1).unwrap();
    expect_repair("exchanged");
}

#[test]
fn whatever_features_come_from_has_a_file_of_its_own() {
    let (_pictures, data) = common::colours(4);
    let folder = tempfile::tempdir().unwrap();
    let model = |seed| classifier(base(seed, &[]));
    let plain = || trainer(1);
    let augmented = || trainer(1).augment(Augmenter::new().rotation(40.0));
    let mut known = 0;
    let mut expect = |what: &str,
                      new: usize,
                      trainer: Trainer,
                      model: &dyn Fn() -> Classifier,
                      data: &Dataset| {
        let (uncached, _) = run(&trainer, model(), data);
        let cached = trainer.feature_cache(FeatureCache::on_disk(folder.path()));
        let (cached, _) = run(&cached, model(), data);
        if on_kernels() {
            assert!(cached == uncached, "{what}");
        }
        let files = files(folder.path()).len();
        assert_eq!(files - known, new, "{what}");
        known = files;
    };
    expect("first", 2, plain(), &|| model(3), &data);
    expect("the same", 0, plain(), &|| model(3), &data);
    expect("weights", 2, plain(), &|| model(4), &data);
    expect(
        "size",
        2,
        plain(),
        &|| model(3).input_size(32, 40).unwrap(),
        &data,
    );
    expect(
        "resize",
        2,
        plain(),
        &|| model(3).resize(Resize::Nearest),
        &data,
    );
    expect(
        "preprocess",
        2,
        plain(),
        &|| classifier(base(3, &[]).with_preprocess(Preprocess::Caffe)),
        &data,
    );
    expect(
        "boundary",
        2,
        plain(),
        &|| classifier(base(3, &[Block::Conv5])),
        &data,
    );
    // Validation is not augmented, nor has a seed.
    expect("augmentation", 1, augmented(), &|| model(3), &data);
    expect("seed", 1, augmented().seed(8), &|| model(3), &data);
    expect(
        "settings",
        1,
        trainer(1).augment(Augmenter::new().rotation(41.0)),
        &|| model(3),
        &data,
    );
    expect(
        "a seed without use",
        0,
        plain().seed(8),
        &|| model(3),
        &data,
    );
    let (rest, _) = data.split(0.5, 1).unwrap();
    expect("pictures", 2, plain(), &|| model(3), &rest);

    // One picture's content, of the same length and age.
    let path = &data.items()[3].path;
    let modified = std::fs::metadata(path).unwrap().modified().unwrap();
    let other = std::fs::read(&data.items()[7].path).unwrap();
    let length = std::fs::read(path).unwrap().len().max(other.len());
    let padded = |mut bytes: Vec<u8>| {
        // A decoder does not look beyond the picture's end.
        bytes.resize(length, 0);
        bytes
    };
    std::fs::write(path, padded(std::fs::read(path).unwrap())).unwrap();
    expect("before the content", 2, plain(), &|| model(3), &data);
    std::fs::write(path, padded(other)).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(modified).unwrap();
    expect("content", 2, plain(), &|| model(3), &data);
}

#[test]
fn bad_pictures_are_left_out_or_stop_the_run_as_without_it() {
    let (folder, _) = common::colours(4);
    for name in ["blue/2a.jpg", "red/3.png", "red/zz.jpg"] {
        std::fs::write(folder.path().join(name), b"not a picture").unwrap();
    }
    let open = || Dataset::open(folder.path()).unwrap();
    let problems = |data: &Dataset| {
        let problems = data.problems().into_iter();
        problems.map(|p| (p.path, p.reason)).collect::<Vec<_>>()
    };
    // A batch of one whose picture cannot be used is no batch.
    for batch_size in [1, 4] {
        let trainer = trainer(2).batch_size(batch_size);
        let data = open();
        let (uncached, _) = run(&trainer, classifier(base(3, &[])), &data);
        let expected = problems(&data);
        assert_eq!(expected.len(), 3);
        let disk = TempDir::new().unwrap();
        let on_disk = FeatureCache::on_disk(disk.path());
        for cache in [FeatureCache::in_memory(), on_disk.clone(), on_disk.clone()] {
            let trainer = trainer.clone().feature_cache(cache.clone());
            let data = open();
            let (cached, _) = run(&trainer, classifier(base(3, &[])), &data);
            if on_kernels() {
                assert!(cached == uncached, "batches of {batch_size}, {cache:?}");
            }
            assert_eq!(problems(&data), expected, "{cache:?}");
            let strict = open().policy(Policy::Fail).unwrap();
            let error = trainer
                .fit(&mut classifier(base(3, &[])), &strict, &strict)
                .unwrap_err()
                .to_string();
            assert!(error.contains("2a.jpg"), "{error}");
        }
    }
}

#[test]
fn what_cannot_be_cached_is_named() {
    let (_pictures, data) = common::colours(2);
    let error = |trainer: Trainer, open: &[Block]| {
        trainer
            .fit(&mut classifier(base(3, open)), &data, &data)
            .unwrap_err()
            .to_string()
    };
    let cache = FeatureCache::in_memory();
    let found = error(trainer(1).feature_cache(cache.clone()), &[Block::Conv1]);
    assert!(
        found.contains("feature_cache") && found.contains("first block"),
        "{found}"
    );
    let found = error(trainer(1).feature_cache(cache.views(0)), &[]);
    assert!(found.contains("views"), "{found}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let found = error(
        trainer(1).feature_cache(FeatureCache::on_disk(file.path())),
        &[],
    );
    assert!(found.contains(file.path().to_str().unwrap()), "{found}");
}

/// A flag that is raised while features are computed is heeded then, and nothing half done is kept.
#[test]
fn a_raised_flag_stops_the_computation_of_features() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    let (_folder, dataset) = common::colours(50);
    let kept = tempfile::tempdir().unwrap();
    for cache in [
        FeatureCache::in_memory(),
        FeatureCache::on_disk(kept.path()),
    ] {
        let flag = Arc::new(AtomicBool::new(false));
        let (raise, epochs) = (flag.clone(), Arc::new(AtomicUsize::new(0)));
        let begun = epochs.clone();
        struct Count(Arc<AtomicUsize>);
        impl headstart::train::callback::Callback for Count {
            fn on_epoch_begin(
                &mut self,
                _: &headstart::train::callback::EpochBegin,
            ) -> headstart::Result<()> {
                self.0.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
        let raised = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(200));
            raise.store(true, Ordering::Relaxed);
            std::time::Instant::now()
        });
        let base = common::frozen_base();
        let model = Classifier::new(base, Head::sigmoid(), &["blue", "red"]).unwrap();
        // Half a minute's work.
        let mut model = model.input_size(224, 224).unwrap();
        let trainer = Trainer::new(RmsProp::new(1e-3))
            .feature_cache(cache)
            .stop_flag(flag);
        let history = trainer
            .callback(Count(begun))
            .fit(&mut model, &dataset, &dataset)
            .unwrap();
        let waited = raised.join().unwrap().elapsed();
        assert!(history.epochs.is_empty() && epochs.load(Ordering::Relaxed) == 0);
        assert!(waited.as_secs() < 20, "{waited:?}");
    }
    assert_eq!(std::fs::read_dir(kept.path()).unwrap().count(), 0);
}

/// A picture that became a pipe is a problem, not a wait.
#[cfg(unix)]
#[test]
fn a_picture_that_became_a_pipe_is_skipped() {
    let (folder, dataset) = common::colours(3);
    let path = folder.path().join("red/1.png");
    std::fs::remove_file(&path).unwrap();
    common::files::pipe(&path);
    let kept = tempfile::tempdir().unwrap();
    let model = Classifier::new(common::frozen_base(), Head::sigmoid(), &["blue", "red"]).unwrap();
    let mut model = model.input_size(32, 32).unwrap();
    let trainer =
        Trainer::new(RmsProp::new(1e-3)).feature_cache(FeatureCache::on_disk(kept.path()));
    trainer.fit(&mut model, &dataset, &dataset).unwrap();
    assert_eq!(dataset.problems().len(), 1);
}
