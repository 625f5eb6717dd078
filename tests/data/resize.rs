//! Resizing against Pillow: the pixels expected stand beside those of decoding.

use headstart::Resize;
use headstart::data::{decode_file, resize};
use image::{Rgb, RgbImage};

use crate::decode::{EXPECTED, difference, fixture};

#[test]
fn resizing_is_pillows() {
    let noise = decode_file(fixture("noise.png")).unwrap();
    let mut pairs = 0;
    for name in EXPECTED.keys() {
        let [how, height, width] = name.split(' ').collect::<Vec<_>>()[..] else {
            continue;
        };
        let (height, width) = (height.parse().unwrap(), width.parse().unwrap());
        let resized = resize(&noise, height, width, how.parse().unwrap());
        assert_eq!(difference(&resized, name), 0, "{name}");
        pairs += 1;
    }
    assert_eq!(pairs, 12 + 9);
}

#[test]
fn the_right_size_is_left_alone() {
    let noise = decode_file(fixture("noise.png")).unwrap();
    for how in [Resize::Nearest, Resize::Bilinear, Resize::Bicubic] {
        assert_eq!(resize(&noise, noise.height(), noise.width(), how), noise);
    }
}

#[test]
fn resize_is_parsed_and_displayed() {
    for how in [Resize::Nearest, Resize::Bilinear, Resize::Bicubic] {
        assert_eq!(how.to_string().parse::<Resize>().unwrap(), how);
        assert_eq!(serde_json::to_string(&how).unwrap(), format!("\"{how}\""));
    }
    let error = "cubic".parse::<Resize>().unwrap_err().to_string();
    assert_eq!(
        error,
        "option `resize` is cubic; allowed: nearest, bilinear, bicubic"
    );
}

/// Weights that add up to 1 leave a plain picture plain, negative lobes or not.
#[test]
fn a_plain_picture_stays_plain() {
    for level in [0, 1, 127, 254, 255] {
        let plain = RgbImage::from_pixel(37, 23, Rgb([level; 3]));
        for how in [Resize::Nearest, Resize::Bilinear, Resize::Bicubic] {
            for (height, width) in [(5, 80), (80, 5), (23, 36), (1, 1), (200, 200)] {
                let resized = resize(&plain, height, width, how);
                assert!(resized.pixels().all(|pixel| pixel.0 == [level; 3]));
            }
        }
    }
}
