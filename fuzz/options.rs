//! Options: any numbers at all are taken or refused by name, and what is taken works.

use headstart::data::{AugmentParams, FillMode, Loader};
use headstart::model::Pooling;
use headstart::train::Phase;
use headstart::train::callback::ReduceLrOnPlateau;
use headstart::train::optimizer::{Clip, Schedule};
use headstart::{
    AdamW, Augmenter, Checkpoints, EarlyStopping, FeatureCache, Head, RmsProp, Sgd, Trainer,
};
use image::{Rgb, Rgb32FImage, RgbImage};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Numbers that limits are made of.
const ODD: [f64; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    2.0,
    45.0,
    90.0,
    180.0,
    255.0,
    1e-300,
    1e308,
    f64::MAX,
    f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
];

/// Reads numbers from bytes; zeros when they are used up.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn long(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// An odd number, a small one, or any.
    fn float(&mut self) -> f64 {
        let kind = self.byte();
        match kind % 4 {
            0 => ODD[usize::from(kind / 4) % ODD.len()],
            1 => f64::from(self.byte()) / 64.0,
            2 => f64::from_bits(self.long()),
            _ => (self.long() as f64) / 2f64.powi(56) - 64.0,
        }
    }

    /// A small number, a power of two or one beside it, or any.
    fn count(&mut self) -> usize {
        let kind = self.byte();
        match kind % 4 {
            0 | 1 => usize::from(kind / 4),
            2 => (1usize << (kind / 4))
                .wrapping_add(usize::from(self.byte() % 3))
                .wrapping_sub(1),
            _ => self.long() as usize,
        }
    }

    fn flag(&mut self) -> bool {
        self.byte() % 2 == 1
    }
}

pub(super) fn seeds() -> Vec<Vec<u8>> {
    vec![vec![1; 64], (0..=255).collect(), vec![9; 400]]
}

pub fn options(data: &[u8]) {
    let mut bytes = Bytes(data);
    augmentation(&mut bytes);
    training(&mut bytes);
    sizes(&mut bytes);
}

fn augmentation(bytes: &mut Bytes<'_>) {
    let fill = match bytes.byte() % 4 {
        0 => FillMode::Nearest,
        1 => FillMode::Reflect,
        2 => FillMode::Wrap,
        _ => FillMode::Constant(bytes.float() as f32),
    };
    let mut augmenter = Augmenter::new()
        .rotation(bytes.float())
        .shift(bytes.float(), bytes.float())
        .shear(bytes.float())
        .zoom_range(bytes.float()..=bytes.float())
        .channel_shift(bytes.float())
        .fill_mode(fill)
        .horizontal_flip(bytes.flag())
        .keras_compat(bytes.flag());
    if bytes.flag() {
        augmenter = augmenter.brightness(bytes.float()..=bytes.float());
    }
    let (height, width) = (
        1 + u32::from(bytes.byte() % 9),
        1 + u32::from(bytes.byte() % 9),
    );
    let picture = Rgb32FImage::from_fn(width, height, |x, y| {
        Rgb([0.0, x as f32 * 20.0, 255.0 - y as f32])
    });
    let mut rng = ChaCha8Rng::seed_from_u64(bytes.long());
    let accepted = augmenter.check().is_ok();
    if accepted {
        let params = augmenter.sample(height as usize, width as usize, &mut rng);
        let varied = augmenter.apply(&picture, &params);
        assert!(
            varied.iter().all(|level| (0.0..=255.0).contains(level)),
            "{augmenter:?} {params:?}"
        );
    }
    // Parameters of one's own may be anything.
    let params = AugmentParams {
        rotation: bytes.float(),
        height_shift: bytes.float(),
        width_shift: bytes.float(),
        shear: bytes.float(),
        zoom_x: bytes.float(),
        zoom_y: bytes.float(),
        flip_horizontal: bytes.flag(),
        flip_vertical: bytes.flag(),
        channel_shift: bytes.flag().then(|| bytes.float()),
        brightness: bytes.flag().then(|| bytes.float()),
    };
    let varied = augmenter.apply(&picture, &params);
    assert_eq!(varied.dimensions(), picture.dimensions());
    let finite = |level: &f32| level.is_finite();
    let own_level = matches!(fill, FillMode::Constant(level) if !level.is_finite());
    assert!(
        own_level || varied.iter().all(finite),
        "{augmenter:?} {params:?}"
    );
    let _ = augmenter.preview(&RgbImage::new(3, 2), bytes.count() % 100_000, 1);
    assert!(
        augmenter
            .preview(&RgbImage::new(3, 2), 10_001 + bytes.count() / 2, 1)
            .is_err()
    );
}

fn training(bytes: &mut Bytes<'_>) {
    let schedule = |bytes: &mut Bytes<'_>| {
        let course = match bytes.byte() % 3 {
            0 => Schedule::constant(),
            1 => Schedule::cosine(bytes.float()),
            _ => Schedule::one_cycle().pct_start(bytes.float()),
        };
        course.warmup(bytes.count())
    };
    let own = schedule(bytes);
    let (steps, peak) = (1 + bytes.count() % 1_000_000, 1e-3);
    if own.check().is_ok() {
        let rate = own.learning_rate(peak, bytes.count() % steps, steps);
        assert!(
            rate.is_finite() && (0.0..=peak * 1.000_001).contains(&rate),
            "{own:?}: {rate}"
        );
    }
    let trainer = match bytes.byte() % 3 {
        0 => Trainer::new(
            Sgd::new(bytes.float())
                .momentum(bytes.float())
                .weight_decay(bytes.float()),
        ),
        1 => Trainer::new(
            AdamW::new(bytes.float())
                .betas(bytes.float(), bytes.float())
                .epsilon(bytes.float()),
        ),
        _ => Trainer::new(
            RmsProp::new(bytes.float())
                .rho(bytes.float())
                .epsilon(bytes.float()),
        ),
    };
    let phase = Phase::new(bytes.count())
        .learning_rate(bytes.float())
        .schedule(schedule(bytes));
    let clip = match bytes.byte() % 2 {
        0 => Clip::Norm(bytes.float()),
        _ => Clip::Value(bytes.float()),
    };
    let trainer = trainer
        .batch_size(bytes.count())
        .phases([phase])
        .clip(clip)
        .label_smoothing(bytes.float())
        .class_weights([bytes.float(), bytes.float()])
        .feature_cache(FeatureCache::in_memory().views(bytes.count()))
        .checkpoint(
            Checkpoints::new("nowhere")
                .every(bytes.count())
                .keep(bytes.count()),
        )
        .callback(EarlyStopping::new(bytes.count()).min_delta(bytes.float()))
        .callback(ReduceLrOnPlateau::new(bytes.float(), bytes.count()).cooldown(bytes.count()));
    let _ = trainer.check();
}

fn sizes(bytes: &mut Bytes<'_>) {
    let head = Head::softmax(bytes.count())
        .hidden(bytes.count())
        .dropout(bytes.float());
    let _ = head.check();
    let model = super::fresh();
    let (height, width) = (bytes.count(), bytes.count());
    // Its head is 2 × 3 numbers on 8 at any size.
    if let Ok(model) = model.input_size(height, width) {
        assert_eq!(model.size(), (height, width));
        assert_eq!(
            model.head().config(),
            &Head::softmax(2).hidden(3).pooling(Pooling::GlobalAverage)
        );
    }
    let pictures = super::pictures();
    let (height, width, batch) = (bytes.count(), bytes.count(), bytes.count());
    let loader = Loader::new(&pictures, height, width).batch_size(batch);
    // Within the bounds, but too large to wait for here.
    if super::small(height, width) || height.max(width) > 8192 {
        let _ = loader.epoch(bytes.long()).next();
    }
    let _ = pictures.split(bytes.float(), bytes.long());
    let _ = pictures.least_usable(bytes.float());
}
