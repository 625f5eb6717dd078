//! What stands on the pages, as the templates take it. askama escapes all of it but the plots.

use askama::Template;

use super::pictures::Thumbnail;

/// The page of one model.
#[derive(Template)]
#[template(path = "report.html")]
pub(super) struct Page {
    pub(super) title: String,
    pub(super) part: &'static str,
    /// Name and value, the most important first.
    pub(super) figures: Vec<(&'static str, String)>,
    pub(super) blocks: Vec<BlockRow>,
    pub(super) counts: Vec<CountRow>,
    pub(super) curves: Option<Curves>,
    pub(super) classes: Vec<ClassRow>,
    pub(super) more_classes: usize,
    pub(super) matrix: Vec<MatrixRow>,
    pub(super) cells: Vec<Cell>,
    pub(super) roc: Option<String>,
    pub(super) precision_recall: Option<String>,
    pub(super) reliability: String,
    pub(super) calibration_error: String,
    pub(super) mistakes: Vec<Thumbnail>,
    pub(super) least_sure: Vec<Thumbnail>,
    pub(super) study: Option<StudySection>,
    pub(super) contact_sheet: Option<String>,
    pub(super) settings: Vec<(String, String)>,
}

/// A block of the base, or the head.
pub(super) struct BlockRow {
    pub(super) name: String,
    pub(super) parameters: String,
    /// `frozen`, `trained` or `new`.
    pub(super) state: &'static str,
}

/// How many pictures of a class there are to train, validate and test on.
pub(super) struct CountRow {
    pub(super) class: String,
    pub(super) training: String,
    pub(super) validation: String,
    pub(super) judged: String,
}

/// The curves of a run.
pub(super) struct Curves {
    pub(super) plot: String,
    pub(super) epochs: Vec<EpochRow>,
    pub(super) best: String,
}

/// An epoch's figures.
pub(super) struct EpochRow {
    pub(super) epoch: usize,
    pub(super) is_best: bool,
    pub(super) figures: [String; 5],
}

/// A class's figures.
pub(super) struct ClassRow {
    pub(super) class: String,
    pub(super) figures: [String; 3],
    pub(super) support: usize,
}

/// A row of the confusion matrix.
pub(super) struct MatrixRow {
    pub(super) class: String,
    pub(super) cells: Vec<MatrixCell>,
}

/// A cell of the confusion matrix.
pub(super) struct MatrixCell {
    pub(super) count: usize,
    /// Of the row, from 0 to 1.
    pub(super) share: String,
    pub(super) is_right: bool,
    /// Where its pictures are on the page; empty without.
    pub(super) id: String,
    pub(super) called: String,
}

/// The pictures behind a cell.
pub(super) struct Cell {
    pub(super) id: String,
    pub(super) class: String,
    pub(super) called: String,
    pub(super) count: usize,
    pub(super) pictures: Vec<Thumbnail>,
}

/// What a study found.
pub(super) struct StudySection {
    pub(super) suspects: Vec<SuspectRow>,
    pub(super) more_suspects: usize,
    pub(super) pairs: Vec<PairRow>,
    pub(super) more_pairs: usize,
}

/// A picture whose label is likely wrong.
pub(super) struct SuspectRow {
    /// As a thumbnail's; empty for a picture that is not to be had.
    pub(super) source: String,
    pub(super) name: String,
    pub(super) class: String,
    /// In percent, of the label and of the class it looks like.
    pub(super) confidence: String,
    pub(super) looks_like: String,
    pub(super) probability: String,
}

/// Two pictures that are one.
pub(super) struct PairRow {
    pub(super) pictures: [PlacedPicture; 2],
    pub(super) kind: String,
    pub(super) is_in_two_parts: bool,
    pub(super) is_of_two_classes: bool,
}

/// One of them, and where it is.
pub(super) struct PlacedPicture {
    /// As a thumbnail's; empty for a picture that is not to be had.
    pub(super) source: String,
    pub(super) name: String,
    pub(super) class: String,
    pub(super) part: String,
}

/// The page of several runs.
#[derive(Template)]
#[template(path = "compare.html")]
pub(super) struct ComparePage {
    pub(super) runs: Vec<RunRow>,
    /// Names of settings that differ.
    pub(super) differing: Vec<String>,
    pub(super) plots: Vec<String>,
}

/// A run's line.
pub(super) struct RunRow {
    pub(super) name: String,
    pub(super) part: &'static str,
    pub(super) figures: [String; 5],
    pub(super) settings: Vec<String>,
}
