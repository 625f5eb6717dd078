//! What each rank of a run is about to do, which has to be the same before the first step.

use std::collections::BTreeSet;

use serde_json::Value;

use super::position::Position;
use crate::data::Dataset;
use crate::model::{Backbone, Classifier};
use crate::train::ranks::Intention;

/// A run of these settings, in this place.
pub(super) fn of_run<B: Backbone>(
    settings: &Value,
    position: &Position,
    model: &Classifier<B>,
    (train, validation): (&Dataset, &Dataset),
) -> Intention {
    let mut own = Intention::with(model);
    own.add_pictures("training pictures", train);
    own.add_pictures("validation pictures", validation);
    // Those of callbacks do not count: rank 0 alone has them.
    let settings = settings.as_object().into_iter().flatten();
    for (name, value) in settings.filter(|(name, _)| *name != "callbacks") {
        own.add(&format!("setting `{name}`"), value);
    }
    let open = model.variables().into_iter().map(|(name, _)| name);
    let open: BTreeSet<String> = open.collect();
    own.add_weights("frozen weights", model, &open);
    let (epochs, steps) = position.place();
    own.add("start", format!("after {epochs} epochs and {steps} steps"));
    own
}
