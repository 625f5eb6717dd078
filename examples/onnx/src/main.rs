//! ```text
//! cargo run --release -- model.onnx photo.jpg
//! ```

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [model, picture] = arguments.as_slice() else {
        return Err("usage: run_onnx MODEL.onnx PICTURE".into());
    };
    for (class, probability) in run_onnx::predict(model.as_ref(), picture.as_ref())? {
        println!("{class} {:.1} %", 100.0 * probability);
    }
    Ok(())
}
