//! The memory that a dataset of many pictures takes. A test binary of its own: the peak is that of the process.

#![cfg(target_os = "linux")]

use std::{
    fs::{self, File},
    io::{BufWriter, Cursor},
};

use headstart::{Augmenter, DirectoryDataset, Loader};
use image::{ImageFormat, Rgb, RgbImage};

const PICTURES: usize = 100_000;

/// A line of /proc/self/status, in megabytes.
fn megabytes(line: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|found| found.strip_prefix(line));
    let kilobytes = value.unwrap().split_whitespace().next().unwrap();
    kilobytes.parse::<f64>().unwrap() / 1000.0
}

#[test]
#[ignore = "writes an archive of 300 MB and reads it twice"]
fn a_hundred_thousand_pictures_take_less_than_600_megabytes() {
    let folder = tempfile::tempdir().unwrap();
    let archive = folder.path().join("many.tar");
    let mut tar = tar::Builder::new(BufWriter::new(File::create(&archive).unwrap()));
    // A tenth of photographs' size, the rest as Tiny ImageNet has them.
    let jpegs: Vec<Vec<u8>> = (0..50)
        .map(|number| {
            let (width, height) = if number % 10 == 0 {
                (220, 160)
            } else {
                (64, 64)
            };
            let picture = RgbImage::from_fn(width, height, |x, y| {
                Rgb([x * y + number, x * 3, y * x * x / 7].map(|level| level as u8))
            });
            let mut bytes = Cursor::new(Vec::new());
            picture.write_to(&mut bytes, ImageFormat::Jpeg).unwrap();
            bytes.into_inner()
        })
        .collect();
    for number in 0..PICTURES {
        let jpeg = &jpegs[number % jpegs.len()];
        let mut header = tar::Header::new_gnu();
        header.set_size(jpeg.len() as u64);
        let name = format!("train/class{:03}/{number:06}.jpg", number % 200);
        tar.append_data(&mut header, name, jpeg.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().into_inner().unwrap();

    let before = megabytes("VmRSS:");
    let dataset = DirectoryDataset::open_tar(&[archive]).unwrap();
    let opened = megabytes("VmHWM:") - before;
    let loader = Loader::new(&dataset, 64, 64).batch_size(32).shuffle(1);
    let loader = loader.augment(Augmenter::notebook(), 1);
    for epoch in 0..2 {
        let batches = loader.epoch(epoch).map(|batch| batch.unwrap().ids.len());
        assert_eq!(batches.sum::<usize>(), PICTURES);
    }
    let peak = megabytes("VmHWM:") - before;
    println!("{opened:.0} MB for the index, {peak:.0} MB at most");
    assert!(peak < 600.0, "{peak} MB");
}
