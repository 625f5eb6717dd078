//! The nearest pictures: exact, kept, and refused where they are none.

use headstart::model::Pooling;
use headstart::study::{Features, Gallery};
use headstart::{Classifier, Head};

use super::estimate::clouds;
use crate::common::files::message;
use crate::common::{colours, frozen_base};

/// The nearest by plain arithmetic in f64.
fn nearest(features: &Features, query: &[f32], k: usize) -> Vec<usize> {
    let (n, width) = (features.len(), features.width());
    let mean: Vec<f64> = (0..width)
        .map(|j| (0..n).map(|i| f64::from(features.row(i)[j])).sum::<f64>() / n as f64)
        .collect();
    let centred = |row: &[f32]| -> Vec<f64> {
        row.iter()
            .zip(&mean)
            .map(|(x, mean)| f64::from(*x) - mean)
            .collect()
    };
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let query = centred(query);
    let cosine = |i: usize| {
        let row = centred(features.row(i));
        dot(&row, &query) / (dot(&row, &row) * dot(&query, &query)).sqrt()
    };
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| cosine(*b).total_cmp(&cosine(*a)));
    order.truncate(k);
    order
}

#[test]
fn the_nearest_are_the_nearest() {
    let features = clouds(500, 5, 0.3);
    let gallery = Gallery::of(&features);
    for picture in (0..500).step_by(17) {
        let mut query = features.row(picture).to_vec();
        query[picture % 8] += 0.2;
        let found = gallery.nearest(&query, 7).unwrap();
        let found: Vec<_> = found.into_iter().map(|neighbour| neighbour.path).collect();
        let wanted = nearest(&features, &query, 7)
            .into_iter()
            .map(|i| features.paths()[i].clone());
        assert_eq!(found, wanted.collect::<Vec<_>>());
    }
    assert_eq!(
        gallery.nearest(features.row(3), 1).unwrap()[0].path,
        features.paths()[3]
    );
    assert_eq!(gallery.nearest(features.row(3), 1000).unwrap().len(), 500);
    assert!(gallery.nearest(features.row(3), 0).unwrap().is_empty());
}

#[test]
fn a_gallery_is_kept_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gallery.safetensors");
    let gallery = Gallery::of(&clouds(50, 3, 0.5));
    gallery.save(&path).unwrap();
    assert_eq!(Gallery::load(&path).unwrap(), gallery);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(message(Gallery::load(&path)).contains("checksum"));
    assert!(message(Gallery::load(folder.path().join("none"))).contains("none"));
}

#[test]
fn an_embedding_is_what_the_features_are() {
    let (folder, dataset) = colours(3);
    let head = Head::sigmoid().pooling(Pooling::GlobalAverage);
    let model = Classifier::new(frozen_base(), head, dataset.class_names()).unwrap();
    let model = model.input_size(32, 32).unwrap();
    let features = Features::of(&model, &dataset).unwrap();
    for (index, item) in dataset.items().iter().enumerate() {
        let embedding = model.embed(&item.path).unwrap();
        for (a, b) in embedding.iter().zip(features.row(index)) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
        let nearest = Gallery::of(&features).nearest(&embedding, 2).unwrap();
        assert_eq!(nearest[0].path, item.path);
        assert_eq!(nearest[1].class, dataset.class_names()[item.label]);
    }
    let gallery = Gallery::of(&features);
    assert!(message(gallery.nearest(&[1.0], 1)).contains("embedding"));
    assert!(message(gallery.nearest(&[f32::NAN; 512], 1)).contains("no finite number"));
    assert!(model.embed(folder.path().join("none.png")).is_err());
}
