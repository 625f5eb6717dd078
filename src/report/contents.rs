//! What a model's page says, gathered from the model, its scores, and what is known of its run.

use std::collections::BTreeMap;
use std::path::Path;

use askama::Template;

use super::oddities::Known;
use super::page::{
    BlockRow, Cell, ClassRow, CountRow, Curves, EpochRow, MatrixCell, MatrixRow, Page, StudySection,
};
use super::pictures::{Thumbnail, Thumbnails, contact_sheet};
use super::plot;
use crate::atomic_file;
use crate::data::Dataset;
use crate::error::{Error, Result};
use crate::history::{EpochRecord, History};
use crate::model::{Backbone, Classifier};
use crate::run::{Record, Settings};
use crate::study::Oddities;
use crate::train::metrics::{PictureScore, Scores};
use crate::words::{count, figure};

/// How many mistakes and how many unsure pictures are shown, each with its map.
const MISTAKES: usize = 24;
const LEAST_SURE: usize = 12;
/// How many pictures of a cell of the matrix are shown, and of all cells together.
const OF_CELL: usize = 8;
const OF_CELLS: usize = 120;
/// The most classes that are listed, and those the matrix may have.
const LISTED: usize = 200;
const MATRIX: usize = 20;

/// The page of one model: what it was trained on, how that went, and how good it is. It is one file that opens from the
/// disk; whatever the number of pictures and classes, it stays below two megabytes.
///
/// ```no_run
/// use headstart::report::Report;
/// use headstart::{Classifier, Dataset, Device};
///
/// let model = Classifier::load("model.safetensors", &Device::Cpu)?;
/// let test = Dataset::open_with_classes("pictures/test", model.class_names())?;
/// let scores = model.score(&test)?;
/// Report::new(&model, &test, &scores).write("report.html")?;
/// # Ok::<(), headstart::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Report<'a> {
    model: &'a Classifier,
    dataset: &'a Dataset,
    scores: &'a Scores,
    part: &'static str,
    history: Option<&'a History>,
    training: Option<(&'a Dataset, &'a Dataset)>,
    settings: Option<&'a Settings>,
    oddities: Option<&'a Oddities>,
    record: Option<&'a Record>,
}

impl<'a> Report<'a> {
    /// The page of a model by its scores on these pictures.
    pub fn new(model: &'a Classifier, dataset: &'a Dataset, scores: &'a Scores) -> Self {
        Self {
            model,
            dataset,
            scores,
            part: "scored",
            history: None,
            training: None,
            settings: None,
            oddities: None,
            record: None,
        }
    }

    /// Says what the pictures are: `test`, or `validation` where training was watched on them.
    pub fn part(mut self, part: &'static str) -> Self {
        self.part = part;
        self
    }

    /// Adds what each epoch reached.
    pub fn history(mut self, history: &'a History) -> Self {
        self.history = Some(history);
        self
    }

    /// Adds what was trained and validated on.
    pub fn training(mut self, train: &'a Dataset, validation: &'a Dataset) -> Self {
        self.training = Some((train, validation));
        self
    }

    /// Adds how it was trained.
    pub fn settings(mut self, settings: &'a Settings) -> Self {
        self.settings = Some(settings);
        self
    }

    /// Adds when it was trained, and on what machine.
    pub fn record(mut self, record: &'a Record) -> Self {
        self.record = Some(record);
        self
    }

    /// Adds what a study of the same pictures found: labels that are likely wrong, and pictures that are there twice.
    /// Of those that are among the pictures of this report, the first are shown.
    pub fn study(mut self, oddities: &'a Oddities) -> Self {
        self.oddities = Some(oddities);
        self
    }

    /// Writes the page, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; those of explaining a picture.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let page = self.page(path)?;
        let html = page
            .render()
            .map_err(Error::format("a page of HTML", path))?;
        atomic_file::write(path, |file| file.write_all(html.as_bytes()))
    }

    fn page(&self, path: &Path) -> Result<Page> {
        let drawn = |plot: Result<String, _>| plot.map_err(Error::format("a plot", path));
        let thumbnails = Thumbnails::new(self.model, self.dataset);
        let (matrix, cells) = self.confusion(&thumbnails);
        let some = |pictures: Vec<PictureScore>, most: usize| -> Vec<Thumbnail> {
            thumbnails.of(&pictures[..pictures.len().min(most)], true)
        };
        let scores = self.scores;
        Ok(Page {
            title: self.title(),
            part: self.part,
            figures: self.figures(),
            blocks: self.blocks(),
            counts: self.counts(),
            curves: self.curves(path)?,
            classes: self.classes(),
            more_classes: scores.evaluation.per_class.len().saturating_sub(LISTED),
            matrix,
            cells,
            roc: plot::roc(scores).map(drawn).transpose()?,
            precision_recall: plot::precision_recall(scores).map(drawn).transpose()?,
            reliability: drawn(plot::reliability(scores))?,
            calibration_error: figure(scores.calibration_error(), 4),
            mistakes: some(scores.mistakes(), MISTAKES),
            least_sure: some(scores.least_sure(), LEAST_SURE),
            study: self.study_section(),
            contact_sheet: self.contact_sheet()?,
            settings: self.setting_rows(),
        })
    }

    /// The base, and the last two names of where the pictures are.
    fn title(&self) -> String {
        let root = self.dataset.root();
        let above = root.parent().and_then(Path::file_name).map(Path::new);
        let name = Path::new(root.file_name().unwrap_or(root.as_os_str()));
        let place = above.map_or_else(|| name.to_owned(), |above| above.join(name));
        format!(
            "{} on {}",
            self.model.base().architecture(),
            place.display()
        )
    }

    /// The figures at the top.
    fn figures(&self) -> Vec<(&'static str, String)> {
        let evaluation = &self.scores.evaluation;
        let mut figures = vec![
            ("accuracy", figure(evaluation.accuracy, 4)),
            ("loss", figure(evaluation.loss, 4)),
        ];
        if evaluation.auc.is_some() {
            figures.push(("ROC AUC", figure(evaluation.auc, 4)));
        }
        figures.push((
            "calibration error",
            figure(self.scores.calibration_error(), 4),
        ));
        figures.push(("pictures", self.scores.pictures.len().to_string()));
        figures.push(("classes", evaluation.per_class.len().to_string()));
        figures
    }

    fn blocks(&self) -> Vec<BlockRow> {
        let base = self.model.base();
        let mut sizes = BTreeMap::<usize, usize>::new();
        for parameter in base.parameters() {
            *sizes.entry(parameter.block).or_default() += parameter.tensor.elem_count();
        }
        let blocks = base.blocks().into_iter().enumerate();
        let row = |(index, block): (usize, crate::model::BlockInfo)| BlockRow {
            name: block.name,
            parameters: millions(sizes.get(&index).copied().unwrap_or(0)),
            state: if block.trainable { "trained" } else { "frozen" },
        };
        let head = self.model.head().tensors();
        let head = head.iter().map(|(_, tensor)| tensor.elem_count()).sum();
        let head = BlockRow {
            name: "head".to_owned(),
            parameters: millions(head),
            state: "new",
        };
        blocks.map(row).chain([head]).collect()
    }

    fn counts(&self) -> Vec<CountRow> {
        let Some((train, validation)) = self.training else {
            return Vec::new();
        };
        let counts = [train, validation, self.dataset].map(Dataset::counts);
        let of = |part: usize, class: usize| {
            counts[part]
                .get(class)
                .map_or(String::new(), usize::to_string)
        };
        let classes = self.model.class_names().iter().enumerate().take(LISTED);
        classes
            .map(|(index, class)| CountRow {
                class: class.clone(),
                training: of(0, index),
                validation: of(1, index),
                judged: of(2, index),
            })
            .collect()
    }

    fn curves(&self, path: &Path) -> Result<Option<Curves>> {
        let Some(history) = self.history.filter(|history| !history.epochs.is_empty()) else {
            return Ok(None);
        };
        let best = history.best();
        let row = |(position, e): (usize, &EpochRecord)| EpochRow {
            epoch: e.epoch,
            is_best: best == Some(position),
            figures: [
                figure(Some(e.loss), 4),
                figure(Some(e.accuracy), 4),
                figure(e.val_loss, 4),
                figure(e.val_accuracy, 4),
                figure(Some(e.seconds), 1),
            ],
        };
        let best = best.map_or(String::new(), |position| {
            history.epochs[position].epoch.to_string()
        });
        Ok(Some(Curves {
            plot: plot::curves(history).map_err(Error::format("a plot", path))?,
            epochs: history.epochs.iter().enumerate().map(row).collect(),
            best,
        }))
    }

    fn classes(&self) -> Vec<ClassRow> {
        let classes = self.scores.evaluation.per_class.iter().take(LISTED);
        let row = |c: &crate::train::metrics::ClassMetrics| ClassRow {
            class: c.class.clone(),
            figures: [c.precision, c.recall, c.f1].map(|value| format!("{value:.4}")),
            support: c.support,
        };
        classes.map(row).collect()
    }

    /// The matrix, where there is room for it, and the pictures behind its cells: those of mistakes first, the most
    /// frequent at the top.
    fn confusion(&self, thumbnails: &Thumbnails<'_>) -> (Vec<MatrixRow>, Vec<Cell>) {
        let mut behind = BTreeMap::<(u32, u32), Vec<PictureScore>>::new();
        for picture in &self.scores.pictures {
            behind
                .entry((picture.label, picture.called))
                .or_default()
                .push(*picture);
        }
        let mut order: Vec<_> = behind
            .iter()
            .map(|(pair, pictures)| (*pair, pictures.len()))
            .collect();
        order.sort_by_key(|((label, called), count)| (label == called, std::cmp::Reverse(*count)));
        let names = self.model.class_names();
        let mut left = OF_CELLS;
        let mut cells = Vec::new();
        for ((label, called), count) in order {
            let pictures = &behind[&(label, called)];
            let shown = count.min(OF_CELL).min(left);
            if shown == 0 {
                break;
            }
            left -= shown;
            cells.push(Cell {
                id: format!("pictures-{label}-{called}"),
                class: names[label as usize].clone(),
                called: names[called as usize].clone(),
                count,
                pictures: thumbnails.of(&pictures[..shown], false),
            });
        }
        let confusion = &self.scores.evaluation.confusion;
        if confusion.len() > MATRIX {
            return (Vec::new(), cells);
        }
        let rows = confusion.iter().enumerate();
        let rows = rows
            .map(|(label, counts)| self.matrix_row(label, counts, &cells))
            .collect();
        (rows, cells)
    }

    fn matrix_row(&self, label: usize, counts: &[usize], cells: &[Cell]) -> MatrixRow {
        let names = self.model.class_names();
        let all: usize = counts.iter().sum();
        let cell = |(called, count): (usize, &usize)| {
            let id = format!("pictures-{label}-{called}");
            let is_shown = cells.iter().any(|cell| cell.id == id);
            MatrixCell {
                count: *count,
                share: format!("{:.2}", *count as f64 / all.max(1) as f64),
                is_right: label == called,
                id: if is_shown { id } else { String::new() },
                called: names[called].clone(),
            }
        };
        MatrixRow {
            class: names[label].clone(),
            cells: counts.iter().enumerate().map(cell).collect(),
        }
    }

    fn study_section(&self) -> Option<StudySection> {
        let mut parts = vec![(self.part, self.dataset)];
        if let Some((train, validation)) = self.training {
            parts.extend([("training", train), ("validation", validation)]);
        }
        let oddities = self.oddities?;
        Some(Known::new(&parts, self.model.size()).section(oddities))
    }

    fn contact_sheet(&self) -> Result<Option<String>> {
        let (Some((train, _)), Some(settings)) = (self.training, self.settings) else {
            return Ok(None);
        };
        match settings.augmenter() {
            Some(augmenter) => contact_sheet(train, self.model, &augmenter, settings.seed()),
            None => Ok(None),
        }
    }

    fn setting_rows(&self) -> Vec<(String, String)> {
        let mut rows: Vec<(String, String)> = Vec::new();
        if let Some(settings) = self.settings {
            rows.extend(settings.rows());
        }
        let model = self.model;
        let (height, width) = model.size();
        rows.push((
            "input".into(),
            format!(
                "{height}×{width}, {}, {}",
                model.resize_filter(),
                model.preprocess()
            ),
        ));
        if let Some(history) = self.history {
            let seconds: f64 = history.epochs.iter().map(|epoch| epoch.seconds).sum();
            rows.push(("training".into(), format!("{seconds:.1} seconds of epochs")));
        }
        rows.extend(self.record_rows());
        rows.push(("headstart".into(), env!("CARGO_PKG_VERSION").into()));
        rows
    }

    /// When it was trained, and on what machine.
    fn record_rows(&self) -> Vec<(String, String)> {
        let record = self.record.cloned().unwrap_or_default();
        let threads = record.threads.map(|number| count(number, "thread"));
        let rows = [
            ("trained", record.date),
            ("processor", record.processor),
            ("system", record.system),
            ("threads", threads),
        ];
        let rows = rows.into_iter();
        rows.map(|(name, value)| (name.to_owned(), known(value)))
            .collect()
    }
}

/// What is known, or a dash.
fn known(value: Option<String>) -> String {
    value.unwrap_or_else(|| "–".to_owned())
}

fn millions(count: usize) -> String {
    match count {
        0..10_000 => count.to_string(),
        _ => format!("{:.2} M", count as f64 / 1e6),
    }
}
