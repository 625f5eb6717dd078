//! Which GPU each rank has: one to itself, or none of them begins.

use super::Communicator;
use crate::error::{Error, Result};

/// What tells a GPU from all others, on whatever machine.
pub(super) type Uuid = [u8; 16];

/// A rank's GPU, or why it has none.
pub(super) type Own = std::result::Result<Uuid, String>;

/// Makes sure, on every rank, that each has a GPU to itself.
pub(super) fn agree(ranks: &dyn Communicator, own: &Own) -> Result<()> {
    let unreadable = |rank: usize| {
        move |error: serde_json::Error| Error::Rank {
            rank: Some(rank),
            reason: format!("what it says of its GPU cannot be understood: {error}"),
        }
    };
    let own = serde_json::to_vec(own).map_err(unreadable(ranks.rank()))?;
    let all = ranks.gather(&own)?;
    let all = all.iter().enumerate();
    let all = all.map(|(rank, own)| serde_json::from_slice(own).map_err(unreadable(rank)));
    check(&all.collect::<Result<Vec<Own>>>()?)
}

fn check(all: &[Own]) -> Result<()> {
    let expected = "one to itself: as many ranks on a machine as it has GPUs";
    for (rank, own) in all.iter().enumerate() {
        let what = format!("rank {rank}: GPU");
        let uuid = match own {
            Ok(uuid) => uuid,
            Err(reason) => return Err(Error::mismatch(&what, reason, expected)),
        };
        let same = |other: &Own| other.as_ref() == Ok(uuid);
        if let Some(other) = all[..rank].iter().position(same) {
            let found = format!("the one that rank {other} has");
            return Err(Error::mismatch(&what, found, expected));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::communicator::Alone;

    #[test]
    fn a_rank_without_a_gpu_to_itself_is_named() {
        let gpu = |number| Ok([number; 16]);
        assert!(check(&[gpu(1), gpu(2), gpu(3)]).is_ok());
        let said = |all: &[Own]| check(all).unwrap_err().to_string();
        let expected = "; expected one to itself: as many ranks on a machine as it has GPUs";
        assert_eq!(
            said(&[gpu(1), gpu(2), gpu(1)]),
            format!("rank 2: GPU: found the one that rank 0 has{expected}")
        );
        assert_eq!(
            said(&[gpu(1), Err("the CPU".into())]),
            format!("rank 1: GPU: found the CPU{expected}")
        );
    }

    #[test]
    fn what_a_rank_says_of_its_gpu_is_understood() {
        assert!(agree(&Alone, &Ok([7; 16])).is_ok());
        let error = agree(&Alone, &Err("the CPU".into())).unwrap_err();
        assert!(error.to_string().starts_with("rank 0: GPU: found the CPU"));
    }
}
