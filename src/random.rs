//! Random streams that depend on nothing but what they are for.
//!
//! One stream per (seed, purpose, epoch, picture): whatever the number of threads, or the batch a picture
//! lands in, its augmentation and dropout are the same.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// What a stream is for: streams of different purposes are independent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// Fresh parameters.
    Init = 1,
    /// The order of pictures.
    Shuffle = 2,
    /// Which pictures a split takes.
    Split = 3,
    /// Augmentation of one picture.
    Augment = 4,
    /// Dropout for one picture.
    Dropout = 5,
    /// Which pictures a fold of cross-validation takes.
    Folds = 6,
}

/// The stream for one (seed, purpose, epoch, picture).
pub(crate) fn stream(seed: u64, purpose: Purpose, epoch: u64, picture: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (slot, word) in key
        .chunks_exact_mut(8)
        .zip([seed, purpose as u64, epoch, picture])
    {
        slot.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng;

    #[test]
    fn each_coordinate_changes_the_stream() {
        let first =
            |seed, purpose, epoch, picture| stream(seed, purpose, epoch, picture).next_u64();
        let base = first(1, Purpose::Augment, 2, 3);
        assert_eq!(base, first(1, Purpose::Augment, 2, 3));
        assert_ne!(base, first(2, Purpose::Augment, 2, 3));
        assert_ne!(base, first(1, Purpose::Dropout, 2, 3));
        assert_ne!(base, first(1, Purpose::Augment, 3, 3));
        assert_ne!(base, first(1, Purpose::Augment, 2, 4));
    }
}
