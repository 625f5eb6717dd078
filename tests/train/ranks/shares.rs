//! Scores and studies that ranks share are those of one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use headstart::data::Policy;
use headstart::model::Vgg;
use headstart::study::{Study, StudyOptions};
use headstart::train::communicator::{Communicator, Sum};
use headstart::{Block, Classifier, ConvBase, Dataset, Device, Head, Result, Weights};

use super::hub::{Member, together};
use super::{model, vgg};
use crate::common;

/// Three batches of 32 and a short one.
const PICTURES: u32 = 52;

/// Three classes, the second half as large as the others.
fn three_classes(folder: &tempfile::TempDir) -> (Classifier, Dataset) {
    std::fs::create_dir(folder.path().join("green")).unwrap();
    for number in 0..26 {
        let from = folder.path().join(format!("red/{number}.png"));
        let to = folder.path().join(format!("green/{number}.png"));
        std::fs::rename(from, to).unwrap();
    }
    let vgg = Vgg::Vgg11.width(0.125).unwrap();
    let base = ConvBase::new(vgg, Weights::Random { seed: 3 }, &Device::Cpu).unwrap();
    let names = ["blue", "green", "red"];
    let model = Classifier::new(base, Head::softmax(3), &names).unwrap();
    let model = model.input_size(32, 32).unwrap();
    (model, Dataset::open(folder.path()).unwrap())
}

#[test]
fn scores_of_ranks_are_those_of_one_to_the_bit() {
    let (folder, dataset) = common::colours(PICTURES);
    let two = vgg(Some(Block::Conv5));
    let alone = two.score(&dataset).unwrap();
    assert!(alone.evaluation.auc.is_some());
    for ranks in [1, 2, 3, 4, 6] {
        let found = together(ranks, |member| two.score_together(&dataset, member));
        for (rank, found) in found.into_iter().enumerate() {
            assert_eq!(found.unwrap(), alone, "rank {rank} of {ranks}");
        }
    }
    let (three, dataset) = three_classes(&folder);
    let alone = three.score(&dataset).unwrap();
    let found = together(3, |member| three.score_together(&dataset, member).unwrap());
    assert!(found.iter().all(|found| *found == alone));
}

#[test]
fn pictures_that_ranks_cannot_read_are_left_out_as_one_leaves_them() {
    let (folder, _) = common::colours(PICTURES);
    for name in ["blue/1.png", "blue/40.png", "red/4.png", "red/51.png"] {
        std::fs::write(folder.path().join(name), b"no picture").unwrap();
    }
    // A whole batch, which is one rank's.
    let open = || Dataset::open(folder.path()).unwrap();
    let batch = open().items()[32..64].to_vec();
    for item in &batch {
        std::fs::write(&item.path, b"no picture").unwrap();
    }
    let model = vgg(None);
    let alone = model.score(&open()).unwrap();
    let found = together(3, |member| {
        // Each looks for itself, as on a machine of its own.
        let dataset = open();
        let scores = model.score_together(&dataset, member).unwrap();
        (scores, dataset.problems().len())
    });
    for (scores, problems) in found {
        assert_eq!(scores, alone);
        assert_eq!(problems, open_problems(&open(), &model));
    }
    let errors = together(3, |member| {
        let dataset = open().policy(Policy::Fail).unwrap();
        let scores = model.score_together(&dataset, member);
        scores.unwrap_err().to_string()
    });
    let named = |error: &String| error.contains(".png");
    assert!(errors.iter().all(named), "{errors:?}");
}

/// How many pictures one process finds that it cannot read.
fn open_problems(dataset: &Dataset, model: &Classifier) -> usize {
    model.score(dataset).unwrap();
    dataset.problems().len()
}

#[test]
fn ranks_that_would_score_something_else_are_named() {
    let (folder, dataset) = common::colours(PICTURES);
    let (other_folder, _) = common::colours(PICTURES - 1);
    let said = |work: &(dyn Fn(usize) -> (Classifier, Dataset) + Sync)| {
        together(3, |member| {
            let (model, dataset) = work(member.rank());
            let scores = model.score_together(&dataset, member);
            scores.unwrap_err().to_string()
        })
    };
    let files = said(&|rank| {
        let folder = if rank == 2 { &other_folder } else { &folder };
        (vgg(None), Dataset::open(folder.path()).unwrap())
    });
    let weights = said(&|rank| {
        let vgg = Vgg::Vgg11.width(0.125).unwrap();
        let seed = if rank == 1 { 4 } else { 3 };
        let base = ConvBase::new(vgg, Weights::Random { seed }, &Device::Cpu).unwrap();
        (model(base, Head::sigmoid()), dataset.clone())
    });
    let sizes = said(&|rank| {
        let model = vgg(None);
        let model = match rank {
            1 => model.input_size(64, 64).unwrap(),
            _ => model,
        };
        (model, dataset.clone())
    });
    for (errors, start) in [
        (files, "rank 2: pictures: found 102 with hash"),
        (weights, "rank 1: weights: found with checksum"),
        (sizes, "rank 1: "),
    ] {
        let starts = |error: &String| error.starts_with(start);
        assert!(errors.iter().all(starts), "{errors:?}");
    }
}

#[test]
fn a_study_of_ranks_is_that_of_one() {
    let (folder, _) = common::colours(20);
    std::fs::write(folder.path().join("blue/7.png"), b"no picture").unwrap();
    // One picture twice.
    let copied = std::fs::copy(
        folder.path().join("red/3.png"),
        folder.path().join("red/30.png"),
    );
    copied.unwrap();
    let (test_folder, _) = common::colours(6);
    let base = vgg(None).base().clone();
    let study = |asked: StudyOptions| -> Study<ConvBase> {
        let train = Dataset::open(folder.path()).unwrap();
        let test = Dataset::open(test_folder.path()).unwrap();
        let asked = asked.part("test", &test).input_size(32, 32);
        asked.run(&base, &train).unwrap()
    };
    let alone = study(Study::options()).to_json();
    assert!(!alone["duplicates"].as_array().unwrap().is_empty());
    assert!(alone.to_string().contains("7.png"));
    for ranks in [1, 2, 3] {
        let found = together(ranks, |member| {
            study(Study::options().communicator(member)).to_json()
        });
        assert!(found.iter().all(|found| *found == alone), "{ranks} ranks");
    }
}

/// A rank that hears half of what rank 1 says, once.
#[derive(Debug)]
struct HalfHeard {
    member: Member,
    /// Which message it is.
    nth: usize,
    messages: AtomicUsize,
}

impl Communicator for HalfHeard {
    fn rank(&self) -> usize {
        self.member.rank()
    }

    fn size(&self) -> usize {
        self.member.size()
    }

    fn begin_sum(&self, buffer: Vec<f32>) -> Result<Sum> {
        self.member.begin_sum(buffer)
    }

    fn broadcast(&self, bytes: Vec<u8>, from: usize) -> Result<Vec<u8>> {
        Ok(self.gather(&bytes)?.swap_remove(from))
    }

    fn gather(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut all = self.member.gather(bytes)?;
        if self.messages.fetch_add(1, Ordering::Relaxed) == self.nth {
            let half = all[1].len() / 2;
            all[1].truncate(half);
        }
        Ok(all)
    }
}

/// Runs `work` on two ranks, each time with another message cut: an error, or what nothing was missing from.
fn is_told_or_right<T: PartialEq + Send>(
    work: impl Fn(Arc<HalfHeard>) -> Result<T> + Sync,
    right: &T,
) {
    let mut told = 0;
    for nth in 0.. {
        let found = together(2, |member| {
            let rank = Arc::new(HalfHeard {
                member,
                nth,
                messages: AtomicUsize::new(0),
            });
            let found = work(rank.clone());
            (found, rank.messages.load(Ordering::Relaxed))
        });
        for (found, _) in &found {
            match found {
                Ok(found) => assert!(found == right, "message {nth}"),
                Err(_) => told += 1,
            }
        }
        if found.iter().all(|(_, messages)| *messages <= nth) {
            assert!(told > 0);
            return;
        }
    }
}

#[test]
fn a_message_cut_short_is_an_error() {
    let (folder, dataset) = common::colours(20);
    let model = vgg(None);
    let scores = model.score(&dataset).unwrap();
    is_told_or_right(|rank| model.score_together(&dataset, rank), &scores);

    let base = model.base().clone();
    let study = |asked: StudyOptions| {
        let train = Dataset::open(folder.path())?;
        let study: Study<ConvBase> = asked.input_size(32, 32).run(&base, &train)?;
        Ok(study.to_json())
    };
    let alone = study(Study::options()).unwrap();
    is_told_or_right(|rank| study(Study::options().communicator(rank)), &alone);
}
