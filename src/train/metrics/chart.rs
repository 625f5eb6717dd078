//! Curves and the confusion matrix as text, as wide as there is room.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::evaluation::Evaluation;
use crate::history::History;

/// Rows of a curve's chart.
const ROWS: usize = 8;
/// Columns before a chart: the axis.
const AXIS: usize = 9;
/// The most columns a name of the matrix may take.
const NAME: usize = 24;

impl History {
    /// Loss and accuracy over the epochs as two charts of this many columns, 40 at least: `•` for training, `○` for
    /// validation, `◉` where they meet. Empty without epochs.
    pub fn chart(&self, columns: usize) -> String {
        if self.epochs.is_empty() {
            return String::new();
        }
        let series = |of: fn(&crate::history::EpochRecord) -> Option<f64>| -> Vec<Option<f64>> {
            self.epochs.iter().map(of).collect()
        };
        let loss = chart(
            "loss",
            &series(|e| Some(e.loss)),
            &series(|e| e.val_loss),
            columns,
        );
        let accuracy = chart(
            "accuracy",
            &series(|e| Some(e.accuracy)),
            &series(|e| e.val_accuracy),
            columns,
        );
        format!("{loss}\n{accuracy}")
    }
}

/// One chart of two series.
fn chart(
    title: &str,
    training: &[Option<f64>],
    validation: &[Option<f64>],
    columns: usize,
) -> String {
    let room = columns.max(40) - AXIS - 1;
    // An epoch takes as many columns as there are for it; of too many, each column shows one.
    let width =
        room.min(training.len().saturating_sub(1) * (room / training.len()).clamp(1, 4) + 1);
    let values = || {
        training
            .iter()
            .chain(validation)
            .flatten()
            .copied()
            .filter(|v| v.is_finite())
    };
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(f64::NEG_INFINITY, f64::max);
    let span = (high - low).max(1e-9);
    let mut rows = vec![vec![' '; width]; ROWS];
    for (mark, series) in [('•', training), ('○', validation)] {
        let epoch = |column: usize| column * (series.len() - 1) / (width - 1).max(1);
        // Between two epochs nothing stands.
        let is_first = |column: &usize| *column == 0 || epoch(column - 1) != epoch(*column);
        for column in (0..width).filter(is_first) {
            if let Some(value) = series[epoch(column)].filter(|v| v.is_finite()) {
                let row = ((high - value) / span * (ROWS - 1) as f64).round() as usize;
                let place = &mut rows[row.min(ROWS - 1)][column];
                *place = if *place == ' ' { mark } else { '◉' };
            }
        }
    }
    let mut text = format!("{title} (• training, ○ validation)\n");
    for (index, row) in rows.iter().enumerate() {
        let label = match index {
            0 => format!("{high:8.4}"),
            _ if index == ROWS - 1 => format!("{low:8.4}"),
            _ => " ".repeat(8),
        };
        let row: String = row.iter().collect();
        text.push_str(&format!("{label} │{}\n", row.trim_end()));
    }
    let last = training.len().to_string();
    let gap = width.saturating_sub(1 + last.len());
    text + &format!(
        "{:8} └{}\n{:10}1{}{last}\n",
        "",
        "─".repeat(width),
        "",
        " ".repeat(gap)
    )
}

impl Evaluation {
    /// The confusion matrix as a table of at most this many columns, 40 at least: a row for what a picture is, a column
    /// for what it was called. Classes that do not fit are summed up in a last row and column. Empty where no pairs
    /// were counted.
    pub fn confusion_chart(&self, columns: usize) -> String {
        if self.confusion.is_empty() {
            return String::new();
        }
        let names: Vec<String> = self
            .per_class
            .iter()
            .map(|c| shortened(&c.class, NAME))
            .collect();
        let name = names
            .iter()
            .map(|name| name.width())
            .max()
            .unwrap_or(0)
            .max(6);
        let most = self.confusion.iter().flatten().max().copied().unwrap_or(0);
        let cell = most.to_string().len().max(4) + 2;
        let fit = (columns.max(40) - name) / cell;
        let shown = if names.len() <= fit {
            names.len()
        } else {
            fit - 1
        };
        let rest = names.len() - shown;
        let padded =
            |text: &str, width: usize| " ".repeat(width.saturating_sub(text.width())) + text;
        let mut header = " ".repeat(name);
        for column in names.iter().take(shown) {
            header += &padded(&shortened(column, cell - 2), cell);
        }
        if rest > 0 {
            header += &padded("more", cell);
        }
        let mut lines = vec!["is ╲ called".to_owned(), header];
        let row = |name: String, counts: &[usize]| {
            let more: usize = counts[shown..].iter().sum();
            let counts = counts[..shown].iter().chain((rest > 0).then_some(&more));
            name + &counts
                .map(|count| padded(&count.to_string(), cell))
                .collect::<String>()
        };
        for (class, counts) in names.iter().zip(&self.confusion).take(shown) {
            lines.push(row(
                class.clone() + &" ".repeat(name - class.width()),
                counts,
            ));
        }
        if rest > 0 {
            let others = &self.confusion[shown..];
            let sums: Vec<usize> = (0..names.len())
                .map(|column| others.iter().map(|counts| counts[column]).sum())
                .collect();
            lines.push(row(format!("{:name$}", "more"), &sums));
        }
        lines.join("\n") + "\n"
    }
}

/// A name of at most so many columns, cut short with a `…`; control characters, which would move the cursor, are shown
/// as `�`.
fn shortened(name: &str, columns: usize) -> String {
    let shown = name
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c });
    let clean: String = shown.collect();
    if clean.width() <= columns {
        return clean;
    }
    let (mut cut, mut width) = (String::new(), 0);
    for c in clean.chars() {
        width += c.width().unwrap_or(0);
        if width + 1 > columns {
            break;
        }
        cut.push(c);
    }
    cut + "…"
}
