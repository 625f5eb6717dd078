//! An optimizer of any rule, for a trainer to hold.

use std::sync::Arc;

use serde_json::{Value, json};

use super::generic::{self, Optimizer};
use super::rule::UpdateRule;
use crate::error::Result;

/// An [`Optimizer`] of any rule, without variables: what a [`Trainer`](crate::Trainer) updates with. Made by `From`
/// from each, so that different ones fit in one list.
#[derive(Clone, Debug)]
pub struct AnyOptimizer {
    rule: Arc<dyn UpdateRule>,
    learning_rate: f64,
}

impl AnyOptimizer {
    /// The learning rate.
    pub fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    pub(in crate::train) fn rule(&self) -> &Arc<dyn UpdateRule> {
        &self.rule
    }

    pub(in crate::train) fn check(&self) -> Result<()> {
        generic::check(&*self.rule, self.learning_rate)
    }

    /// Everything that decides its steps, for a resumed run to compare.
    pub(in crate::train) fn settings(&self) -> Value {
        json!({
            "name": self.rule.name(),
            "learning_rate": self.learning_rate,
            "options": self.rule.settings(),
        })
    }
}

impl<R: UpdateRule> From<Optimizer<R>> for AnyOptimizer {
    fn from(optimizer: Optimizer<R>) -> Self {
        Self {
            rule: Arc::new(optimizer.rule),
            learning_rate: optimizer.learning_rate,
        }
    }
}
