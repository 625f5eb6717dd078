//! `headstart predict`: pictures in, verdicts out, as many as come.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write;
use std::io::BufRead;
use std::path::PathBuf;
use std::rc::Rc;

use headstart::data::{Item, pictures};
use headstart::model::Prediction;

use crate::options::load;
use crate::{End, Failure, say};

/// Names what is in pictures.
///
/// Pictures are files, folders with all that is in them, tar archives, or a list of paths on the standard input (-).
/// One line is printed for each, as soon as it is known; the memory does not grow with their number. What is no picture
/// is named on the standard error and passed over, and the exit code is then 1.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A saved model, or the folder of a run.
    model: PathBuf,
    /// Files, folders, tar archives, or - for a list of them on the standard input, one a line.
    #[arg(required = true, value_name = "PICTURE|DIR|TAR|-")]
    pictures: Vec<PathBuf>,
    /// Prints CSV with a header: the path, then class and probability of the most probable classes.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Prints one JSON object a line.
    #[arg(long)]
    json: bool,
    /// How many of the most probable classes are printed, 1 or more [default: all up to ten; 1 in CSV]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    top: Option<u32>,
}

/// A picture, or why there is none, in the order they were named.
type Named = Result<PathBuf, headstart::Error>;

/// Prints one line for each picture.
pub(crate) fn run(options: &Options) -> Result<End, Failure> {
    let model = load(&options.model)?;
    let known = model.class_names().len();
    let top = options
        .top
        .map_or(if options.csv { 1 } else { 10 }, |top| top as usize)
        .min(known);
    if options.csv {
        let columns = (1..=top).map(|place| format!(",class_{place},probability_{place}"));
        say::out(&format!("path{}\n", columns.collect::<String>()))?;
    }
    // What was taken from the sources and has no verdict yet.
    let waiting: Rc<RefCell<VecDeque<Named>>> = Rc::default();
    let noted = waiting.clone();
    let items = sources(options).filter_map(move |item| {
        let (named, item) = match item {
            Ok(item) => (Ok(item.path.clone()), Some(item)),
            Err(error) => (Err(error), None),
        };
        noted.borrow_mut().push_back(named);
        item
    });
    let (mut pictures, mut failures) = (0, 0);
    for prediction in model.predict_each(items) {
        let mut line = String::new();
        // What cannot be a picture comes in its turn, before the next that can.
        loop {
            let next = waiting.borrow_mut().pop_front();
            match next.expect("one for each picture") {
                Err(error) => fail(&error, &mut failures),
                Ok(path) => {
                    match &prediction {
                        Ok(prediction) => {
                            describe(options, &path.to_string_lossy(), prediction, top, &mut line)?
                        }
                        Err(error) => fail(error, &mut failures),
                    }
                    break;
                }
            }
        }
        pictures += 1;
        say::out(&line)?;
        if say::reader_left() {
            return Ok(End::Done);
        }
    }
    for error in waiting.borrow_mut().drain(..).filter_map(Result::err) {
        fail(&error, &mut failures);
    }
    match (failures, pictures) {
        (0, 0) => Err("there are no pictures".into()),
        (0, _) => Ok(End::Done),
        _ => Err(format!("{failures} without a verdict").into()),
    }
}

fn fail(error: &headstart::Error, failures: &mut usize) {
    *failures += 1;
    say::warn(&error.to_string());
}

/// All pictures that were named.
fn sources(options: &Options) -> impl Iterator<Item = headstart::Result<Item>> {
    options.pictures.iter().flat_map(
        |path| -> Box<dyn Iterator<Item = headstart::Result<Item>>> {
            if path.as_os_str() != "-" {
                return below(path);
            }
            let lines = std::io::stdin().lock().split(b'\n');
            Box::new(lines.flat_map(|line| match line {
                Ok(line) if line.is_empty() => Box::new(std::iter::empty()),
                Ok(line) => below(&listed(line)),
                Err(source) => Box::new(std::iter::once(Err(headstart::Error::Io {
                    path: "-".into(),
                    source,
                }))),
            }))
        },
    )
}

/// A line of the list as a path, whose name need not be text.
fn listed(mut line: Vec<u8>) -> PathBuf {
    if line.ends_with(b"\r") {
        line.pop();
    }
    #[cfg(unix)]
    return PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(line));
    #[cfg(not(unix))]
    String::from_utf8_lossy(&line).into_owned().into()
}

fn below(path: &std::path::Path) -> Box<dyn Iterator<Item = headstart::Result<Item>>> {
    match pictures(path) {
        Ok(items) => items,
        Err(error) => Box::new(std::iter::once(Err(error))),
    }
}

/// A picture's line.
fn describe(
    options: &Options,
    path: &str,
    prediction: &Prediction,
    top: usize,
    line: &mut String,
) -> Result<(), Failure> {
    let ranked = prediction.ranked.iter().take(top);
    if options.json {
        let classes: Vec<_> = ranked
            .map(|(class, probability)| serde_json::json!({"class": class, "probability": probability}))
            .collect();
        let verdict =
            serde_json::json!({"path": path, "class": prediction.class(), "ranked": classes});
        *line = verdict.to_string() + "\n";
    } else if options.csv {
        *line = quoted(path);
        for (class, probability) in ranked {
            write!(line, ",{},{probability}", quoted(class))?;
        }
        line.push('\n');
    } else {
        let classes: Vec<_> = ranked
            .map(|(class, probability)| format!("{class} {:.1} %", 100.0 * probability))
            .collect();
        let more = match prediction.ranked.len() - top {
            more if more > 0 && options.top.is_none() => format!(", and {more} more"),
            _ => String::new(),
        };
        *line = format!("{path}: {}{more}\n", classes.join(", "));
    }
    Ok(())
}

/// A field of CSV (RFC 4180).
fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}
