//! What to do next, in sentences.

use super::duplicates::Duplicates;
use super::estimate::Estimate;
use crate::words::count;

/// A class with fewer pictures is small.
const SMALL: usize = 20;

/// From half to all pictures, accuracy has to rise by so much for more to be worth while.
const RISE: f64 = 0.005;

/// What a study found.
pub(super) struct Findings<'a> {
    pub(super) duplicates: &'a Duplicates,
    /// How many labels are likely wrong.
    pub(super) likely: usize,
    /// How many pictures are broken, tiny or blank.
    pub(super) unfit: usize,
    /// How many training pictures each class has.
    pub(super) counts: &'a [(String, usize)],
    pub(super) estimate: Option<&'a Estimate>,
    /// What accuracy gained from half of the pictures to all, if that was tried.
    pub(super) rise: Option<f64>,
}

/// What the findings ask for, the most urgent first.
pub(super) fn of(findings: &Findings<'_>) -> Vec<String> {
    let mut advice = Vec::new();
    pictures(findings, &mut advice);
    figures(findings, &mut advice);
    advice
}

fn pictures(findings: &Findings<'_>, advice: &mut Vec<String>) {
    let pairs = findings.duplicates.pairs();
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
    if findings.likely > 0 {
        advice.push(format!(
            "Look at the {} whose labels are likely wrong, and mend or leave out what is.",
            count(findings.likely, "picture")
        ));
    }
    if findings.unfit > 0 {
        advice.push(format!(
            "Replace {} that are broken, tiny or blank.",
            count(findings.unfit, "picture")
        ));
    }
    let small = |(_, number): &&(String, usize)| *number < SMALL;
    for (class, number) in findings.counts.iter().filter(small) {
        advice.push(format!(
            "Class `{class}` has {}: add to it.",
            count(*number, "picture")
        ));
    }
}

fn figures(findings: &Findings<'_>, advice: &mut Vec<String>) {
    let Some(estimate) = findings.estimate else {
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
    if let Some(rise) = findings.rise {
        let points = 100.0 * rise;
        advice.push(match rise > RISE {
            true => format!(
                "More pictures would help: from half of them to all, accuracy rose by {points:.1} points."
            ),
            false => format!(
                "More pictures of the same kind would help little: from half of them to all, accuracy rose by \
                 {points:.1} points."
            ),
        });
    }
    advice.push(match estimate.accuracy.mean {
        mean if mean > 0.99 => "The linear head is about as good as it gets; save `study.model`.".into(),
        _ => "Fine-tune from this head (`Trainer::fine_tuning_from_fitted`), with larger pictures or a larger base."
            .to_owned(),
    });
}
