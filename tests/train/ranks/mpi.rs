//! The same by MPI: this test binary, started by `mpirun` (or what `HEADSTART_MPIRUN` names) as several processes.
//!
//! ```text
//! cargo test --features mpi --test train ranks::mpi -- --ignored --skip child
//! ```

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use headstart::train::communicator::{Communicator, Mpi};
use headstart::{Block, Checkpoints, Dataset, RmsProp, Trainer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{CASES, End, PICTURES, check_near, end, varied, vgg};
use crate::common;

/// Where the child finds pictures, the folder it works in, and what it does.
const DATA: &str = "HEADSTART_TEST_PICTURES";
const FOLDER: &str = "HEADSTART_TEST_FOLDER";
const TASK: &str = "HEADSTART_TEST_TASK";

/// The longest that ranks may go on after one is gone.
const GRACE: Duration = Duration::from_secs(30);

/// What `mpirun` starts.
#[test]
#[ignore = "is run by the others"]
fn child() {
    let variables = [DATA, FOLDER, TASK].map(|name| std::env::var(name).ok());
    let [Some(pictures), Some(folder), Some(task)] = variables else {
        return;
    };
    let (folder, dataset) = (PathBuf::from(folder), Dataset::open(pictures).unwrap());
    let ranks = Mpi::world().unwrap();
    match task.as_str() {
        "cases" => {
            for (index, (_, model, trainer)) in CASES.iter().enumerate() {
                let trainer = trainer().communicator(ranks.clone());
                let end = end(model(), trainer, &dataset).unwrap();
                write(&folder.join(format!("{index}-{}", ranks.rank())), &end);
            }
        }
        "checkpoints" => {
            let process = std::process::id().to_string();
            std::fs::write(folder.join(format!("process-{}", ranks.rank())), process).unwrap();
            let trainer = checkpointed(&folder).communicator(ranks.clone());
            let end = end(vgg(Some(Block::Conv5)), trainer, &dataset).unwrap();
            write(&folder.join(format!("end-{}", ranks.rank())), &end);
        }
        "differ" => {
            let trainer = varied(RmsProp::new(1e-4)).communicator(ranks.clone());
            let error = end(vgg(None), trainer, &dataset).err().unwrap().to_string();
            std::fs::write(folder.join(format!("error-{}", ranks.rank())), error).unwrap();
        }
        "leave" => {
            // Rank 1 goes before the others have begun.
            if ranks.rank() != 1 {
                let trainer = varied(RmsProp::new(1e-4)).communicator(ranks.clone());
                let error = end(vgg(None), trainer, &dataset).err().unwrap();
                let file = folder.join(format!("error-{}", ranks.rank()));
                std::fs::write(file, error.to_string()).unwrap();
            }
        }
        "panic" => {
            assert!(ranks.rank() != 1, "rank 1 panics");
            let trainer = varied(RmsProp::new(1e-4)).communicator(ranks.clone());
            end(vgg(None), trainer, &dataset).map(|_| ()).unwrap();
        }
        other => panic!("what is {other}?"),
    }
}

fn checkpointed(folder: &Path) -> Trainer {
    let checkpoints = folder.join("checkpoints");
    varied(RmsProp::new(1e-4))
        .epochs(6)
        .checkpoint(Checkpoints::new(&checkpoints).every_steps(1).keep(2))
        .resume(&checkpoints)
}

/// The losses of the steps, and all weights.
fn write(path: &Path, end: &End) {
    let whole = serde_json::json!([end.losses, end.history, end.weights]);
    std::fs::write(path, serde_json::to_vec(&whole).unwrap()).unwrap();
}

fn read(path: PathBuf) -> End {
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (losses, history, weights): (_, _, Vec<Vec<f32>>) = serde_json::from_slice(&bytes).unwrap();
    let bits = |tensor: &Vec<f32>| tensor.iter().map(|x| x.to_bits()).collect();
    End {
        losses,
        history,
        bits: weights.iter().map(bits).collect(),
        weights,
    }
}

/// This test binary, asked for the child alone.
fn program() -> Vec<String> {
    let program = std::env::current_exe().unwrap().into_os_string();
    let arguments = ["ranks::mpi::child", "--exact", "--ignored", "--nocapture"];
    let arguments = arguments.map(str::to_owned).into_iter();
    [program.into_string().unwrap()]
        .into_iter()
        .chain(arguments)
        .collect()
}

fn start(ranks: usize, task: &str, pictures: &Path, folder: &Path) -> Child {
    let arguments = [vec!["-n".to_owned(), ranks.to_string()], program()];
    launch(&arguments.concat(), task, pictures, folder)
}

fn launch(arguments: &[String], task: &str, pictures: &Path, folder: &Path) -> Child {
    let launcher = std::env::var("HEADSTART_MPIRUN").unwrap_or_else(|_| "mpirun".to_owned());
    Command::new(&launcher)
        .args(arguments)
        .env(DATA, pictures)
        .env(FOLDER, folder)
        .env(TASK, task)
        .env("RAYON_NUM_THREADS", "1")
        // Open MPI refuses more ranks than cores, and the user `root` of a container, unless it is told so.
        .env("OMPI_MCA_rmaps_base_oversubscribe", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT", "1")
        .env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{launcher}: {error}"))
}

fn finish(ranks: usize, task: &str, pictures: &Path, folder: &Path) {
    let status = start(ranks, task, pictures, folder).wait().unwrap();
    assert!(status.success(), "{ranks} ranks, {task}: {status}");
}

#[test]
#[ignore = "needs mpirun"]
fn ranks_by_mpi_train_as_one_and_the_same_each_time() {
    let (pictures, dataset) = common::colours(PICTURES);
    let mut largest = 0f64;
    let ones = CASES
        .iter()
        .map(|(_, model, trainer)| end(model(), trainer(), &dataset).unwrap());
    let ones: Vec<End> = ones.collect();
    for ranks in [1, 2, 3, 4] {
        let runs = [(); 2].map(|()| {
            let folder = tempfile::tempdir().unwrap();
            finish(ranks, "cases", pictures.path(), folder.path());
            folder
        });
        for (index, ((name, ..), one)) in CASES.iter().zip(&ones).enumerate() {
            let what = format!("{name}, {ranks} ranks");
            let first = read(runs[0].path().join(format!("{index}-0")));
            if ranks == 1 {
                assert!(
                    first.bits == one.bits && first.losses == one.losses,
                    "{what}"
                );
            }
            largest = largest.max(check_near(&what, &first, one));
            for folder in &runs {
                for rank in 0..ranks {
                    let other = read(folder.path().join(format!("{index}-{rank}")));
                    assert!(other.bits == first.bits, "{what}: rank {rank}");
                }
            }
        }
    }
    println!("largest relative distance {largest:e}");
}

#[test]
#[ignore = "needs mpirun"]
fn ranks_hear_of_one_that_leaves_and_end_with_one_that_panics() {
    let (pictures, _) = common::colours(PICTURES);
    let folder = tempfile::tempdir().unwrap();
    finish(3, "leave", pictures.path(), folder.path());
    for rank in [0, 2] {
        let file = folder.path().join(format!("error-{rank}"));
        let error = std::fs::read_to_string(file).unwrap();
        assert_eq!(error, "rank 1: it ended before the others");
    }
    let begun = Instant::now();
    let status = start(3, "panic", pictures.path(), folder.path()).wait();
    assert!(!status.unwrap().success());
    assert!(begun.elapsed() < GRACE, "{:?}", begun.elapsed());
}

#[test]
#[ignore = "needs mpirun"]
fn ranks_that_compute_with_other_instructions_are_refused() {
    let (pictures, _) = common::colours(PICTURES);
    let folder = tempfile::tempdir().unwrap();
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let other = words(&[":", "-n", "1", "env", "HEADSTART_KERNELS=portable"]);
    let arguments = [words(&["-n", "1"]), program(), other, program()].concat();
    let status = launch(&arguments, "differ", pictures.path(), folder.path()).wait();
    assert!(status.unwrap().success());
    for rank in [0, 1] {
        let error = std::fs::read_to_string(folder.path().join(format!("error-{rank}"))).unwrap();
        assert!(
            error.starts_with("rank 1: processor's instructions: found"),
            "{error}"
        );
    }
}

/// Kills a rank at a random moment, waits for the others, and has the run go on to its end. So many times:
/// `HEADSTART_KILLS`, 5 unless it says otherwise.
#[test]
#[ignore = "needs mpirun"]
fn a_killed_rank_ends_the_run_which_goes_on_to_the_same_weights() {
    let (pictures, _) = common::colours(PICTURES);
    let ranks = 3;
    let begun = Instant::now();
    let whole = tempfile::tempdir().unwrap();
    finish(ranks, "checkpoints", pictures.path(), whole.path());
    let length = begun.elapsed();
    let expected = read(whole.path().join("end-0"));
    let kills = std::env::var("HEADSTART_KILLS").map_or(5, |kills| kills.parse().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(16);
    let (mut killed, mut longest) = (0, Duration::ZERO);
    while killed < kills {
        let folder = tempfile::tempdir().unwrap();
        let mut run = start(ranks, "checkpoints", pictures.path(), folder.path());
        std::thread::sleep(length.mul_f64(rng.random_range(0.0..1.0)));
        let process = folder
            .path()
            .join(format!("process-{}", rng.random_range(0..ranks)));
        let Ok(process) = std::fs::read_to_string(process) else {
            // It has not begun yet.
            run.kill().unwrap();
            run.wait().unwrap();
            continue;
        };
        let mut kill = Command::new("kill");
        kill.args(["-KILL", &process]).stderr(Stdio::null());
        if run.try_wait().unwrap().is_some() || !kill.status().unwrap().success() {
            run.wait().unwrap();
            continue;
        }
        let moment = Instant::now();
        let status = run.wait().unwrap();
        longest = longest.max(moment.elapsed());
        assert!(moment.elapsed() < GRACE, "{:?}", moment.elapsed());
        if status.success() {
            continue;
        }
        killed += 1;
        finish(ranks, "checkpoints", pictures.path(), folder.path());
        for rank in 0..ranks {
            let end = read(folder.path().join(format!("end-{rank}")));
            assert!(
                end.bits == expected.bits,
                "after kill {killed}, rank {rank}"
            );
        }
        let left = std::fs::read_dir(folder.path().join("checkpoints")).unwrap();
        for file in left {
            let name = file.unwrap().file_name().into_string().unwrap();
            let whole = name.starts_with("checkpoint-") && name.ends_with(".safetensors");
            assert!(whole, "{name} is left");
        }
    }
    println!("{killed} kills; the last rank was gone after {longest:?} at most");
}
