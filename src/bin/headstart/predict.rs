//! `headstart predict`: pictures in, verdicts out, as many as come.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write;
use std::io::BufRead;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;

use headstart::Classifier;
use headstart::data::{Item, pictures};
use headstart::model::Prediction;
use headstart::train::communicator::{self, Communicator};

use crate::options::load;
use crate::{End, Failure, say};

/// Names what is in pictures.
///
/// Pictures are files, folders with all that is in them, tar archives, or a list of paths on the standard input (-).
/// One line is printed for each, as soon as it is known; the memory does not grow with their number. What is no picture
/// is named on the standard error and passed over, and the exit code is then 1. Several processes that `mpirun` started
/// share the pictures, and the first prints all lines in order.
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
    let ranks = communicator::world()?;
    let by_list = options.pictures.iter().any(|path| path.as_os_str() == "-");
    if ranks.size() > 1 && by_list {
        let reason = "a list on the standard input reaches one of several ranks alone: name files, folders or archives";
        return Err(Failure::Usage(reason.into()));
    }
    let model = load(&options.model)?;
    let known = model.class_names().len();
    let top = options
        .top
        .map_or(if options.csv { 1 } else { 10 }, |top| top as usize)
        .min(known);
    if options.csv && ranks.rank() == 0 {
        let columns = (1..=top).map(|place| format!(",class_{place},probability_{place}"));
        say::out(&format!("path{}\n", columns.collect::<String>()))?;
    }
    let mut tally = Tally::default();
    if ranks.size() == 1 {
        for verdict in verdicts(options, &model, top, sources(options)) {
            if tally.take(verdict?)?.is_break() {
                return Ok(End::Done);
            }
        }
        return tally.end();
    }
    // Every rank finds all pictures, and each round classifies the next few of its own.
    let own = sources(options).enumerate().filter(|(index, _)| {
        let round = index / TOGETHER;
        round % ranks.size() == ranks.rank()
    });
    let mut own = verdicts(options, &model, top, own.map(|(_, item)| item));
    loop {
        let round = own.by_ref().take(TOGETHER).collect::<Result<Vec<_>, _>>()?;
        let round = ranks.gather(&serde_json::to_vec(&round)?)?;
        if round.iter().all(|verdicts| verdicts == b"[]") {
            return match ranks.rank() {
                0 => tally.end(),
                _ => Ok(End::Done),
            };
        }
        for verdicts in round.iter().filter(|_| ranks.rank() == 0) {
            for verdict in serde_json::from_slice::<Vec<Verdict>>(verdicts)? {
                // The others go on until the pictures end.
                let _ = tally.take(verdict)?;
            }
        }
    }
}

/// Pictures that a rank classifies before it is another's turn.
const TOGETHER: usize = 32;

/// What there is to say of a picture.
#[derive(serde::Serialize, serde::Deserialize)]
enum Verdict {
    Line(String),
    Failure(String),
}

/// What was said so far.
#[derive(Default)]
struct Tally {
    pictures: usize,
    failures: usize,
}

impl Tally {
    /// Says it; breaks when nobody reads any more.
    fn take(&mut self, verdict: Verdict) -> Result<ControlFlow<()>, Failure> {
        match verdict {
            Verdict::Line(line) => {
                self.pictures += 1;
                say::out(&line)?;
            }
            Verdict::Failure(reason) => {
                self.failures += 1;
                say::warn(&reason);
            }
        }
        Ok(match say::reader_left() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    }

    fn end(self) -> Result<End, Failure> {
        match (self.failures, self.pictures) {
            (0, 0) => Err("there are no pictures".into()),
            (0, _) => Ok(End::Done),
            (failures, _) => Err(format!("{failures} without a verdict").into()),
        }
    }
}

/// A verdict on each picture, in order.
fn verdicts(
    options: &Options,
    model: &Classifier,
    top: usize,
    items: impl Iterator<Item = headstart::Result<Item>>,
) -> impl Iterator<Item = Result<Verdict, Failure>> {
    // What was taken from the sources and has no verdict yet.
    let waiting: Rc<RefCell<VecDeque<Named>>> = Rc::default();
    let noted = waiting.clone();
    let items = items.filter_map(move |item| {
        let (named, item) = match item {
            Ok(item) => (Ok(item.path.clone()), Some(item)),
            Err(error) => (Err(error), None),
        };
        noted.borrow_mut().push_back(named);
        item
    });
    let mut predictions = model.predict_each(items);
    let mut next = None;
    std::iter::from_fn(move || {
        // What cannot be a picture comes in its turn, before the next that can.
        let is_picture = !matches!(waiting.borrow().front(), Some(Err(_)));
        if next.is_none() && is_picture {
            next = predictions.next();
        }
        let named = waiting.borrow_mut().pop_front()?;
        let verdict = match named {
            Err(error) => Ok(Verdict::Failure(error.to_string())),
            Ok(path) => match next.take()? {
                Ok(prediction) => describe(options, &path.to_string_lossy(), &prediction, top),
                Err(error) => Ok(Verdict::Failure(error.to_string())),
            },
        };
        Some(verdict)
    })
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
) -> Result<Verdict, Failure> {
    let ranked = prediction.ranked.iter().take(top);
    let line = if options.json {
        let classes: Vec<_> = ranked
            .map(|(class, probability)| serde_json::json!({"class": class, "probability": probability}))
            .collect();
        let verdict =
            serde_json::json!({"path": path, "class": prediction.class(), "ranked": classes});
        verdict.to_string() + "\n"
    } else if options.csv {
        let mut line = quoted(path);
        for (class, probability) in ranked {
            write!(line, ",{},{probability}", quoted(class))?;
        }
        line + "\n"
    } else {
        let classes: Vec<_> = ranked
            .map(|(class, probability)| format!("{class} {:.1} %", 100.0 * probability))
            .collect();
        let more = match prediction.ranked.len() - top {
            more if more > 0 && options.top.is_none() => format!(", and {more} more"),
            _ => String::new(),
        };
        format!("{path}: {}{more}\n", classes.join(", "))
    };
    Ok(Verdict::Line(line))
}

/// A field of CSV (RFC 4180).
fn quoted(field: &str) -> String {
    match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}
