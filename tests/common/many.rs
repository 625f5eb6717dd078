//! An archive of very many pictures, and the memory that this process takes. Peaks are those of a process: a test that
//! measures one is alone in its file.
#![allow(dead_code, reason = "no test binary asks for all of them")]

use std::{
    fs::{self, File},
    io::{BufWriter, Cursor},
    path::{Path, PathBuf},
};

use image::{ImageFormat, Rgb, RgbImage};

pub const PICTURES: usize = 100_000;
pub const CLASSES: usize = 200;

/// A line of /proc/self/status, in megabytes.
pub fn megabytes(line: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|found| found.strip_prefix(line));
    let kilobytes = value.unwrap().split_whitespace().next().unwrap();
    kilobytes.parse::<f64>().unwrap() / 1000.0
}

/// Writes an archive of class folders, of 300 MB.
pub fn archive(folder: &Path) -> PathBuf {
    let archive = folder.join("many.tar");
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
        let name = format!("train/class{:03}/{number:06}.jpg", number % CLASSES);
        tar.append_data(&mut header, name, jpeg.as_slice()).unwrap();
    }
    tar.into_inner().unwrap().into_inner().unwrap();
    archive
}
