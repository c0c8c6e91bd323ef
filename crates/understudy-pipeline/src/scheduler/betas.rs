//! How much noise each timestep of diffusion adds. All is in single precision, as diffusers computes it.

use super::fields::{Fields, Read};

/// The shape of betas over timesteps.
#[derive(Clone, Copy)]
enum Curve {
    Linear,
    /// The square of a line.
    Scaled,
    /// Data's share falls as a squared cosine (Nichol and Dhariwal, "Improved Denoising Diffusion
    /// Probabilistic Models", 2021, eq. 17).
    Cosine,
}

/// The square of data's share at each timestep, from the first on, by `beta_start`, `beta_end`,
/// `beta_schedule` or `trained_betas`, and `rescale_betas_zero_snr` where the class has it. `beta_range` and
/// `curve` are what the class has where nothing is said.
///
/// # Errors
/// The field that is wrong, and how.
pub(super) fn alphas_cumprod(
    fields: Fields<'_>,
    beta_range: [f64; 2],
    curve: &str,
    rescaled: bool,
) -> Read<Vec<f32>> {
    const MOST_TIMESTEPS: usize = 10_000;
    let count = fields.whole("num_train_timesteps", 1000, [2, MOST_TIMESTEPS])?;
    let start = fields.number("beta_start", beta_range[0], [0.0, 1.0])?;
    let end = fields.number("beta_end", beta_range[1], [0.0, 1.0])?;
    let curves =
        [("linear", Curve::Linear), ("scaled_linear", Curve::Scaled), ("squaredcos_cap_v2", Curve::Cosine)];
    let curve = fields.word("beta_schedule", curve, &curves)?;
    let betas = match fields.list("trained_betas", [0.0, 1.0])? {
        Some(betas) if betas.len() == count => betas,
        Some(betas) => {
            return Err(format!("trained_betas: has {} numbers, not {count}", betas.len()));
        }
        None => match curve {
            Curve::Linear => line(start, end, count),
            Curve::Scaled => line(start.sqrt(), end.sqrt(), count).into_iter().map(|x| x * x).collect(),
            Curve::Cosine => cosine(count),
        },
    };
    let alphas = product(betas.iter().map(|beta| 1.0 - beta));
    if rescaled { Ok(without_signal_at_the_end(&alphas)) } else { Ok(alphas) }
}

/// Ever longer products. They are kept in double precision and rounded where they are read.
fn product(factors: impl Iterator<Item = f32>) -> Vec<f32> {
    let times = |kept: &mut f64, factor: f32| {
        *kept *= f64::from(factor);
        Some(*kept as f32)
    };
    factors.scan(1.0, times).collect()
}

/// Evenly from `start` to `end`, counted from the nearer of them and rounded once, as `torch.linspace`.
fn line(start: f64, end: f64, count: usize) -> Vec<f32> {
    let (start, end) = (start as f32, end as f32);
    let step = (end - start) / (count - 1) as f32;
    let place = |index: usize| {
        if index < count / 2 {
            step.mul_add(index as f32, start)
        } else {
            (-step).mul_add((count - index - 1) as f32, end)
        }
    };
    (0..count).map(place).collect()
}

/// Betas of the cosine, at most 0.999.
fn cosine(count: usize) -> Vec<f32> {
    let kept = |index: usize| {
        let part = index as f64 / count as f64;
        ((part + 0.008) / 1.008 * std::f64::consts::PI / 2.0).cos().powi(2)
    };
    (0..count).map(|index| (1.0 - kept(index + 1) / kept(index)).min(0.999) as f32).collect()
}

/// Data's shares shifted and scaled so that the last one is 0 and the first as before (Lin et al., "Common
/// Diffusion Noise Schedules and Sample Steps are Flawed", 2024, algorithm 1), by way of betas as diffusers
/// goes.
fn without_signal_at_the_end(alphas_cumprod: &[f32]) -> Vec<f32> {
    let mut roots: Vec<f32> = alphas_cumprod.iter().map(|kept| kept.sqrt()).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    roots.iter_mut().for_each(|root| *root = (*root - last) * scale);
    let squares: Vec<f32> = roots.iter().map(|root| root * root).collect();
    let ratios = squares.windows(2).map(|pair| pair[1] / pair[0]);
    let alphas = std::iter::once(squares[0]).chain(ratios);
    product(alphas.map(|alpha| 1.0 - (1.0 - alpha)))
}
