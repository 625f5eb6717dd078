//! The memory that pictures take while they are decoded. A peak is that of a process: the measured test is run alone,
//! in a process of its own.

use std::io::Write;
use std::process::Command;
use std::thread;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use headstart::data::Decoder;

use crate::many::megabytes;
use crate::numbers::crc32;

/// A black PNG of one bit a pixel: small as a file.
fn black_and_white(side: u32) -> Vec<u8> {
    let row = vec![0; 1 + (side as usize).div_ceil(8)];
    let mut pixels = ZlibEncoder::new(Vec::new(), Compression::best());
    (0..side).for_each(|_| pixels.write_all(&row).unwrap());
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let header = [
        &side.to_be_bytes()[..],
        &side.to_be_bytes(),
        &[1, 0, 0, 0, 0],
    ]
    .concat();
    for (kind, content) in [
        (b"IHDR", header),
        (b"IDAT", pixels.finish().unwrap()),
        (b"IEND", Vec::new()),
    ] {
        let body = [kind.as_slice(), &content].concat();
        bytes.extend((content.len() as u32).to_be_bytes());
        bytes.extend(&body);
        bytes.extend(crc32(&body).to_be_bytes());
    }
    bytes
}

#[test]
fn a_small_file_of_many_pixels_is_refused_before_it_is_decoded() {
    let file = black_and_white(22_000);
    let refused = Decoder::new().decode_bytes(&file).unwrap_err().to_string();
    assert!(
        refused.contains("22000 × 22000 pixels are too many"),
        "{refused}"
    );
    assert!(refused.contains("MiB"), "{refused}");
}

#[test]
#[ignore = "is run by the other"]
fn child() {
    // 16 million pixels: 64 MB with the conversion, and no more than two at a time; what is done is dropped a little
    // later.
    let file = black_and_white(4_000);
    let before = megabytes("VmRSS:");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let picture = Decoder::new().budget(64 << 20).decode_bytes(&file).unwrap();
                assert_eq!(picture.dimensions(), (4_000, 4_000));
            });
        }
    });
    let peak = megabytes("VmHWM:") - before;
    println!("{peak:.0} MB at most");
    assert!(peak < 260.0, "{peak} MB");
}

#[test]
fn all_threads_together_take_twice_the_budget_of_one() {
    let binary = std::env::current_exe().unwrap();
    let child = Command::new(binary)
        .args(["budget::child", "--exact", "--ignored", "--nocapture"])
        .status();
    assert!(child.unwrap().success());
}
