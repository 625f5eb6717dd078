//! What a file of weights is, when it is not of the base that was asked for.

use super::naming::Naming;
use crate::model::arch::Arch;

/// A sentence on what the file may be, by the names and shapes of its tensors.
pub(super) fn guess(
    wanted: &Arch,
    names: &[String],
    shape: impl Fn(&str) -> Option<Vec<usize>>,
) -> Option<String> {
    let fits = |arch: &Arch| {
        let Ok(naming) = Naming::detect(arch, |name| shape(name).is_some()) else {
            return false;
        };
        let tensors = || arch.convs().flat_map(|(_, conv)| naming.tensors(conv));
        tensors().all(|(name, wanted)| shape(&name).is_some_and(|found| found == wanted))
    };
    // A table may be found in a larger one, as vgg11 in no other but resnet18 in resnet34: the largest is it.
    let other = Arch::all().into_iter().filter(|arch| arch != wanted);
    let other = other.filter(fits).max_by_key(Arch::parameters);
    if let Some(other) = other {
        return Some(format!("these are weights of `{other}`"));
    }
    let norm = |name: &&String| name.starts_with("features.") && name.ends_with("running_mean");
    if wanted.has_keras_names() && names.iter().any(|name| norm(&name)) {
        let found = "these are weights of a network with batch norms, such as vgg16_bn";
        return Some(format!("{found}; `{wanted}` has none"));
    }
    if let Some(nearest) = nearest(&shape) {
        return Some(nearest);
    }
    let first = names.first()?;
    Some(format!(
        "the file has `{first}` and {} more",
        names.len() - 1
    ))
}

/// The base that a file has most tensors of, if it has half of them, and the first that it has not.
fn nearest(shape: &impl Fn(&str) -> Option<Vec<usize>>) -> Option<String> {
    let mut best = (0.5, None);
    for arch in Arch::all() {
        for naming in Naming::of(&arch) {
            let tensors = arch.convs().flat_map(|(_, conv)| naming.tensors(conv));
            let tensors: Vec<_> = tensors.collect();
            let fits =
                |(name, wanted): &&(String, Vec<usize>)| shape(name).as_ref() == Some(wanted);
            let share = tensors.iter().filter(fits).count() as f64 / tensors.len() as f64;
            if share > best.0 {
                let missing = tensors.iter().find(|tensor| !fits(tensor));
                best = (
                    share,
                    missing.map(|(name, _)| (arch.name().to_owned(), name.clone())),
                );
            }
        }
    }
    let (base, missing) = best.1?;
    Some(format!(
        "the nearest base is `{base}`, but `{missing}` is missing or has another shape"
    ))
}
