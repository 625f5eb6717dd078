//! Plots of a run: curves, ROC, precision and recall, reliability. plotters draws them, as SVG or as pixels.

use std::path::Path;
use std::sync::Once;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::atomic_file;
use crate::error::{Cause, Error, Result};
use crate::history::{EpochRecord, History};
use crate::train::metrics::Scores;

/// The size of a plot in its own units.
const SIZE: (u32, u32) = (640, 320);
/// Where pictures are in pixels, so many of them to a unit.
const SCALE: u32 = 2;

/// Colours that stand out on white and on black alike: training and validation.
const TRAINING: RGBColor = RGBColor(0x2f, 0x7a, 0xe5);
const VALIDATION: RGBColor = RGBColor(0xd9, 0x68, 0x0d);
/// Lines and letters, which a page exchanges for its own.
pub(super) const INK: RGBColor = RGBColor(0x12, 0x12, 0x12);
pub(super) const GRID: RGBColor = RGBColor(0xd8, 0xd8, 0xd8);

type Area<'a, B> = DrawingArea<B, Shift>;
type Outcome = Result<(), Cause>;

impl History {
    /// Draws loss and accuracy over the epochs to a file, whole or not at all: SVG, or PNG where its name ends so.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] for another ending, [`Error::Io`] naming the file.
    pub fn plot(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        let content = match ending.to_str() {
            Some("svg") => curves(self).map(String::into_bytes),
            Some("png") => pixels(self),
            _ => {
                let found = format!("`{}`", path.display());
                return Err(Error::option(
                    "path",
                    found,
                    "a name ending in .svg or .png",
                ));
            }
        };
        let content = content.map_err(Error::format("a plot", path))?;
        atomic_file::write(path, |file| file.write_all(&content))
    }

    /// The position of the best epoch: that of the lowest validation loss, or without validation of the lowest loss.
    pub(super) fn best(&self) -> Option<usize> {
        let loss = |epoch: &EpochRecord| epoch.val_loss.unwrap_or(epoch.loss);
        let epochs = self.epochs.iter().enumerate();
        let best = epochs.min_by(|a, b| loss(a.1).total_cmp(&loss(b.1)));
        best.map(|(position, _)| position)
    }
}

/// The font of plots in pixels, which systems need not have.
fn load_font() {
    static LOADED: Once = Once::new();
    LOADED.call_once(|| {
        // The font comes with the crate, so it is one.
        let _ = register_font(
            "sans-serif",
            FontStyle::Normal,
            epaint_default_fonts::UBUNTU_LIGHT,
        );
    });
}

/// Draws SVG, which takes the width of the page it is on.
fn svg(
    size: (u32, u32),
    name: &str,
    draw: impl FnOnce(&Area<SVGBackend<'_>>) -> Outcome,
) -> Result<String, Cause> {
    load_font();
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
    draw(&area)?;
    area.present().map_err(|error| error.to_string())?;
    drop(area);
    let (width, height) = size;
    let fixed = format!("<svg width=\"{width}\" height=\"{height}\" ");
    Ok(text.replacen(
        &fixed,
        &format!("<svg role=\"img\" aria-label=\"{name}\" "),
        1,
    ))
}

/// Loss and accuracy as SVG.
pub(super) fn curves(history: &History) -> Result<String, Cause> {
    let (width, height) = SIZE;
    svg((width, 2 * height), "Loss and accuracy by epoch", |area| {
        draw_curves(area, history)
    })
}

/// Loss and accuracy as a PNG file.
fn pixels(history: &History) -> Result<Vec<u8>, Cause> {
    load_font();
    let (width, height) = (SCALE * SIZE.0, SCALE * 2 * SIZE.1);
    let mut levels = vec![255; (3 * width * height) as usize];
    {
        let area = BitMapBackend::with_buffer(&mut levels, (width, height)).into_drawing_area();
        area.fill(&WHITE).map_err(|error| error.to_string())?;
        draw_curves(&area, history)?;
        area.present().map_err(|error| error.to_string())?;
    }
    let image = image::RgbImage::from_raw(width, height, levels).ok_or("a plot without pixels")?;
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png)?;
    Ok(png.into_inner())
}

fn draw_curves<B: DrawingBackend>(area: &Area<B>, history: &History) -> Outcome {
    let halves = area.split_evenly((2, 1));
    let of = |value: fn(&EpochRecord) -> Option<f64>| -> Vec<(f64, f64)> {
        let points = history
            .epochs
            .iter()
            .map(|e| Some((e.epoch as f64, value(e)?)));
        points
            .flatten()
            .filter(|(_, value)| value.is_finite())
            .collect()
    };
    let loss = [of(|e| Some(e.loss)), of(|e| e.val_loss)];
    let accuracy = [of(|e| Some(e.accuracy)), of(|e| e.val_accuracy)];
    let best = history
        .best()
        .map(|position| history.epochs[position].epoch as f64);
    let epochs = history
        .epochs
        .iter()
        .map(|e| e.epoch as f64)
        .fold(1.0, f64::max);
    draw_series(&halves[0], "loss", &loss, (best, epochs))?;
    draw_series(&halves[1], "accuracy", &accuracy, (best, epochs))
}

/// Two series over the epochs, and a line at the best one.
fn draw_series<B: DrawingBackend>(
    area: &Area<B>,
    title: &str,
    series: &[Vec<(f64, f64)>; 2],
    (best, epochs): (Option<f64>, f64),
) -> Outcome {
    let values = || series.iter().flatten().map(|(_, value)| *value);
    let low = values().fold(f64::INFINITY, f64::min);
    let high = values().fold(f64::NEG_INFINITY, f64::max);
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = ((high - low) * 0.08).max(1e-3);
    let (bottom, top) = (low - margin, high + margin);
    let mut chart = frame(area, title, (0.5..epochs + 0.5, bottom..top), "epoch")?;
    if let Some(best) = best {
        let line = [(best, bottom), (best, top)];
        let line = PathElement::new(line, INK.mix(0.5));
        let drawn = chart
            .draw_series([line])
            .map_err(|error| error.to_string())?;
        drawn
            .label("best epoch")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 14, y)], INK.mix(0.5)));
    }
    let looks = [("training", TRAINING), ("validation", VALIDATION)];
    for ((name, colour), points) in looks.into_iter().zip(series) {
        if points.is_empty() {
            continue;
        }
        let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
        let line = chart.draw_series(line).map_err(|error| error.to_string())?;
        line.label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2)));
        let dots = points
            .iter()
            .map(|point| Circle::new(*point, 3, colour.filled()));
        chart.draw_series(dots).map_err(|error| error.to_string())?;
    }
    // Losses go down, and leave room above; accuracies go up.
    let place = match title {
        "loss" => SeriesLabelPosition::UpperRight,
        _ => SeriesLabelPosition::LowerRight,
    };
    legend(&mut chart, place)
}

type Chart<'a, B> = ChartContext<
    'a,
    B,
    Cartesian2d<plotters::coord::types::RangedCoordf64, plotters::coord::types::RangedCoordf64>,
>;

/// Axes with a title.
fn frame<'a, B: DrawingBackend>(
    area: &Area<B>,
    title: &str,
    (x, y): (std::ops::Range<f64>, std::ops::Range<f64>),
    x_title: &str,
) -> Result<Chart<'a, B>, Cause> {
    let (_, height) = area.dim_in_pixel();
    let unit = height as f64 / SIZE.1 as f64;
    let letters = |size: f64| ("sans-serif", size * unit).into_font().color(&INK);
    let mut chart = ChartBuilder::on(area)
        .margin(8.0 * unit)
        .caption(title, letters(17.0))
        .x_label_area_size(36.0 * unit)
        .y_label_area_size(48.0 * unit)
        .build_cartesian_2d(x, y)
        .map_err(|error| error.to_string())?;
    chart
        .configure_mesh()
        .axis_style(INK)
        .bold_line_style(GRID)
        .light_line_style(TRANSPARENT)
        .x_desc(x_title)
        .x_labels(8)
        .y_labels(6)
        .label_style(letters(13.0))
        .axis_desc_style(letters(13.0))
        .x_label_formatter(&|value| number(*value))
        .y_label_formatter(&|value| number(*value))
        .draw()
        .map_err(|error| error.to_string())?;
    Ok(chart)
}

fn legend<'a, B: DrawingBackend + 'a>(
    chart: &mut Chart<'a, B>,
    place: SeriesLabelPosition,
) -> Outcome {
    let (_, height) = chart.plotting_area().dim_in_pixel();
    let size = 13.0 * (f64::from(height) / (SIZE.1 as f64 - 80.0)).max(0.5);
    chart
        .configure_series_labels()
        .label_font(("sans-serif", size).into_font().color(&INK))
        .border_style(TRANSPARENT)
        .position(place)
        .draw()
        .map_err(|error| error.to_string().into())
}

/// A number without zeros at its end.
fn number(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// One curve in the unit square, as SVG.
fn unit_square(
    (name, x, y): (&str, &str, &str),
    curve: Vec<(f64, f64)>,
    dots: bool,
    diagonal: Option<[(f64, f64); 2]>,
) -> Result<String, Cause> {
    svg((SIZE.0 / 2 + 80, SIZE.1 + 40), name, |area| {
        let mut chart = frame(area, y, (0.0..1.0, 0.0..1.0), x)?;
        if let Some(line) = diagonal {
            let line = PathElement::new(line, INK.mix(0.5));
            chart
                .draw_series([line])
                .map_err(|error| error.to_string())?;
        }
        let line = LineSeries::new(curve.iter().copied(), TRAINING.stroke_width(2));
        chart.draw_series(line).map_err(|error| error.to_string())?;
        if dots {
            let dots = curve
                .iter()
                .map(|point| Circle::new(*point, 4, TRAINING.filled()));
            chart.draw_series(dots).map_err(|error| error.to_string())?;
        }
        Ok(())
    })
}

/// The ROC curve of two classes.
pub(super) fn roc(scores: &Scores) -> Option<Result<String, Cause>> {
    let names = ("ROC curve", "false positive rate", "true positive rate");
    let curve = thinned(scores.roc()?);
    Some(unit_square(
        names,
        curve,
        false,
        Some([(0.0, 0.0), (1.0, 1.0)]),
    ))
}

/// The precision-recall curve of two classes.
pub(super) fn precision_recall(scores: &Scores) -> Option<Result<String, Cause>> {
    let names = ("Precision-recall curve", "recall", "precision");
    let curve = thinned(scores.precision_recall()?);
    Some(unit_square(names, curve, false, None))
}

/// Accuracy by confidence; on the diagonal, a probability means what it says.
pub(super) fn reliability(scores: &Scores) -> Result<String, Cause> {
    let names = ("Reliability diagram", "confidence", "accuracy");
    let bins = scores.reliability().into_iter();
    let points = bins.map(|bin| (bin.confidence, bin.accuracy)).collect();
    unit_square(names, points, true, Some([(0.0, 0.0), (1.0, 1.0)]))
}

/// The losses on validation pictures, or those of training, of several runs.
pub(super) fn compared(
    (name, title): (&str, &str),
    runs: &[(String, Vec<(f64, f64)>)],
) -> Result<String, Cause> {
    svg((SIZE.0, SIZE.1 + 80), name, |area| {
        let points = || runs.iter().flat_map(|(_, points)| points);
        let epochs = points().map(|(epoch, _)| *epoch).fold(1.0, f64::max);
        let low = points()
            .map(|(_, value)| *value)
            .fold(f64::INFINITY, f64::min);
        let high = points()
            .map(|(_, value)| *value)
            .fold(f64::NEG_INFINITY, f64::max);
        let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
        let margin = ((high - low) * 0.08).max(1e-3);
        let range = (0.5..epochs + 0.5, low - margin..high + margin);
        let mut chart = frame(area, title, range, "epoch")?;
        for (index, (run, points)) in runs.iter().enumerate() {
            let colour = Palette99::pick(index).mix(0.9);
            let line = LineSeries::new(points.iter().copied(), colour.stroke_width(2));
            let line = chart.draw_series(line).map_err(|error| error.to_string())?;
            line.label(run).legend(move |(x, y)| {
                PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(2))
            });
            let dots = points
                .iter()
                .map(|point| Circle::new(*point, 3, colour.filled()));
            chart.draw_series(dots).map_err(|error| error.to_string())?;
        }
        legend(&mut chart, SeriesLabelPosition::UpperRight)
    })
}

/// Some of a curve's points: no more than a screen shows.
fn thinned(curve: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    const MOST: usize = 500;
    let step = curve.len().div_ceil(MOST).max(1);
    let last = curve.last().copied();
    let some = curve.into_iter().step_by(step);
    some.chain(last).collect()
}
