//! What the optimizers share: variables with their state, and the walk over them.

mod any;
mod fused;

pub use any::AnyOptimizer;
pub(super) use fused::{CHUNK, Lanes};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};

use self::fused::FusedStep;
use crate::{Error, Result};

/// State tensors an optimizer may keep for each variable.
pub(super) const LANES: usize = 3;

/// A formula for one variable: how its gradient and state move it.
pub(super) trait Rule {
    /// The optimizer's name in errors.
    const NAME: &'static str;
    /// Whether the formula asks how many steps a variable took: then the count is part of the state.
    const COUNTS_STEPS: bool = false;
    /// The options as f32, made once per variable and step.
    type Factors: Sync;

    /// The names of the state tensors that the options use.
    fn lanes(&self) -> [Option<&'static str>; LANES];

    /// The options of a step at this learning rate, the `step`-th of the variable, counted from 1.
    fn factors(&self, learning_rate: f64, step: u64) -> Self::Factors;

    /// The step on at most [`CHUNK`] numbers.
    fn step_chunk(factors: &Self::Factors, lanes: Lanes<'_>);

    /// The step by candle's operations, for other devices and number types: the new weight.
    fn step_tensors(
        &self,
        learning_rate: f64,
        step: u64,
        weight: Tensor,
        gradient: &Tensor,
        state: &mut [Option<Tensor>; LANES],
    ) -> CandleResult<Tensor>;
}

/// A variable as a trainer hands it over.
#[derive(Clone, Debug)]
pub(super) struct Variable {
    /// What its state is called after.
    pub(super) name: String,
    pub(super) var: Var,
    /// What the learning rate is multiplied by.
    pub(super) rate: f64,
}

/// Variables with their state, in the order they are updated.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots(Vec<Slot>);

/// A variable and its state, which the first gradient brings about.
#[derive(Clone, Debug)]
struct Slot {
    variable: Variable,
    state: Option<State>,
}

#[derive(Clone, Debug)]
struct State {
    /// How many steps the variable took.
    steps: u64,
    lanes: StateLanes,
}

#[derive(Clone, Debug)]
enum StateLanes {
    /// f32 on the CPU: see [`fused`]. Empty where the options use none.
    Cpu([Vec<f32>; LANES]),
    /// Anything else: candle's operations.
    Tensors([Option<Tensor>; LANES]),
}

impl Slots {
    pub(super) fn new(variables: Vec<Variable>) -> Self {
        let slot = |variable| Slot {
            variable,
            state: None,
        };
        Self(variables.into_iter().map(slot).collect())
    }

    /// Variables named by their position.
    pub(super) fn numbered(variables: Vec<Var>) -> Self {
        let variable = |(index, var): (usize, Var)| Variable {
            name: index.to_string(),
            var,
            rate: 1.0,
        };
        Self::new(variables.into_iter().enumerate().map(variable).collect())
    }

    /// Updates every variable that has a gradient.
    pub(super) fn step<R: Rule>(
        &mut self,
        rule: &R,
        learning_rate: f64,
        gradients: &GradStore,
    ) -> CandleResult<()> {
        for slot in &mut self.0 {
            if let Some(gradient) = gradients.get(&slot.variable.var) {
                slot.step(rule, learning_rate, &gradient.detach())?;
            }
        }
        Ok(())
    }

    /// A copy of the state: `NAME.LANE`, shaped as the variable, and `NAME.step` where the formula counts.
    pub(super) fn state<R: Rule>(&self, rule: &R) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = Vec::new();
        for slot in &self.0 {
            let Some(state) = &slot.state else { continue };
            let Variable { name, var, .. } = &slot.variable;
            if R::COUNTS_STEPS {
                let steps = Tensor::new(state.steps as i64, &Device::Cpu)?;
                tensors.push((format!("{name}.step"), steps));
            }
            for (index, lane) in rule.lanes().into_iter().enumerate() {
                let Some(lane) = lane else { continue };
                let tensor = match &state.lanes {
                    StateLanes::Cpu(lanes) => {
                        Tensor::from_slice(&lanes[index], var.shape(), var.device())?
                    }
                    StateLanes::Tensors(lanes) => match &lanes[index] {
                        Some(tensor) => tensor.copy()?,
                        None => continue,
                    },
                };
                tensors.push((format!("{name}.{lane}"), tensor));
            }
        }
        Ok(tensors)
    }

    /// Takes over what [`state`](Self::state) gave; variables it does not name start afresh.
    pub(super) fn restore<R: Rule>(
        &mut self,
        rule: &R,
        tensors: &[(String, Tensor)],
    ) -> Result<()> {
        let mut used = 0;
        for slot in &mut self.0 {
            used += slot.restore(rule, tensors)?;
        }
        if used < tensors.len() {
            let known = |name: &str| {
                let (variable, lane) = name.rsplit_once('.').unwrap_or_default();
                let lanes = rule.lanes();
                self.0.iter().any(|slot| slot.variable.name == variable)
                    && (lanes.contains(&Some(lane)) || (R::COUNTS_STEPS && lane == "step"))
            };
            let stray = tensors.iter().find(|(name, _)| !known(name));
            return Err(Error::option(
                "state",
                stray.map_or("a tensor given twice", |(name, _)| name),
                format!("state of this {}'s variables", R::NAME),
            ));
        }
        Ok(())
    }
}

impl Slot {
    fn step<R: Rule>(
        &mut self,
        rule: &R,
        learning_rate: f64,
        gradient: &Tensor,
    ) -> CandleResult<()> {
        let Variable { var, rate, .. } = &self.variable;
        let state = match &mut self.state {
            Some(state) => state,
            none => none.insert(State::fresh(rule, var)?),
        };
        state.steps += 1;
        let learning_rate = learning_rate * rate;
        match &mut state.lanes {
            StateLanes::Cpu(lanes) => {
                let step = FusedStep::<R>::new(rule.factors(learning_rate, state.steps), lanes);
                var.inplace_op2(&gradient.contiguous()?, &step)
            }
            StateLanes::Tensors(lanes) => {
                let weight = var.as_detached_tensor();
                var.set(&rule.step_tensors(learning_rate, state.steps, weight, gradient, lanes)?)
            }
        }
    }

    /// Returns how many of the tensors it took.
    fn restore<R: Rule>(&mut self, rule: &R, tensors: &[(String, Tensor)]) -> Result<usize> {
        let Variable { name, var, .. } = &self.variable;
        let find = |lane: &str| {
            let wanted = |(found, _): &&(String, Tensor)| {
                found
                    .strip_prefix(name.as_str())
                    .and_then(|rest| rest.strip_prefix('.'))
                    == Some(lane)
            };
            tensors.iter().find(wanted).map(|(_, tensor)| tensor)
        };
        let mut state = State::fresh(rule, var)?;
        let mut missing = Vec::new();
        let mut used = 0;
        if R::COUNTS_STEPS {
            match find("step") {
                Some(steps) => {
                    state.steps = steps.to_scalar::<i64>()?.unsigned_abs();
                    used += 1;
                }
                None => missing.push("step"),
            }
        }
        for (index, lane) in rule.lanes().into_iter().enumerate() {
            let Some(lane) = lane else { continue };
            let Some(tensor) = find(lane) else {
                missing.push(lane);
                continue;
            };
            used += 1;
            if tensor.shape() != var.shape() || tensor.dtype() != var.dtype() {
                return Err(Error::Shape {
                    what: format!("{} state {name}.{lane} ({:?})", R::NAME, tensor.dtype()),
                    expected: format!("{:?} ({:?})", var.dims(), var.dtype()),
                    found: tensor.dims().to_vec(),
                });
            }
            match &mut state.lanes {
                StateLanes::Cpu(lanes) => lanes[index] = tensor.flatten_all()?.to_vec1()?,
                StateLanes::Tensors(lanes) => {
                    lanes[index] = Some(tensor.to_device(var.device())?.copy()?);
                }
            }
        }
        match missing.first() {
            // A formula without state has none to miss; a variable that is not named has had no gradient.
            _ if used == 0 => self.state = None,
            Some(lane) => {
                return Err(Error::option(
                    "state",
                    format!("without {name}.{lane}"),
                    format!("all of this {}'s state", R::NAME),
                ));
            }
            None => self.state = Some(state),
        }
        Ok(used)
    }
}

impl State {
    fn fresh<R: Rule>(rule: &R, var: &Var) -> CandleResult<Self> {
        let lanes = rule.lanes();
        let lanes = if var.device().is_cpu() && var.dtype() == DType::F32 {
            let length = var.elem_count();
            StateLanes::Cpu(lanes.map(|lane| vec![0.0; if lane.is_some() { length } else { 0 }]))
        } else {
            let zeros = var.as_detached_tensor().zeros_like()?;
            StateLanes::Tensors(lanes.map(|lane| lane.map(|_| zeros.clone())))
        };
        Ok(Self { steps: 0, lanes })
    }
}

/// Checks options by (name, value, whether the rule holds, the rule in words).
pub(super) fn check_options(rules: &[(&'static str, f64, bool, &str)]) -> Result<()> {
    for (option, value, holds, allowed) in rules {
        if !holds {
            return Err(Error::option(option, value, *allowed));
        }
    }
    Ok(())
}

/// Whether a value is a number from 0 on.
pub(super) fn not_negative(value: f64) -> bool {
    value.is_finite() && value >= 0.0
}

/// What every optimizer offers: written once, because a trait of our own would have to be imported for it.
macro_rules! optimizer_methods {
    ($optimizer:ty) => {
        impl $optimizer {
            /// Gives the optimizer its variables, in the order they will be updated, with fresh state.
            ///
            /// # Errors
            /// [`Error::Option`](crate::Error::Option) for an option out of range.
            pub fn with_variables(
                mut self,
                variables: Vec<candle_core::Var>,
            ) -> crate::Result<Self> {
                self.check()?;
                self.slots = crate::train::optimizer::Slots::numbered(variables);
                Ok(self)
            }

            /// A copy of the state, for a checkpoint: for each variable that had a gradient, named by its
            /// position, what the options use of it, such as `0.momentum`, shaped as the variable.
            ///
            /// # Errors
            /// candle's, on a device without memory.
            pub fn state(&self) -> crate::Result<Vec<(String, candle_core::Tensor)>> {
                self.slots.state(self)
            }

            /// Takes over what [`state`](Self::state) gave: the next step is the one that optimizer would
            /// have made. Variables the state does not name start afresh.
            ///
            /// # Errors
            /// [`Error::Option`](crate::Error::Option) for state of other variables or options,
            /// [`Error::Shape`](crate::Error::Shape) for state of another shape.
            pub fn restore(
                &mut self,
                state: &[(String, candle_core::Tensor)],
            ) -> crate::Result<()> {
                let mut slots = std::mem::take(&mut self.slots);
                let outcome = slots.restore(self, state);
                self.slots = slots;
                outcome
            }
        }

        impl candle_nn::Optimizer for $optimizer {
            type Config = Self;

            /// Gives `config`'s options to an optimizer of these variables.
            fn new(variables: Vec<candle_core::Var>, config: Self) -> candle_core::Result<Self> {
                config
                    .with_variables(variables)
                    .map_err(candle_core::Error::wrap)
            }

            /// Updates every variable that has a gradient.
            fn step(
                &mut self,
                gradients: &candle_core::backprop::GradStore,
            ) -> candle_core::Result<()> {
                let mut slots = std::mem::take(&mut self.slots);
                let outcome = slots.step(self, self.learning_rate, gradients);
                self.slots = slots;
                outcome
            }

            fn learning_rate(&self) -> f64 {
                self.learning_rate
            }

            fn set_learning_rate(&mut self, learning_rate: f64) {
                self.learning_rate = learning_rate;
            }
        }
    };
}
pub(super) use optimizer_methods;
