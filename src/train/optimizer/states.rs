//! Variables with their state, and the walk over them.

use std::collections::HashSet;

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Result as CandleResult, Tensor, Var};

use super::fused::{self, FusedStep, SLOTS};
use super::rule::{Step, UpdateRule};
use crate::error::{Error, Result};
use crate::{finite, transfer};

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

    /// Updates every variable that has a gradient, or none: then it returns the first whose new weights, or whose
    /// state, have a number that is NaN or infinite, and that number.
    pub(super) fn step(
        &mut self,
        rule: &dyn UpdateRule,
        learning_rate: f64,
        gradients: &GradStore,
    ) -> CandleResult<Option<(String, f32)>> {
        let planned = self.plan(rule, learning_rate, gradients, false)?;
        self.carry_out(planned)
    }

    /// [Commits](Self::commit) to what was planned, by what it reads of the doubts.
    pub(in crate::train) fn carry_out(
        &mut self,
        planned: Planned,
    ) -> CandleResult<Option<(String, f32)>> {
        let doubts = transfer::read(&planned.doubts())?;
        self.commit(planned, &doubts)
    }

    /// Works out what every variable that has a gradient becomes, for [`commit`](Self::commit), and uses the gradients
    /// up: those come back whose tensors nobody needs any more once that is done.
    pub(in crate::train) fn plan_spending(
        &mut self,
        rule: &dyn UpdateRule,
        learning_rate: f64,
        mut gradients: GradStore,
    ) -> CandleResult<(Planned, Vec<Tensor>)> {
        let planned = self.plan(rule, learning_rate, &gradients, true)?;
        // A rule in candle's operations may have kept its gradient as state.
        let spent = self.fused().filter_map(|var| gradients.remove(var));
        Ok((planned, spent.collect()))
    }

    /// Works out what every variable that has a gradient becomes.
    ///
    /// Gradients that are `spent` may be written over, where they share their memory with nothing else.
    fn plan(
        &mut self,
        rule: &dyn UpdateRule,
        learning_rate: f64,
        gradients: &GradStore,
        spent: bool,
    ) -> CandleResult<Planned> {
        let shared = self.shared(gradients);
        let spent = |gradient: &Tensor| {
            let place = fused::place(gradient).filter(|_| spent);
            place.is_some_and(|place| !shared.contains(&place))
        };
        let mut moved = Vec::with_capacity(self.0.len());
        for variable in &mut self.0 {
            let gradient = gradients.get(&variable.variable.var);
            moved.push(match gradient {
                None => Moved::Not,
                Some(gradient) => {
                    let spent = spent(gradient);
                    variable.step(rule, learning_rate, &gradient.detach(), spent)?
                }
            });
            if let Some(Moved::Wrong(_)) = moved.last() {
                break;
            }
        }
        Ok(Planned(moved))
    }

    /// Makes the variables what was planned, by what was read of the plan's [doubts](Planned::doubts); or, where the
    /// weights or the state of one would be NaN or infinite, none of them, and returns the first with the number.
    pub(in crate::train) fn commit(
        &mut self,
        planned: Planned,
        doubts: &[Vec<f32>],
    ) -> CandleResult<Option<(String, f32)>> {
        let mut doubts = doubts.iter().flatten();
        for (own, moved) in self.0.iter().zip(&planned.0) {
            let wrong = match moved {
                Moved::Wrong(value) => Some(value),
                Moved::Tensor { .. } => {
                    Some(doubts.next().unwrap_or(&f32::NAN)).filter(|doubt| **doubt != 0.0)
                }
                Moved::Not | Moved::Exchange(_) => None,
            };
            if let Some(value) = wrong {
                return Ok(Some((own.variable.name.clone(), *value)));
            }
        }
        for (variable, moved) in self.0.iter_mut().zip(planned.0) {
            variable.commit(moved)?;
        }
        Ok(None)
    }

    /// The places of numbers that more than one gradient or variable has, and the variables'.
    fn shared(&self, gradients: &GradStore) -> HashSet<*const f32> {
        let mut shared = HashSet::new();
        let mut seen = HashSet::new();
        for VariableState { variable, .. } in &self.0 {
            shared.extend(fused::place(&variable.var));
            let place = gradients.get(&variable.var).and_then(fused::place);
            shared.extend(place.filter(|place| !seen.insert(*place)));
        }
        shared
    }

    /// The variables whose rule saw its gradient as numbers alone, and so cannot have kept the tensor.
    fn fused(&self) -> impl Iterator<Item = &Var> {
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

/// What a step made of the variables, in their order, which are still as they were.
pub(in crate::train) struct Planned(Vec<Moved>);

impl Planned {
    /// Of each variable that candle's operations moved, a number on its device: 0, or NaN where a number that it would
    /// have is NaN or infinite.
    pub(in crate::train) fn doubts(&self) -> Vec<&Tensor> {
        let moved = self.0.iter();
        let doubts = moved.filter_map(|moved| match moved {
            Moved::Tensor { doubt, .. } => Some(doubt),
            _ => None,
        });
        doubts.collect()
    }
}

/// What a step made of a variable.
enum Moved {
    /// It had no gradient.
    Not,
    /// Its numbers are in a tensor that nobody else needs.
    Exchange(Tensor),
    /// Its numbers, and a doubt of them and of its state.
    Tensor { next: Tensor, doubt: Tensor },
    /// This number is NaN or infinite.
    Wrong(f32),
}

impl VariableState {
    fn step(
        &mut self,
        rule: &dyn UpdateRule,
        learning_rate: f64,
        gradient: &Tensor,
        spent: bool,
    ) -> CandleResult<Moved> {
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
                let name = rule.name();
                let Some(fused) = rule.fused(step) else {
                    candle_core::bail!("{name}: its fused step comes and goes");
                };
                let gradient = match spent {
                    true => gradient.clone(),
                    false => gradient.force_contiguous()?,
                };
                if FusedStep::new(name, &fused, slots).run(var, &gradient)? {
                    return Ok(Moved::Exchange(gradient));
                }
                let next: Vec<f32> = gradient.flatten_all()?.to_vec1()?;
                let mut numbers = [&next].into_iter().chain(&*slots);
                let wrong = numbers.find_map(|numbers| finite::first_not(numbers));
                Ok(Moved::Wrong(wrong.unwrap_or(f32::NAN)))
            }
            Slots::Tensors(slots) => {
                let weight = var.as_detached_tensor();
                let next = rule.update(step, &weight, gradient, slots)?;
                let mut doubt = finite::doubt(&next)?;
                for slot in slots.iter().flatten() {
                    doubt = (doubt + finite::doubt(slot)?)?;
                }
                Ok(Moved::Tensor { next, doubt })
            }
        }
    }

    /// Makes the variable what a step made of it.
    fn commit(&mut self, moved: Moved) -> CandleResult<()> {
        let var = &self.variable.var;
        match moved {
            Moved::Exchange(next) if fused::place(var).is_some() => fused::exchange(var, &next),
            Moved::Exchange(next) | Moved::Tensor { next, .. } => var.set(&next),
            Moved::Not | Moved::Wrong(_) => Ok(()),
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
                    let number = steps.to_scalar::<i64>()?;
                    let in_range = (0..i64::from(u32::MAX)).contains(&number);
                    if !in_range {
                        let found = format!("{name}.step of {number}");
                        let expected = "a number of steps that a run can make";
                        return Err(Error::mismatch("optimizer state", found, expected));
                    }
                    state.steps = number.unsigned_abs();
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
            let zeros = |slot: Option<_>| vec![0.0; if slot.is_some() { length } else { 0 }];
            Slots::Fused(slots.map(zeros))
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
