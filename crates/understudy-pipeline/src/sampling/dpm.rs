//! DPM-Solver++.

use burn::tensor::Tensor;

use super::schedule::{Schedule, Shares, Transition};

/// Which of the multistep solvers, and how it ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DpmPlusPlus {
    /// From 1 to 3: how many predictions a step is drawn from.
    pub order: usize,
    /// How those of order 2 are weighed.
    pub rule: Rule,
    /// Whether every step takes noise away and puts fresh noise in its place ("SDE").
    pub stochastic: bool,
    /// Whether the last two of fewer than 15 steps are of a lower order.
    pub lower_order_final: bool,
    /// Whether the last step is first order. One that ends without noise always is.
    pub euler_at_final: bool,
}

/// The two solvers of order 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Data is held as foreseen half a step ahead.
    Midpoint,
    /// Data is on a line over the step.
    Heun,
}

impl DpmPlusPlus {
    /// DPM-Solver++ (2M) as it is usually meant.
    pub const SECOND_ORDER: Self = Self {
        order: 2,
        rule: Rule::Midpoint,
        stochastic: false,
        lower_order_final: true,
        euler_at_final: false,
    };

    /// The order of a step of a schedule.
    fn order_of(self, step: usize, schedule: &Schedule) -> usize {
        let (steps, Transition { from, to, .. }) = (schedule.steps(), schedule.transition(step));
        let few = self.lower_order_final && steps < 15;
        let end = match steps - step {
            1 if self.euler_at_final || few || to.sigma == 0.0 || to == from => 1,
            2 if few => 2,
            _ => 3,
        };
        self.order.min(step + 1).min(end)
    }
}

/// DPM-Solver++ with several steps' predictions (Lu et al., "DPM-Solver++: Fast Solver for Guided Sampling of
/// Diffusion Probabilistic Models", 2022, algorithm 2 and appendix B; diffusers'
/// `scheduling_dpmsolver_multistep.py`). The first step is first order. `noise` is asked for unit noise like
/// `x` by the stochastic one alone, for every step but one that ends without noise.
///
/// # Errors
/// Whatever `denoised` gives.
pub fn dpm_plus_plus<const D: usize, E>(
    mut x: Tensor<D>,
    schedule: &Schedule,
    solver: DpmPlusPlus,
    mut denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
    noise: &mut dyn FnMut(usize) -> Tensor<D>,
) -> Result<Tensor<D>, E> {
    // What the last steps foresaw, the latest first.
    let mut past: Vec<Tensor<D>> = Vec::new();
    for step in 0..schedule.steps() {
        past.insert(0, denoised(step, &x)?);
        past.truncate(solver.order.max(1));
        let Transition { from, to, .. } = schedule.transition(step);
        let target = match solver.order_of(step, schedule) {
            1 => past[0].clone(),
            2 => second_order(&past, schedule, solver, step),
            _ => third_order(&past, schedule, solver, step),
        };
        x = if solver.stochastic && to.sigma > 0.0 {
            advance_stochastic(x, target, (from, to), noise(step))
        } else {
            advance(x, target, from, to)
        };
    }
    Ok(x)
}

/// The exact step between two levels with the data held at `target`: `x` comes to `(sigma_t / sigma_s) x +
/// alpha_t (1 - e^-h) target`, where `h` is the gain in `lambda = ln(alpha / sigma)`; without noise it is
/// `target` itself.
pub(super) fn advance<const D: usize>(
    x: Tensor<D>,
    target: Tensor<D>,
    from: Shares,
    to: Shares,
) -> Tensor<D> {
    if to.sigma == 0.0 {
        return target;
    }
    let h = to.lambda() - from.lambda();
    let carried = to.sigma / from.sigma;
    let gained = -to.alpha * (-h).exp_m1();
    x * carried as f32 + target * gained as f32
}

/// The same of the stochastic equation, which also forgets some of the noise and takes fresh.
fn advance_stochastic<const D: usize>(
    x: Tensor<D>,
    target: Tensor<D>,
    (from, to): (Shares, Shares),
    noise: Tensor<D>,
) -> Tensor<D> {
    let h = to.lambda() - from.lambda();
    let renewed = -(-2.0 * h).exp_m1();
    let carried = to.sigma / from.sigma * (-h).exp();
    let fresh = to.sigma * renewed.sqrt();
    x * carried as f32 + target * (to.alpha * renewed) as f32 + noise * fresh as f32
}

/// The data half a step ahead of `step`, on a line in lambda through the last prediction and this one.
pub(super) fn extrapolate<const D: usize>(
    past: Tensor<D>,
    data: &Tensor<D>,
    schedule: &Schedule,
    step: usize,
) -> Tensor<D> {
    let [_, before] = gains(schedule, step);
    data.clone() + (data.clone() - past) * (0.5 / before) as f32
}

/// What lambda gains in `step`, and, in parts of that, what it gained in the step before.
fn gains(schedule: &Schedule, step: usize) -> [f64; 2] {
    let Transition { from, to, .. } = schedule.transition(step);
    let here = from.lambda();
    let gain = to.lambda() - here;
    [gain, (here - schedule.transition(step - 1).from.lambda()) / gain]
}

/// The data to hold in a step of order 2.
fn second_order<const D: usize>(
    past: &[Tensor<D>],
    schedule: &Schedule,
    solver: DpmPlusPlus,
    step: usize,
) -> Tensor<D> {
    if solver.rule == Rule::Midpoint {
        return extrapolate(past[1].clone(), &past[0], schedule, step);
    }
    let [gain, before] = gains(schedule, step);
    let [slope, _] = weights(gain, solver.stochastic);
    past[0].clone() + (past[0].clone() - past[1].clone()) * (slope / before) as f32
}

/// The data to hold in a step of order 3.
fn third_order<const D: usize>(
    past: &[Tensor<D>],
    schedule: &Schedule,
    solver: DpmPlusPlus,
    step: usize,
) -> Tensor<D> {
    let [gain, before] = gains(schedule, step);
    let [gain_before, ratio] = gains(schedule, step - 1);
    let earlier = ratio * gain_before / gain;
    let [slope, curve] = weights(gain, solver.stochastic);
    let first = (past[0].clone() - past[1].clone()) / before as f32;
    let change = first.clone() - (past[1].clone() - past[2].clone()) / earlier as f32;
    let bent = (slope * before + curve) / (before + earlier);
    past[0].clone() + first * slope as f32 + change * bent as f32
}

/// How much the slope and the curvature of data over a step count in what is held, relative to its beginning.
fn weights(gain: f64, stochastic: bool) -> [f64; 2] {
    let h = if stochastic { 2.0 * gain } else { gain };
    let lost = (-h).exp_m1();
    let slope = (lost / h + 1.0) / -lost;
    // diffusers takes the half away from the stochastic one too, where its derivation would add it.
    let half = if stochastic { -0.5 } else { 0.5 };
    [slope, (half - (lost + h) / (h * h)) / -lost]
}
