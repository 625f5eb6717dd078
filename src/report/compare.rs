//! Several runs beside each other: a table of figures and of the settings that differ, and their curves.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use askama::Template;
use unicode_width::UnicodeWidthStr;

use super::contents::Report;
use super::page::{ComparePage, RunRow};
use super::plot;
use crate::atomic_file;
use crate::error::{Error, Result};
use crate::history::{EpochRecord, History};
use crate::run::{Metrics, Run};
use crate::words::figure;

/// Runs to compare, read from their folders; its `Display` is a table.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Comparison {
    runs: Vec<Compared>,
}

#[derive(Clone, Debug, serde::Serialize)]
struct Compared {
    run: String,
    metrics: Metrics,
    history: History,
}

impl Report<'_> {
    /// Reads the runs in these folders, to be compared.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Format`] naming the file that is missing or damaged.
    pub fn compare<P: AsRef<Path>>(runs: impl IntoIterator<Item = P>) -> Result<Comparison> {
        let read = |folder: P| {
            let folder = folder.as_ref();
            Ok(Compared {
                run: folder.display().to_string(),
                metrics: Run::metrics_of(folder)?,
                history: Run::history_of(folder)?,
            })
        };
        let runs = runs.into_iter().map(read).collect::<Result<_>>()?;
        Ok(Comparison { runs })
    }
}

impl Comparison {
    /// Writes a page with the table and the curves, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let drawn = |plot: Result<String, _>| plot.map_err(Error::format("a plot", path));
        let (differing, settings) = self.differing();
        let rows = self.runs.iter().zip(settings);
        let loss = ("Loss by epoch", "validation loss");
        let accuracy = ("Accuracy by epoch", "validation accuracy");
        let page = ComparePage {
            runs: rows.map(|(run, settings)| run.row(settings)).collect(),
            differing,
            plots: vec![
                drawn(plot::compared(
                    loss,
                    &self.series(|e| Some(e.val_loss.unwrap_or(e.loss))),
                ))?,
                drawn(plot::compared(
                    accuracy,
                    &self.series(|e| Some(e.val_accuracy.unwrap_or(e.accuracy))),
                ))?,
            ],
        };
        let html = page
            .render()
            .map_err(Error::format("a page of HTML", path))?;
        atomic_file::write(path, |file| file.write_all(html.as_bytes()))
    }

    fn series(&self, of: fn(&EpochRecord) -> Option<f64>) -> Vec<(String, Vec<(f64, f64)>)> {
        let points = |run: &Compared| {
            let points = run
                .history
                .epochs
                .iter()
                .map(|e| Some((e.epoch as f64, of(e)?)));
            (run.run.clone(), points.flatten().collect())
        };
        self.runs.iter().map(points).collect()
    }

    /// The names of settings that are not the same in all runs, and each run's values of them.
    fn differing(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let rows: Vec<BTreeMap<String, String>> = self
            .runs
            .iter()
            .map(|run| run.metrics.settings.rows().into_iter().collect())
            .collect();
        let mut names: Vec<String> = rows.iter().flat_map(|row| row.keys().cloned()).collect();
        names.sort();
        names.dedup();
        names.retain(|name| rows.iter().any(|row| row.get(name) != rows[0].get(name)));
        let value =
            |row: &BTreeMap<String, String>, name| row.get(name).cloned().unwrap_or_default();
        let values = rows.iter();
        let values = values.map(|row| names.iter().map(|name| value(row, name)).collect());
        let values = values.collect();
        (names, values)
    }
}

impl Compared {
    fn row(&self, settings: Vec<String>) -> RunRow {
        let (part, evaluation) = self.metrics.judged().unzip();
        let of = |value: fn(&crate::train::metrics::Evaluation) -> Option<f64>| {
            evaluation.and_then(value)
        };
        RunRow {
            name: self.run.clone(),
            part: part.unwrap_or("–"),
            figures: [
                figure(of(|e| e.accuracy), 4),
                figure(of(|e| e.loss), 4),
                figure(self.metrics.calibration_error, 4),
                self.history.epochs.len().to_string(),
                figure(Some(self.metrics.seconds_per_epoch), 1),
            ],
            settings,
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (differing, settings) = self.differing();
        let names = [
            "run",
            "scored on",
            "accuracy",
            "loss",
            "calibration error",
            "epochs",
            "s/epoch",
        ];
        let mut rows = vec![
            names
                .map(ToOwned::to_owned)
                .into_iter()
                .chain(differing)
                .collect::<Vec<_>>(),
        ];
        for (run, settings) in self.runs.iter().zip(settings) {
            let row = run.row(settings);
            let first = [row.name, row.part.to_owned()];
            rows.push(
                first
                    .into_iter()
                    .chain(row.figures)
                    .chain(row.settings)
                    .collect(),
            );
        }
        let width = |column: usize| {
            rows.iter()
                .map(|row| row[column].width())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
        for row in &rows {
            let padded = |(cell, width): (&String, &usize)| {
                format!("{cell}{}", " ".repeat(width - cell.width()))
            };
            let cells: Vec<String> = row.iter().zip(&widths).map(padded).collect();
            writeln!(f, "{}", cells.join("  ").trim_end())?;
        }
        Ok(())
    }
}
