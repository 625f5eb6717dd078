//! What to do next, in sentences.

use super::study::Study;
use crate::words::count;

/// A class with fewer pictures is small.
const SMALL: usize = 20;

/// From half to all pictures, accuracy has to rise by so much for more to be worth while.
const RISE: f64 = 0.005;

/// What a study's figures ask for, the most urgent first.
pub(super) fn of<B>(study: &Study<B>) -> Vec<String> {
    let mut advice = Vec::new();
    pictures(study, &mut advice);
    figures(study, &mut advice);
    advice
}

fn pictures<B>(study: &Study<B>, advice: &mut Vec<String>) {
    let pairs = study.duplicates.pairs();
    let leaks = pairs.iter().filter(|pair| pair.leaks()).count();
    if leaks > 0 {
        advice.push(format!(
            "Take {} out of one part: while a picture is in two, figures on either are too good.",
            count(leaks, "picture")
        ));
    }
    let contradictions = pairs.iter().filter(|pair| pair.contradicts()).count();
    if contradictions > 0 {
        advice.push(format!(
            "Decide on {} that are there twice with different labels.",
            count(contradictions, "picture")
        ));
    }
    let likely = study.suspects.likely().count();
    if likely > 0 {
        advice.push(format!(
            "Look at the {} whose labels are likely wrong, and mend or leave out what is.",
            count(likely, "picture")
        ));
    }
    let unfit: usize = study.parts.iter().map(|part| part.unfit.len()).sum();
    if unfit > 0 {
        advice.push(format!(
            "Replace {} that are broken, tiny or blank.",
            count(unfit, "picture")
        ));
    }
    let train = study
        .parts
        .first()
        .into_iter()
        .flat_map(|part| &part.counts);
    for (class, number) in train.filter(|(_, number)| *number < SMALL) {
        advice.push(format!(
            "Class `{class}` has {}: add to it.",
            count(*number, "picture")
        ));
    }
}

fn figures<B>(study: &Study<B>, advice: &mut Vec<String>) {
    let Some(estimate) = &study.estimate else {
        advice.push("With two pictures or more of each class there could be an estimate.".into());
        return;
    };
    let mut classes: Vec<_> = estimate
        .per_class
        .iter()
        .filter(|class| class.pictures > 0)
        .collect();
    classes.sort_by(|a, b| a.recall.mean.total_cmp(&b.recall.mean));
    if let Some(worst) = classes
        .first()
        .filter(|worst| worst.recall.high < estimate.accuracy.mean)
    {
        advice.push(format!(
            "Class `{}` is recognised worst, {}: more, or more typical, pictures of it help most.",
            worst.class, worst.recall
        ));
    }
    if let [.., half, all] = &study.curve[..] {
        let rise = 100.0 * (all.accuracy.mean - half.accuracy.mean);
        advice.push(match rise > 100.0 * RISE {
            true => format!(
                "More pictures would help: from half of them to all, accuracy rose by {rise:.1} points."
            ),
            false => format!(
                "More pictures of the same kind would help little: from half of them to all, accuracy rose by \
                 {rise:.1} points."
            ),
        });
    }
    advice.push(match estimate.accuracy.mean {
        mean if mean > 0.99 => "The linear head is about as good as it gets; save `study.model`.".into(),
        _ => "Fine-tune from this head (`Trainer::fine_tuning_from_fitted`), with larger pictures or a larger base."
            .to_owned(),
    });
}
