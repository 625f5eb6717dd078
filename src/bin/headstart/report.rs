//! `headstart report`: a page about a model, made afresh.

use std::path::{Path, PathBuf};

use headstart::report::Report;
use headstart::run::{Config, Record, Run};
use headstart::study::Oddities;

use crate::options::{load, parts};
use crate::{End, Failure, evaluate, say};

/// Writes the report of a run, or of a model on labelled pictures: one HTML file that opens without the network.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// The folder of a run, or a saved model.
    #[arg(value_name = "RUN|MODEL")]
    model: PathBuf,
    /// Class folders, or a tar archive of them, to score on [default: those of the run]
    #[arg(value_name = "DIR")]
    pictures: Option<PathBuf>,
    /// What `headstart study` wrote of these pictures: its study.json, or the folder it is in [default: that in the
    /// run's folder, where there is one]
    #[arg(long, value_name = "FILE|DIR")]
    study: Option<PathBuf>,
    /// Where the page is written [default: report.html in the run's folder, or in this one]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What a study left in a folder, if there is one.
pub(crate) fn study_in(folder: &Path) -> Result<Option<Oddities>, Failure> {
    let path = folder.join("study.json");
    Ok(path.exists().then(|| Oddities::load(&path)).transpose()?)
}

pub(crate) fn with_study<'a>(report: Report<'a>, oddities: &'a Option<Oddities>) -> Report<'a> {
    match oddities {
        Some(oddities) => report.study(oddities),
        None => report,
    }
}

/// Scores anew, and writes the page.
pub(crate) fn run(options: &Options) -> Result<End, Failure> {
    let is_run = options.model.is_dir();
    let model = load(&options.model)?;
    let default = match is_run {
        true => options.model.join("report.html"),
        false => "report.html".into(),
    };
    let out = options.out.clone().unwrap_or(default);
    let oddities = match &options.study {
        Some(study) if study.is_dir() => Some(Oddities::load(study.join("study.json"))?),
        Some(study) => Some(Oddities::load(study)?),
        None if is_run => study_in(&options.model)?,
        None => None,
    };
    let record = match options.model.join("metrics.json").exists() {
        true => Run::metrics_of(&options.model)?.record,
        false => Record::default(),
    };
    match (&options.pictures, is_run) {
        (None, false) => {
            let reason = "a model alone does not say which pictures to score it on: add a DIR of class folders";
            return Err(Failure::Usage(reason.into()));
        }
        (None, true) => {
            let config = Config::load(options.model.join("config.toml"))?;
            let history = Run::history_of(&options.model)?;
            let parts = parts(&config)?;
            let (part, judged) = parts.judged();
            let scores = model.score(judged)?;
            let report = Report::new(&model, judged, &scores)
                .part(part)
                .history(&history)
                .training(&parts.train, &parts.validation)
                .settings(&config.settings)
                .record(&record);
            with_study(report, &oddities).write(&out)?;
        }
        (Some(pictures), _) => {
            let dataset = evaluate::open(pictures, model.class_names())?;
            let scores = model.score(&dataset)?;
            let report = Report::new(&model, &dataset, &scores).record(&record);
            with_study(report, &oddities).write(&out)?;
        }
    }
    say::text(&format!("the report is in {}\n", out.display()))
}
