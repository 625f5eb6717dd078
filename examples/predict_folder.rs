//! A saved classifier on every picture of a folder: CSV on the standard output, one line per picture.
//!
//! ```text
//! cargo run --release --example quickstart   # trains and saves one
//! cargo run --release --example predict_folder -- runs/quickstart.safetensors examples/santa/pictures/test
//! ```
//!
//! What cannot be read is named on the standard error and passed over; the exit code is then 1.

use std::io::Write;
use std::process::ExitCode;

use headstart::prelude::*;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, folder] = arguments.as_slice() else {
        return Err("usage: predict_folder MODEL FOLDER".into());
    };
    // A file of another kind, or of a newer version, is an error that says so.
    let model = Classifier::load(model, &Device::Cpu)?;

    let mut csv = std::io::stdout().lock();
    write!(csv, "picture,class")?;
    for class in model.class_names() {
        write!(csv, ",{}", quoted(class))?;
    }
    writeln!(csv)?;

    let mut code = ExitCode::SUCCESS;
    for entry in walkdir::WalkDir::new(folder).sort_by_file_name() {
        let entry = entry?;
        if !entry.file_type().is_file() {
            continue;
        }
        // One at a time, so that a bad picture is nobody else's trouble; `predict_batch` takes many together.
        let prediction = match model.predict(entry.path()) {
            Ok(prediction) => prediction,
            Err(error) => {
                // The error names the picture.
                eprintln!("{error}");
                code = ExitCode::FAILURE;
                continue;
            }
        };
        let picture = entry.path().display().to_string();
        write!(csv, "{},{}", quoted(&picture), quoted(prediction.class()))?;
        for class in model.class_names() {
            let probability = prediction.probability(class).unwrap_or(f32::NAN);
            write!(csv, ",{probability:.4}")?;
        }
        writeln!(csv)?;
    }
    Ok(code)
}

/// A field of CSV: in quotes where a comma, a quote or a line's end is in it (RFC 4180).
fn quoted(field: &str) -> String {
    if field.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", field.replace('"', "\"\""));
    }
    field.to_owned()
}
