//! An optimizer: a rule, a learning rate, and variables with their state.

use candle_core::backprop::GradStore;
use candle_core::{Result as CandleResult, Tensor, Var};

use super::rule::{UpdateRule, check_options};
use super::states::VariableStates;
use crate::error::Result;
use crate::train::range::not_negative;

/// Moves variables along their gradients by a rule: [`RmsProp`](super::RmsProp), [`AdamW`](super::AdamW),
/// [`Sgd`](super::Sgd), or a [rule of your own](UpdateRule).
///
/// It is made without variables. A [`Trainer`](crate::Trainer) gives it the model's; in a loop of your own
/// [`with_variables`](Self::with_variables) does, and [`candle_nn::Optimizer`] makes the steps. Variables are updated
/// in the order they are given, and state is kept for them alone, from their first gradient on: a frozen tensor has
/// none.
#[derive(Clone, Debug)]
pub struct Optimizer<R> {
    pub(super) rule: R,
    pub(super) learning_rate: f64,
    states: VariableStates,
}

impl<R: UpdateRule> Optimizer<R> {
    /// An optimizer by this rule, without variables yet.
    pub fn from_rule(rule: R, learning_rate: f64) -> Self {
        Self {
            rule,
            learning_rate,
            states: VariableStates::default(),
        }
    }

    /// Gives the optimizer its variables, in the order they will be updated, with fresh state.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for an option out of range.
    pub fn with_variables(mut self, variables: Vec<Var>) -> Result<Self> {
        self.check()?;
        self.states = VariableStates::numbered(variables);
        Ok(self)
    }

    /// Checks the learning rate and every option of the rule.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption) for an option out of range.
    pub fn check(&self) -> Result<()> {
        check(&self.rule, self.learning_rate)
    }

    /// [`step`](candle_nn::Optimizer::step) that uses the gradients up: without a copy of each, which is what it takes
    /// to leave them as they are. Whoever has kept a gradient's tensor finds something else in it afterwards. The
    /// tensors that come back are for [`Backbone::backward`](crate::model::Backbone::backward) to write the next
    /// gradients to.
    ///
    /// # Errors
    /// As for `step`.
    pub fn step_spending(&mut self, gradients: GradStore) -> CandleResult<Vec<Tensor>> {
        let (rule, learning_rate) = (&self.rule, self.learning_rate);
        let (planned, spent) = self.states.plan_spending(rule, learning_rate, gradients)?;
        let wrong = self.states.carry_out(planned)?;
        self.refuse(wrong)?;
        Ok(spent)
    }

    /// An error for a variable that would become NaN or infinite.
    fn refuse(&self, wrong: Option<(String, f32)>) -> CandleResult<()> {
        let Some((variable, value)) = wrong else {
            return Ok(());
        };
        let name = self.rule.name();
        candle_core::bail!("{name}: variable {variable} or its state would become {value}")
    }

    /// A copy of the state, for a checkpoint: for each variable that had a gradient, named by its position, what the
    /// options need of it, such as `0.momentum`, shaped as the variable.
    ///
    /// # Errors
    /// [`Error::Candle`](crate::Error::Candle) if allocation fails.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>> {
        self.states.state(&self.rule)
    }

    /// Takes over what [`state`](Self::state) gave: the next step is the one that optimizer would have made. Variables
    /// the state does not name start afresh.
    ///
    /// # Errors
    /// [`Error::Mismatch`](crate::Error::Mismatch) for state of other variables or options,
    /// [`Error::Shape`](crate::Error::Shape) for state of another shape.
    pub fn restore(&mut self, state: &[(String, Tensor)]) -> Result<()> {
        self.states.restore(&self.rule, state)
    }
}

/// Checks a rule and its learning rate.
pub(super) fn check(rule: &dyn UpdateRule, learning_rate: f64) -> Result<()> {
    let in_range = not_negative(learning_rate);
    check_options(&[("learning_rate", learning_rate, in_range, "0 or more")])?;
    rule.check()
}

impl<R: UpdateRule> candle_nn::Optimizer for Optimizer<R> {
    type Config = Self;

    /// Gives `config`'s rule and learning rate to an optimizer of these variables.
    fn new(variables: Vec<Var>, config: Self) -> CandleResult<Self> {
        config
            .with_variables(variables)
            .map_err(candle_core::Error::wrap)
    }

    /// Updates every variable that has a gradient; or none, with an error, where one would become NaN or infinite.
    fn step(&mut self, gradients: &GradStore) -> CandleResult<()> {
        let wrong = self
            .states
            .step(&self.rule, self.learning_rate, gradients)?;
        self.refuse(wrong)
    }

    fn learning_rate(&self) -> f64 {
        self.learning_rate
    }

    fn set_learning_rate(&mut self, learning_rate: f64) {
        self.learning_rate = learning_rate;
    }
}
