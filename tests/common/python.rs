//! A Python script that answers line by line: another implementation of what is tested.
#![allow(dead_code, reason = "not every test binary has one")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::de::DeserializeOwned;

/// A script at work.
pub struct Python {
    child: Child,
    jobs: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Python {
    /// Starts a script of this repository by `HEADSTART_PYTHON`, or `python3`, which needs what stands in the
    /// `requirements.txt` beside the script.
    pub fn start(script: &str) -> Self {
        let python = std::env::var_os("HEADSTART_PYTHON").unwrap_or_else(|| "python3".into());
        let mut command = Command::new(python);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("Python starts");
        Self {
            jobs: child.stdin.take().unwrap(),
            answers: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Sends a line and waits for its answer.
    pub fn ask<T: DeserializeOwned>(&mut self, job: &serde_json::Value) -> T {
        writeln!(self.jobs, "{job}").expect("the script takes another job");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap_or_else(|_| panic!("the script failed on {job}"))
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
