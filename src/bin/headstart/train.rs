//! `headstart train`: from a folder of pictures to a folder with a model, its figures and a report.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use headstart::report::Report;
use headstart::run::{Config, LearningRate, Metrics, Parts, Run, Start};
use headstart::study::Oddities;
use headstart::train::communicator::{self, Communicator};
use headstart::train::metrics::{History, Scores};
use headstart::{Checkpoints, Classifier, Trainer, best_device};

use crate::options::{SettingOptions, parts};
use crate::report::{study_in, with_study};
use crate::{End, Failure, say, usage};

/// Trains a classifier on a folder of pictures.
///
/// PICTURES holds one folder of pictures for each class, of which a fifth is held out to test on and a fifth of the
/// rest to validate on:
///
///   PICTURES/cat/1.jpg, PICTURES/dog/1.jpg, …
///
/// or it holds the parts, of which `validation` and `test` may be missing:
///
///   PICTURES/train/cat/1.jpg, PICTURES/validation/cat/1.jpg, PICTURES/test/cat/1.jpg, …
///
/// Several processes share the work when `mpirun` starts them (`mpirun -n 4 headstart train pictures`), on one machine
/// or on many that see the same folders: for this the program is built with the feature `mpi`.
///
/// The run writes model.safetensors, history.csv, history.json, metrics.json, config.toml and report.html to a folder
/// of its own. Ctrl-C leaves it with a checkpoint, and --resume goes on.
#[derive(clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  \
        headstart train pictures\n  \
        headstart train pictures --base tf_efficientnet_lite0 --size 160 --epochs 30\n  \
        headstart train pictures --recipe linear --lr auto --out runs/linear\n  \
        headstart train --resume --out runs/pictures --epochs 40\n  \
        headstart train --config runs/pictures/config.toml --out runs/again"
)]
pub(crate) struct Options {
    /// The pictures: a folder, or a tar archive of class folders.
    #[arg(required_unless_present_any = ["config", "resume"])]
    pictures: Option<PathBuf>,
    /// Class folders to validate on, in place of pictures that are held out.
    #[arg(long, value_name = "DIR")]
    validation: Option<PathBuf>,
    /// Class folders to test on, in place of pictures that are held out.
    #[arg(long, value_name = "DIR")]
    test: Option<PathBuf>,
    #[command(flatten)]
    settings: SettingOptions,
    /// Takes settings, and where the pictures are, from this file; each run writes the one that repeats it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the results go [default: runs/ and the name of PICTURES]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Goes on with the run in the folder --out, with its settings: one that was left, or with more --epochs one that
    /// was finished.
    #[arg(long)]
    resume: bool,
    /// Writes over the run that is in the folder --out.
    #[arg(long, conflicts_with = "resume")]
    force: bool,
    /// Prints the figures as JSON, and nothing else.
    #[arg(long)]
    json: bool,
}

impl Options {
    /// Where the results go.
    fn out(&self, config: &Config) -> PathBuf {
        let name = config.pictures.as_deref().and_then(Path::file_stem);
        let default = || Path::new("runs").join(name.unwrap_or("pictures".as_ref()));
        self.out.clone().unwrap_or_else(default)
    }

    /// What was given, then what the file says.
    fn config(&self) -> Result<Config, Failure> {
        let left = self.out.as_ref().filter(|_| self.resume);
        let left = left
            .map(|out| out.join("config.toml"))
            .filter(|path| path.exists());
        let file = match self.config.clone().or(left) {
            Some(path) => Config::load(&path)?,
            None => Config::default(),
        };
        let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
        Ok(Config {
            pictures: absolute(&self.pictures)?.or(file.pictures),
            validation: absolute(&self.validation)?.or(file.validation),
            test: absolute(&self.test)?.or(file.test),
            settings: self.settings.settings().or(file.settings),
        })
    }
}

/// Trains, saves, evaluates and shows.
pub(crate) fn run(options: Options) -> Result<End, Failure> {
    let mut config = options.config()?;
    config.settings.check().map_err(usage)?;
    let ranks = communicator::world()?;
    let is_first = ranks.rank() == 0;
    let parts = parts(&config)?;
    let start = match (options.resume, options.force) {
        (true, _) => Start::Resume,
        (_, true) => Start::Force,
        _ => Start::New,
    };
    let run = match is_first {
        true => Run::begin(options.out(&config), start)?,
        false => Run::of_rank_0(options.out(&config)),
    };
    let oddities = study_in(run.folder())?;
    let say = |text: &str| match options.json || !is_first {
        true => Ok(()),
        false => say::out(text),
    };
    say(&format!("{parts}\n"))?;
    let stop = stop_on_interrupt()?;
    let device = best_device();
    let classes = parts.train.class_names();
    let mut model = config.settings.build(classes, &device).map_err(usage)?;
    let (trainer, rate) = config.settings.trainer(&model, &parts.train)?;
    config.settings.lr = Some(LearningRate::Rate(rate));
    config.settings = config.settings.resolved();
    if is_first {
        config.save(run.folder().join("config.toml"))?;
    }
    say(&format!("{}\n\n", config.settings.explain(&model, rate)))?;
    let trainer = trainer.communicator(communicator::on_device(ranks.clone(), &device)?);
    let history = fit(&trainer, &mut model, &parts, &run, options.resume, &stop)?;
    // Rank 0 was asked.
    let asked = ranks.gather(&[u8::from(stop.load(Ordering::Relaxed))])?;
    if asked[0] == [1] {
        say("Left as asked. The same command with --resume goes on.\n")?;
        return Ok(End::Left);
    }
    if is_first {
        run.save_model(&model)?;
    }
    let scores = score(&model, &parts, &run, ranks)?;
    if !is_first {
        return Ok(End::Done);
    }
    let result = (&model, &history, &scores);
    finish(&options, &config, &parts, &run, result, &oddities)
}

/// The first Ctrl-C leaves the run after the step, with a checkpoint; the second at once.
fn stop_on_interrupt() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    Ok(stop)
}

/// Trains, until it is done or asked to stop. What each epoch reached is written in any case.
fn fit(
    trainer: &Trainer,
    model: &mut Classifier,
    parts: &Parts,
    run: &Run,
    resume: bool,
    stop: &Arc<AtomicBool>,
) -> Result<History, Failure> {
    let checkpoints = Checkpoints::new(run.checkpoints()).every(5).keep(1);
    let mut trainer = trainer
        .clone()
        .checkpoint(checkpoints)
        .stop_flag(stop.clone());
    if resume {
        trainer = trainer.resume(run.checkpoints());
    }
    let history = trainer.fit(model, &parts.train, &parts.validation);
    let reached = match &history {
        Ok(history) => Some(history),
        Err(error) => error.history(),
    };
    if let Some(history) = reached.filter(|_| run.is_taken()) {
        run.save_history(history)?;
    }
    Ok(history?)
}

/// Scores the model, which is saved in any case.
fn score(
    model: &Classifier,
    parts: &Parts,
    run: &Run,
    ranks: Arc<dyn Communicator>,
) -> Result<Scores, Failure> {
    let (_, judged) = parts.judged();
    let scores = model.score_together(judged, ranks);
    let saved = |error| format!("{error}; the model is saved to {}", run.model().display());
    Ok(scores.map_err(saved)?)
}

/// Shows how good the model is, and writes it down.
fn finish(
    options: &Options,
    config: &Config,
    parts: &Parts,
    run: &Run,
    (model, history, scores): (&Classifier, &History, &Scores),
    oddities: &Option<Oddities>,
) -> Result<End, Failure> {
    let (part, judged) = parts.judged();
    let metrics = Metrics::new(part, scores, history, &config.settings);
    run.save_metrics(&metrics)?;
    let path = run.folder().join("report.html");
    let report = Report::new(model, judged, scores)
        .part(part)
        .history(history)
        .training(&parts.train, &parts.validation)
        .settings(&config.settings)
        .record(&metrics.record);
    with_study(report, oddities).write(&path)?;
    if options.json {
        return say::json(&metrics);
    }
    let columns = say::columns();
    let what = match part {
        "test" => "On the test pictures, none of which was trained on",
        _ => "On the validation pictures, since there are none to test on",
    };
    let out = run.folder().display();
    say::text(&format!(
        "{}\n{what}:\n{}\n{}\nSaved to {out}. Open {} to look at it, and try it on a picture of yours:\n  \
         headstart predict {out} PICTURE\n",
        history.chart(columns),
        scores.evaluation.table(),
        scores.evaluation.confusion_chart(columns),
        path.display(),
    ))
}
