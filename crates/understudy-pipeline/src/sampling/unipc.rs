//! UniPC.

use burn::tensor::Tensor;

use super::dpm::{advance, extrapolate};
use super::schedule::{Schedule, Transition};

/// UniPC of order 2 with `B(h) = e^-h - 1` (Zhao et al., "UniPC: A Unified Predictor-Corrector Framework for
/// Fast Sampling of Diffusion Models", 2023, algorithms 5 and 6, "bh2", on data predictions; diffusers'
/// `scheduling_unipc_multistep.py`). Every prediction first corrects the step that led to it, then predicts
/// the next. The first and the last step are first order.
///
/// # Errors
/// Whatever `denoised` gives.
pub fn unipc<const D: usize, E>(
    mut x: Tensor<D>,
    schedule: &Schedule,
    mut denoised: impl FnMut(usize, &Tensor<D>) -> Result<Tensor<D>, E>,
) -> Result<Tensor<D>, E> {
    // The last step's start, the data foreseen there, and the data foreseen before, if it was used.
    let mut last: Option<(Tensor<D>, Tensor<D>, Option<Tensor<D>>)> = None;
    for step in 0..schedule.steps() {
        let data = denoised(step, &x)?;
        let mut past = None;
        if let Some((start, data_there, data_before)) = last {
            let target = correct(data_before, &data_there, &data, schedule, step);
            let Transition { from, to, .. } = schedule.transition(step - 1);
            x = advance(start, target, from, to);
            past = Some(data_there).filter(|_| step + 1 < schedule.steps());
        }
        let target = match past.clone() {
            Some(past) => extrapolate(past, &data, schedule, step),
            None => data.clone(),
        };
        last = Some((x.clone(), data, past));
        let Transition { from, to, .. } = schedule.transition(step);
        x = advance(x, target, from, to);
    }
    Ok(x)
}

/// The data to hold while taking the step that led to `step` again, now that its end foresees `end`. `start`
/// was foreseen at its beginning and `before`, if the step was second order, one step earlier.
fn correct<const D: usize>(
    before: Option<Tensor<D>>,
    start: &Tensor<D>,
    end: &Tensor<D>,
    schedule: &Schedule,
    step: usize,
) -> Tensor<D> {
    let towards_end = end.clone() - start.clone();
    let Some(before) = before else {
        return start.clone() + towards_end * 0.5;
    };
    let lambda = |step: usize| schedule.transition(step).from.lambda();
    let from = lambda(step - 1);
    let h = lambda(step) - from;
    let ratio = (lambda(step - 2) - from) / h;
    // Solves [[1, 1], [ratio, 1]] rho = [phi_1, 2 phi_2] / B(h).
    let b = (-h).exp_m1();
    let phi_1 = b / -h - 1.0;
    let phi_2 = phi_1 / -h - 0.5;
    let rho_before = (phi_1 - 2.0 * phi_2) / b / (1.0 - ratio);
    let rho_end = phi_1 / b - rho_before;
    start.clone() + (before - start.clone()) * (rho_before / ratio) as f32 + towards_end * rho_end as f32
}
