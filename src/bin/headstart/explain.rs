//! `headstart explain`: where in a picture a model sees a class.

use std::path::{Path, PathBuf};

use headstart::data::decode_file;

use crate::options::load;
use crate::{End, Failure, say, usage};

/// Shows where in a picture a model sees a class.
///
/// Writes the picture with a map over it, from blue, where nothing speaks for the class, to red (Grad-CAM, Selvaraju
/// et al. 2017).
#[derive(clap::Args)]
pub(crate) struct Options {
    /// A saved model, or the folder of a run.
    model: PathBuf,
    /// The picture.
    picture: PathBuf,
    /// The class to look for [default: the most probable]
    #[arg(long, value_name = "NAME")]
    class: Option<String>,
    /// The block of the base whose output is looked at: later ones say more, and less where
    /// [default: the last whose map has four rows or more]
    #[arg(long, value_name = "BLOCK")]
    block: Option<String>,
    /// Where the picture is written, as PNG [default: PICTURE-CLASS.png in this folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Prints JSON, with the map.
    #[arg(long)]
    json: bool,
}

/// Writes the overlay.
pub(crate) fn run(options: &Options) -> Result<End, Failure> {
    let model = load(&options.model)?;
    let picture = decode_file(&options.picture)?;
    let prediction = model.predict(&options.picture)?;
    let (class, block) = (options.class.as_deref(), options.block.as_deref());
    let cam = model
        .grad_cam(&options.picture, class, block)
        .map_err(usage)?;
    let out = options
        .out
        .clone()
        .unwrap_or_else(|| default_out(&options.picture, &cam.class));
    let mut png = std::io::Cursor::new(Vec::new());
    cam.overlay(&picture)
        .write_to(&mut png, image::ImageFormat::Png)?;
    write_whole(&out, png.get_ref())?;
    if options.json {
        return say::json(&serde_json::json!({
            "picture": options.picture, "prediction": prediction, "class": cam.class, "block": cam.block,
            "map": cam.map, "overlay": out,
        }));
    }
    say::text(&format!(
        "{}: {prediction}\nwhere it speaks for {} ({}) is shown in {}\n",
        options.picture.display(),
        cam.class,
        cam.block,
        out.display()
    ))
}

/// Writes a file beside and renames it, so that it is whole or not there.
fn write_whole(path: &Path, content: &[u8]) -> Result<(), Failure> {
    let folder = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let write = || {
        let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
        std::io::Write::write_all(&mut file, content)?;
        #[cfg(unix)]
        {
            let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            file.as_file().set_permissions(readable)?;
        }
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|error: std::io::Error| format!("{}: {error}", path.display()).into())
}

fn default_out(picture: &Path, class: &str) -> PathBuf {
    let stem = picture.file_stem().unwrap_or_default().to_string_lossy();
    // A class's name may hold what no file's may.
    let class = class.replace(['/', '\\', ':', '\0'], "_");
    format!("{stem}-{class}.png").into()
}
