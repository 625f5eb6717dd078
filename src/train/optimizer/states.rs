//! Variables with their state, and the walk over them.

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};

use super::fused::FusedStep;
use super::fused::SLOTS;
use super::rule::{Step, UpdateRule};
use crate::error::{Error, Result};

/// A variable that an optimizer updates.
#[derive(Clone, Debug)]
pub(in crate::train) struct Variable {
    /// What its state is called after.
    pub(in crate::train) name: String,
    pub(in crate::train) var: Var,
    /// What the learning rate is multiplied by.
    pub(in crate::train) multiplier: f64,
}

/// Variables with their state, in the order they are updated.
#[derive(Clone, Debug, Default)]
pub(in crate::train) struct VariableStates(Vec<VariableState>);

/// A variable and its state, which its first gradient brings about.
#[derive(Clone, Debug)]
struct VariableState {
    variable: Variable,
    state: Option<State>,
}

#[derive(Clone, Debug)]
struct State {
    /// How many steps the variable took.
    steps: u64,
    slots: Slots,
}

#[derive(Clone, Debug)]
enum Slots {
    /// f32 on the CPU, for a rule with a fused step. Empty where the options need none.
    Fused([Vec<f32>; SLOTS]),
    /// Anything else: candle's operations.
    Tensors([Option<Tensor>; SLOTS]),
}

impl VariableStates {
    pub(in crate::train) fn new(variables: Vec<Variable>) -> Self {
        let fresh = |variable| VariableState {
            variable,
            state: None,
        };
        Self(variables.into_iter().map(fresh).collect())
    }

    /// Variables named by their position.
    pub(super) fn numbered(variables: Vec<Var>) -> Self {
        let variable = |(index, var): (usize, Var)| Variable {
            name: index.to_string(),
            var,
            multiplier: 1.0,
        };
        Self::new(variables.into_iter().enumerate().map(variable).collect())
    }

    /// Updates every variable that has a gradient.
    pub(in crate::train) fn step(
        &mut self,
        rule: &dyn UpdateRule,
        learning_rate: f64,
        gradients: &GradStore,
    ) -> CandleResult<()> {
        for variable in &mut self.0 {
            if let Some(gradient) = gradients.get(&variable.variable.var) {
                variable.step(rule, learning_rate, &gradient.detach())?;
            }
        }
        Ok(())
    }

    /// The variables whose rule saw its gradient as numbers alone, and so cannot have kept the tensor.
    pub(in crate::train) fn fused(&self) -> impl Iterator<Item = &Var> {
        let fused = |own: &&VariableState| {
            let slots = own.state.as_ref().map(|state| &state.slots);
            matches!(slots, Some(Slots::Fused(_)))
        };
        self.0.iter().filter(fused).map(|own| &own.variable.var)
    }

    /// A copy of the state: `NAME.SLOT`, shaped as the variable, and `NAME.step` where the formula counts.
    pub(in crate::train) fn state(&self, rule: &dyn UpdateRule) -> Result<Vec<(String, Tensor)>> {
        let mut tensors = Vec::new();
        for VariableState { variable, state } in &self.0 {
            let Some(state) = state else { continue };
            let Variable { name, var, .. } = variable;
            if rule.counts_steps() {
                let steps = Tensor::new(state.steps as i64, &Device::Cpu)?;
                tensors.push((format!("{name}.step"), steps));
            }
            for (index, slot) in rule.slots().into_iter().enumerate() {
                let Some(slot) = slot else { continue };
                let tensor = match &state.slots {
                    Slots::Fused(slots) => {
                        Tensor::from_slice(&slots[index], var.shape(), var.device())?
                    }
                    Slots::Tensors(slots) => match &slots[index] {
                        Some(tensor) => tensor.copy()?,
                        None => continue,
                    },
                };
                tensors.push((format!("{name}.{slot}"), tensor));
            }
        }
        Ok(tensors)
    }

    /// Takes over what [`state`](Self::state) gave; variables it does not name start afresh.
    pub(in crate::train) fn restore(
        &mut self,
        rule: &dyn UpdateRule,
        tensors: &[(String, Tensor)],
    ) -> Result<()> {
        let mut used = 0;
        for variable in &mut self.0 {
            used += variable.restore(rule, tensors)?;
        }
        if used == tensors.len() {
            return Ok(());
        }
        let known = |name: &str| {
            let (variable, slot) = name.rsplit_once('.').unwrap_or_default();
            self.0.iter().any(|own| own.variable.name == variable)
                && (rule.slots().contains(&Some(slot)) || (rule.counts_steps() && slot == "step"))
        };
        let stray = tensors.iter().find(|(name, _)| !known(name));
        Err(Error::mismatch(
            "optimizer state",
            stray.map_or("the same tensor twice", |(name, _)| name),
            format!("state of this {}'s variables", rule.name()),
        ))
    }
}

impl VariableState {
    fn step(
        &mut self,
        rule: &dyn UpdateRule,
        learning_rate: f64,
        gradient: &Tensor,
    ) -> CandleResult<()> {
        let Variable {
            var, multiplier, ..
        } = &self.variable;
        let state = match &mut self.state {
            Some(state) => state,
            none => none.insert(State::fresh(rule, var)?),
        };
        state.steps += 1;
        let step = Step::new(learning_rate * multiplier, state.steps);
        match &mut state.slots {
            Slots::Fused(slots) => {
                let Some(fused) = rule.fused(step) else {
                    candle_core::bail!("{}: its fused step comes and goes", rule.name());
                };
                let fused = FusedStep::new(rule.name(), fused, slots);
                var.inplace_op2(&gradient.contiguous()?, &fused)
            }
            Slots::Tensors(slots) => {
                let weight = var.as_detached_tensor();
                var.set(&rule.update(step, &weight, gradient, slots)?)
            }
        }
    }

    /// Returns how many of the tensors it took.
    fn restore(&mut self, rule: &dyn UpdateRule, tensors: &[(String, Tensor)]) -> Result<usize> {
        let Variable { name, var, .. } = &self.variable;
        let find = |slot: &str| {
            let wanted = |(found, _): &&(String, Tensor)| {
                let rest = found.strip_prefix(name.as_str());
                rest.and_then(|rest| rest.strip_prefix('.')) == Some(slot)
            };
            tensors.iter().find(wanted).map(|(_, tensor)| tensor)
        };
        let mut state = State::fresh(rule, var)?;
        let mut missing = Vec::new();
        let mut used = 0;
        if rule.counts_steps() {
            match find("step") {
                Some(steps) => {
                    state.steps = steps.to_scalar::<i64>()?.unsigned_abs();
                    used += 1;
                }
                None => missing.push("step"),
            }
        }
        for (index, slot) in rule.slots().into_iter().enumerate() {
            let Some(slot) = slot else { continue };
            let Some(tensor) = find(slot) else {
                missing.push(slot);
                continue;
            };
            used += 1;
            if tensor.shape() != var.shape() || tensor.dtype() != var.dtype() {
                return Err(Error::Shape {
                    what: format!("{} state {name}.{slot} ({:?})", rule.name(), tensor.dtype()),
                    expected: format!("{:?} ({:?})", var.dims(), var.dtype()),
                    found: tensor.dims().to_vec(),
                });
            }
            state.slots.set(index, tensor, var)?;
        }
        match missing.first() {
            // A formula without state has none to miss; a variable that is not named has had no gradient.
            _ if used == 0 => self.state = None,
            None => self.state = Some(state),
            Some(slot) => {
                return Err(Error::mismatch(
                    "optimizer state",
                    format!("a state without {name}.{slot}"),
                    format!("all of this {}'s state", rule.name()),
                ));
            }
        }
        Ok(used)
    }
}

impl State {
    fn fresh(rule: &dyn UpdateRule, var: &Var) -> CandleResult<Self> {
        let slots = rule.slots();
        let fits_fused = var.device().is_cpu() && var.dtype() == DType::F32;
        let slots = if fits_fused && rule.fused(Step::new(0.0, 1)).is_some() {
            let length = var.elem_count();
            Slots::Fused(slots.map(|slot| vec![0.0; if slot.is_some() { length } else { 0 }]))
        } else {
            let zeros = var.as_detached_tensor().zeros_like()?;
            Slots::Tensors(slots.map(|slot| slot.map(|_| zeros.clone())))
        };
        Ok(Self { steps: 0, slots })
    }
}

impl Slots {
    /// Gives the slot at this place the numbers of a tensor shaped as its variable.
    fn set(&mut self, index: usize, tensor: &Tensor, var: &Var) -> Result<()> {
        match self {
            Self::Fused(slots) => slots[index] = tensor.flatten_all()?.to_vec1()?,
            Self::Tensors(slots) => slots[index] = Some(tensor.to_device(var.device())?.copy()?),
        }
        Ok(())
    }
}
