//! What a run is about to do, in plain words.

use super::settings::{Recipe, Settings, open_blocks};
use crate::model::{Backbone, Classifier};
use crate::train::FineTuning;
use crate::words::count;

impl Settings {
    /// What is about to be learnt by a model that these settings built, in plain words: a few lines.
    pub fn explain(&self, model: &Classifier, learning_rate: f64) -> String {
        let open = match (self.recipe(), &self.unfreeze) {
            (Recipe::FineTune, None) => FineTuning::new(model).blocks,
            _ => open_blocks(model),
        };
        let blocks = model.base().blocks().into_iter().map(|block| block.name);
        let frozen: Vec<String> = blocks.filter(|name| !open.contains(name)).collect();
        let mut lines = vec!["What is learnt:".to_owned()];
        if !frozen.is_empty() {
            let names = frozen.join(", ");
            lines.push(format!(
                "  frozen      {names}: keep what they learnt from other pictures"
            ));
        }
        if !open.is_empty() {
            let names = open.join(", ");
            lines.push(format!("  fine-tuned  {names}: adapt to these pictures"));
        }
        lines.push("  new         the head: learns from nothing to tell the classes apart".into());
        lines.push(self.how(learning_rate));
        lines.join("\n")
    }

    /// Each setting that is set by its name and its value, as text.
    pub fn rows(&self) -> Vec<(String, String)> {
        let value = serde_json::to_value(self).unwrap_or_default();
        let fields = value.as_object().into_iter().flatten();
        let set = fields.filter(|(_, value)| !value.is_null());
        let text = |value: &serde_json::Value| match value.as_str() {
            Some(text) => text.to_owned(),
            None => value.to_string(),
        };
        set.map(|(name, value)| (name.replace('_', " "), text(value)))
            .collect()
    }

    /// The recipe in a sentence.
    fn how(&self, learning_rate: f64) -> String {
        let (epochs, batch) = (count(self.epochs(), "epoch"), self.batch_size());
        let steps = format!("{epochs} of batches of {batch}");
        let varied = match self.augmenter() {
            Some(_) => "turned, shifted, zoomed and mirrored at random",
            None => "as it is",
        };
        match self.recipe() {
            Recipe::FineTune => format!(
                "The head first, on a frozen base, then head and last blocks together, gently:\n{steps}, AdamW up to \
                 {learning_rate:e} and then a tenth of it,\neach picture {varied}."
            ),
            Recipe::Linear => format!(
                "One layer on what the frozen base makes of each picture, which is computed once:\n{steps}, AdamW up to \
                 {learning_rate:e}."
            ),
            Recipe::Notebook | Recipe::Cached => {
                format!("{steps}, RMSprop at {learning_rate:e},\neach picture {varied}.")
            }
        }
    }
}
