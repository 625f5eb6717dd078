//! Batches: every picture once, in an order fixed by the seed, whatever the threads.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use headstart::data::{Batch, Loader, Policy};
use headstart::{DirectoryDataset, Error, Preprocess, Resize};
use image::{Rgb, RgbImage};
use tempfile::TempDir;

use crate::numbers::values;

/// A dataset of `counts` pictures per class, 12 × 10 pixels and larger, each of its own colours.
fn pictures(counts: &[usize]) -> (TempDir, DirectoryDataset) {
    let root = tempfile::tempdir().unwrap();
    for (class, &count) in counts.iter().enumerate() {
        let folder = root.path().join(format!("class{class}"));
        fs::create_dir(&folder).unwrap();
        for number in 0..count as u32 {
            let picture = RgbImage::from_fn(12 + number, 10, |x, y| {
                Rgb([
                    (x * 9) as u8,
                    (y * 20) as u8,
                    (class as u32 * 90 + number) as u8,
                ])
            });
            picture
                .save(folder.join(format!("{number:02}.png")))
                .unwrap();
        }
    }
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    (root, dataset)
}

fn epoch(loader: &Loader, epoch: u64) -> Vec<Batch> {
    loader.epoch(epoch).collect::<Result<_, _>>().unwrap()
}

fn ids(batches: &[Batch]) -> Vec<u64> {
    batches.iter().flat_map(|batch| batch.ids.clone()).collect()
}

#[test]
fn each_picture_comes_once_and_the_last_batch_is_short() {
    let (_root, dataset) = pictures(&[7, 6]);
    for loader in [
        Loader::new(&dataset, 8, 9).batch_size(5),
        Loader::new(&dataset, 8, 9).batch_size(5).shuffle(1),
        Loader::new(&dataset, 8, 9).batch_size(5).cache(0),
        // A budget of three pictures, and one byte short of four.
        Loader::new(&dataset, 8, 9)
            .batch_size(5)
            .cache(8 * 9 * 3 * 4 - 1),
    ] {
        assert_eq!(loader.batches(), 3);
        for number in 0..3 {
            let batches = epoch(&loader, number);
            let sizes: Vec<_> = batches.iter().map(|batch| batch.labels.len()).collect();
            assert_eq!(sizes, [5, 5, 3]);
            for batch in &batches {
                assert_eq!(batch.inputs.dims(), [batch.labels.len(), 3, 8, 9]);
                for (label, id) in batch.labels.iter().zip(&batch.ids) {
                    assert_eq!(*label as usize, dataset.items()[*id as usize].label);
                }
            }
            let mut ids = ids(&batches);
            ids.sort_unstable();
            assert_eq!(ids, (0..13).collect::<Vec<_>>());
        }
    }
}

#[test]
fn unshuffled_is_the_dataset_s_order() {
    let (_root, dataset) = pictures(&[5, 5]);
    let dataset = dataset.shuffle(4);
    let expected: Vec<u64> = dataset.items().iter().map(|item| item.id).collect();
    let loader = Loader::new(&dataset, 8, 8).batch_size(3);
    assert_eq!(ids(&epoch(&loader, 0)), expected);
    assert_eq!(ids(&epoch(&loader, 1)), expected);
}

#[test]
fn the_order_is_fixed_by_seed_and_epoch() {
    let (_root, dataset) = pictures(&[10, 10]);
    let order = |seed, number| {
        let loader = Loader::new(&dataset, 4, 4).batch_size(6).shuffle(seed);
        ids(&epoch(&loader, number))
    };
    assert_eq!(order(1, 0), order(1, 0));
    assert_ne!(order(1, 0), order(1, 1));
    assert_ne!(order(1, 0), order(2, 0));
}

#[test]
fn threads_change_nothing() {
    let (root, _) = pictures(&[9, 8]);
    fs::write(root.path().join("class0/03.png"), "damaged").unwrap();
    let on_threads = |threads| {
        let dataset = DirectoryDataset::open(root.path()).unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let loader = Loader::new(&dataset, 8, 8)
                .batch_size(4)
                .shuffle(1)
                .cache(2000);
            [epoch(&loader, 0), epoch(&loader, 1)].concat()
        })
    };
    let (one, four) = (on_threads(1), on_threads(4));
    assert_eq!(one.len(), four.len());
    for (a, b) in one.iter().zip(&four) {
        assert_eq!((&a.ids, &a.labels), (&b.ids, &b.labels));
        assert_eq!(values(&a.inputs), values(&b.inputs));
    }
}

#[test]
fn batches_hold_the_resized_and_preprocessed_pixels() {
    // Pictures of one colour stay so at any size, and Keras and torchvision say what becomes of it.
    let root = tempfile::tempdir().unwrap();
    for class in ["a", "b"] {
        fs::create_dir(root.path().join(class)).unwrap();
        let picture = RgbImage::from_pixel(30, 20, Rgb([255, 128, 0]));
        picture.save(root.path().join(class).join("1.png")).unwrap();
    }
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    for (preprocess, expected) in [
        (Preprocess::Unit, [1.0, 0.501_960_8, 0.0]),
        // keras.applications.vgg19.preprocess_input([[[255, 128, 0]]]), Keras 3
        (Preprocess::Caffe, [-103.939, 11.221, 131.32]),
        // torchvision.transforms.Normalize([.485, .456, .406], [.229, .224, .225]) of [1, 128/255, 0]
        (Preprocess::Torch, [2.248_908_3, 0.205_182_2, -1.804_444_4]),
    ] {
        for how in [Resize::Nearest, Resize::Bilinear] {
            let loader = Loader::new(&dataset, 7, 11)
                .resize(how)
                .preprocess(preprocess);
            let batch = epoch(&loader, 0).remove(0);
            for (at, value) in values(&batch.inputs).into_iter().enumerate() {
                let channel = at / (7 * 11) % 3;
                approx::assert_abs_diff_eq!(value, expected[channel], epsilon = 2e-5);
            }
        }
    }
}

#[test]
fn height_width_and_channels_are_in_place() {
    // 2 × 3 pixels, all different, at their own size: (N, 3, H, W) with W fastest.
    let root = tempfile::tempdir().unwrap();
    for class in ["a", "b"] {
        fs::create_dir(root.path().join(class)).unwrap();
        let picture = RgbImage::from_fn(3, 2, |x, y| {
            Rgb([0, 100, 200].map(|c| (c + 10 * y + x) as u8))
        });
        picture.save(root.path().join(class).join("1.png")).unwrap();
    }
    let dataset = DirectoryDataset::open(root.path()).unwrap();
    let batch = epoch(&Loader::new(&dataset, 2, 3), 0).remove(0);
    let levels: Vec<f32> = values(&batch.inputs.get(0).unwrap());
    let levels: Vec<u32> = levels
        .iter()
        .map(|value| (value * 255.0).round() as u32)
        .collect();
    assert_eq!(
        levels,
        [
            0, 1, 2, 10, 11, 12, 100, 101, 102, 110, 111, 112, 200, 201, 202, 210, 211, 212
        ]
    );
}

#[test]
fn the_cache_changes_nothing_but_the_reading() {
    let (root, dataset) = pictures(&[3, 3]);
    let by_id = |loader: &Loader, number| -> HashMap<u64, Vec<f32>> {
        let batches = epoch(loader, number);
        let pixels = |batch: &Batch| -> Vec<_> {
            let rows = (0..batch.ids.len()).map(|row| values(&batch.inputs.get(row).unwrap()));
            batch.ids.iter().copied().zip(rows).collect()
        };
        batches.iter().flat_map(pixels).collect()
    };
    let cached = Loader::new(&dataset, 8, 8).batch_size(4).shuffle(1);
    let uncached = cached.clone().cache(0);
    assert_eq!(by_id(&cached, 0), by_id(&uncached, 1));

    // Once all are in memory, the files are not needed; and clones share them.
    fs::remove_dir_all(root.path()).unwrap();
    assert_eq!(by_id(&cached.clone(), 2).len(), 6);
    assert_eq!(epoch(&uncached, 2).len(), 0);
    assert_eq!(dataset.problems().len(), 6);
}

#[test]
fn no_more_is_kept_than_the_budget() {
    for kept in 0..=7 {
        let (root, dataset) = pictures(&[3, 3]);
        let picture = 8 * 9 * 3;
        let loader = Loader::new(&dataset, 8, 9).batch_size(4).shuffle(1);
        let loader = loader.cache(kept * picture + picture - 1);
        assert_eq!(ids(&epoch(&loader, 0)).len(), 6);
        // What is not in memory is gone.
        fs::remove_dir_all(root.path()).unwrap();
        let mut found = ids(&epoch(&loader, 1));
        found.sort_unstable();
        assert_eq!(found, (0..kept.min(6) as u64).collect::<Vec<_>>());
    }
}

#[test]
fn an_epoch_can_be_left_early_and_outlive_its_loader() {
    let (_root, dataset) = pictures(&[9, 9]);
    let loader = Loader::new(&dataset, 8, 8).batch_size(2).shuffle(1);
    let expected = epoch(&loader, 1);
    for taken in [0, 1, 5] {
        let batches: Vec<_> = loader.epoch(1).take(taken).map(Result::unwrap).collect();
        assert_eq!(ids(&batches), ids(&expected[..taken]));
    }
    let batches = loader.epoch(1);
    drop((loader, dataset));
    let batches: Vec<_> = batches.map(Result::unwrap).collect();
    assert_eq!(ids(&batches), ids(&expected));
}

#[test]
fn epochs_may_run_side_by_side_inside_a_pool_of_one_thread() {
    // Whoever waits for a batch holds the pool's only thread.
    let (_root, dataset) = pictures(&[5, 5]);
    let loader = Loader::new(&dataset, 8, 8).batch_size(3).shuffle(1);
    let expected = [ids(&epoch(&loader, 0)), ids(&epoch(&loader, 1))];
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1);
    let (first, second) = pool.build().unwrap().install(|| {
        let both = loader.epoch(0).zip(loader.epoch(1));
        both.map(|(a, b)| (a.unwrap().ids, b.unwrap().ids)).unzip()
    });
    let (first, second): (Vec<_>, Vec<_>) = (first, second);
    assert_eq!([first.concat(), second.concat()], expected);
}

#[test]
fn after_an_error_the_next_batch_comes() {
    let (root, dataset) = pictures(&[4, 4]);
    for name in ["class0/02.png", "class1/01.png"] {
        damage(&root.path().join(name));
    }
    let dataset = dataset.policy(Policy::Fail).unwrap();
    let batches = Loader::new(&dataset, 8, 8).batch_size(2).epoch(0);
    let found: Vec<_> = batches
        .map(|batch| batch.map(|batch| batch.ids).ok())
        .collect();
    assert_eq!(found, [Some(vec![0, 1]), None, None, Some(vec![6, 7])]);
}

#[test]
fn another_resize_does_not_see_the_old_cache() {
    let (_root, dataset) = pictures(&[2, 2]);
    let bilinear = Loader::new(&dataset, 5, 5);
    let smooth = epoch(&bilinear, 0);
    let nearest = epoch(&bilinear.resize(Resize::Nearest), 0);
    assert_ne!(values(&smooth[0].inputs), values(&nearest[0].inputs));
}

fn damage(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn a_bad_picture_makes_its_batch_shorter() {
    let (root, dataset) = pictures(&[4, 4]);
    damage(&root.path().join("class0/01.png"));
    let loader = Loader::new(&dataset, 8, 8).batch_size(2);
    for number in 0..2 {
        let batches = epoch(&loader, number);
        assert_eq!(ids(&batches), [0, 2, 3, 4, 5, 6, 7]);
        assert_eq!(batches[0].inputs.dims(), [1, 3, 8, 8]);
        assert_eq!(batches.len(), 4);
    }
    let problems = dataset.problems();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].path, root.path().join("class0/01.png"));
    assert!(!problems[0].reason.is_empty());
}

#[test]
fn an_entirely_bad_batch_is_left_out() {
    let (root, dataset) = pictures(&[4, 4]);
    for name in ["class0/02.png", "class0/03.png"] {
        fs::write(root.path().join(name), "").unwrap();
    }
    let batches = epoch(&Loader::new(&dataset, 8, 8).batch_size(2), 0);
    assert_eq!(ids(&batches), [0, 1, 4, 5, 6, 7]);
    assert_eq!(batches.len(), 3);
}

#[test]
fn a_picture_known_bad_is_not_read_again() {
    let (root, dataset) = pictures(&[2, 2]);
    let path = root.path().join("class0/00.png");
    let good = fs::read(&path).unwrap();
    fs::write(&path, "damaged").unwrap();
    let loader = Loader::new(&dataset, 8, 8);
    assert_eq!(ids(&epoch(&loader, 0)), [1, 2, 3]);
    fs::write(&path, good).unwrap();
    assert_eq!(ids(&epoch(&loader, 1)), [1, 2, 3]);
    let refused = dataset.clone().policy(Policy::Fail).unwrap_err();
    let cause = std::error::Error::source(&refused).unwrap().to_string();
    assert_eq!(cause, dataset.problems()[0].reason);
    let opened_again = DirectoryDataset::open(root.path()).unwrap();
    assert_eq!(
        ids(&epoch(&Loader::new(&opened_again, 8, 8), 0)),
        [0, 1, 2, 3]
    );
}

#[test]
fn under_fail_a_bad_picture_is_an_error() {
    let (root, dataset) = pictures(&[4, 4]);
    let path = root.path().join("class0/02.png");
    damage(&path);
    let dataset = dataset.policy(Policy::Fail).unwrap();
    let loader = Loader::new(&dataset, 8, 8).batch_size(2);
    let mut batches = loader.epoch(0);
    assert_eq!(batches.next().unwrap().unwrap().ids, [0, 1]);
    match batches.next() {
        Some(Err(Error::Picture { path: found, .. })) => assert_eq!(found, path),
        other => panic!("{other:?}"),
    }
}

#[test]
fn options_out_of_range_are_errors() {
    let (_root, dataset) = pictures(&[1, 1]);
    for (option, loader) in [
        ("batch_size", Loader::new(&dataset, 8, 8).batch_size(0)),
        ("height", Loader::new(&dataset, 0, 8)),
        ("width", Loader::new(&dataset, 8, 40_000)),
    ] {
        let _ = loader.batches();
        let found: Vec<_> = loader.epoch(0).collect();
        assert!(
            matches!(&found[..], [Err(Error::InvalidOption { option: named, .. })] if *named == option),
            "{found:?}"
        );
    }
}
