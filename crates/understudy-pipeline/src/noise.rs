//! What noise is to a family: how it is mixed with data, and what a prediction says of it.

use burn::tensor::{Tensor, TensorData};

/// How data becomes noise, and what a denoiser predicts.
#[derive(Clone, Debug, PartialEq)]
pub enum Noise {
    /// Flow matching: data and noise on a straight line, and the velocity `noise - data` along it (Esser et
    /// al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024).
    Flow,
    /// Diffusion in steps (Ho et al., "Denoising Diffusion Probabilistic Models", 2020).
    Diffusion {
        /// The square of data's share at each timestep, from the first on: a product of ever more `1 - beta`.
        alphas_cumprod: Vec<f64>,
        /// What is predicted.
        predicts: Predicts,
    },
}

/// What a denoiser of diffusion predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Predicts {
    /// The noise, "epsilon".
    Noise,
    /// The data, "sample".
    Data,
    /// `alpha * noise - sigma * data`, "v" (Salimans and Ho, "Progressive Distillation", 2022).
    Velocity,
}

impl Predicts {
    /// What was predicted at a noisy `x` if `data` was foreseen.
    pub fn of<const D: usize>(self, x: &Tensor<D>, data: Tensor<D>, level: Level) -> Tensor<D> {
        let Level { alpha, sigma, .. } = level;
        match self {
            Self::Noise => (x.clone() - data * alpha) / sigma,
            Self::Data => data,
            Self::Velocity => (x.clone() * alpha - data) / sigma,
        }
    }

    /// The data that `prediction` at a noisy `x` foresees.
    pub fn data<const D: usize>(self, x: &Tensor<D>, prediction: Tensor<D>, level: Level) -> Tensor<D> {
        let Level { alpha, sigma, .. } = level;
        match self {
            Self::Noise => (x.clone() - prediction * sigma) / alpha,
            Self::Data => prediction,
            Self::Velocity => x.clone() * alpha - prediction * sigma,
        }
    }
}

/// How noisy something is: it is `alpha * data + sigma * noise`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Data's share.
    pub alpha: f32,
    /// Noise's share.
    pub sigma: f32,
    /// What the denoiser is told of it, in `[0, 1000]`.
    pub timestep: f32,
}

impl Level {
    /// On the straight line of [`Noise::Flow`], at `sigma` in `[0, 1]`.
    pub fn flow(sigma: f32) -> Self {
        Self { alpha: 1.0 - sigma, sigma, timestep: sigma * 1000.0 }
    }
}

impl Noise {
    /// The level at which a share `sigma` in `[0, 1]` of all timesteps is less noisy.
    pub fn level(&self, sigma: f32) -> Level {
        match self {
            Self::Flow => Level::flow(sigma),
            Self::Diffusion { alphas_cumprod, .. } => {
                let last = alphas_cumprod.len().saturating_sub(1);
                let step = (f64::from(sigma) * last as f64).round() as usize;
                let kept = alphas_cumprod.get(step).copied().unwrap_or(1.0);
                Level { alpha: kept.sqrt() as f32, sigma: (1.0 - kept).sqrt() as f32, timestep: step as f32 }
            }
        }
    }

    /// The data that `prediction` at a noisy `x` foresees.
    pub fn data(&self, x: &Tensor<5>, prediction: Tensor<5>, level: Level) -> Tensor<5> {
        match self {
            Self::Flow => x.clone() - prediction * level.sigma,
            Self::Diffusion { predicts, .. } => predicts.data(x, prediction, level),
        }
    }

    /// What is to be predicted of samples that were mixed of `data` and `noise` at these levels.
    pub fn target(&self, data: &Tensor<5>, noise: &Tensor<5>, levels: &[Level]) -> Tensor<5> {
        match self {
            Self::Flow => noise.clone() - data.clone(),
            Self::Diffusion { predicts: Predicts::Noise, .. } => noise.clone(),
            Self::Diffusion { predicts: Predicts::Data, .. } => data.clone(),
            Self::Diffusion { predicts: Predicts::Velocity, .. } => {
                noise.clone() * shares(levels, data, |level| level.alpha)
                    - data.clone() * shares(levels, data, |level| level.sigma)
            }
        }
    }
}

/// `alpha * data + sigma * noise`, each sample at its own level.
pub fn mixed(data: &Tensor<5>, noise: &Tensor<5>, levels: &[Level]) -> Tensor<5> {
    data.clone() * shares(levels, data, |level| level.alpha)
        + noise.clone() * shares(levels, data, |level| level.sigma)
}

/// A number for each sample, `(samples, 1, 1, 1, 1)`.
fn shares(levels: &[Level], like: &Tensor<5>, of: impl Fn(&Level) -> f32) -> Tensor<5> {
    let device = like.device().without_autodiff();
    let values: Vec<f32> = levels.iter().map(of).collect();
    Tensor::from_data(TensorData::new(values, [levels.len(), 1, 1, 1, 1]), &device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use understudy_engine::host::values;
    use understudy_engine::random::Random;

    use super::*;

    #[test]
    fn a_true_prediction_foresees_the_data() {
        let kept: Vec<f64> = (1..=1000).map(|step| (1.0 - f64::from(step) / 1001.0).powi(2)).collect();
        let diffusion = |predicts| Noise::Diffusion { alphas_cumprod: kept.clone(), predicts };
        let mut random = Random::new(1, 0);
        let mut next = || random.normal_tensor::<5>([2, 3, 1, 2, 2], &Device::flex());
        let (data, noise) = (next(), next());
        let kinds = [Predicts::Noise, Predicts::Data, Predicts::Velocity].map(diffusion);
        for kind in [Noise::Flow].into_iter().chain(kinds) {
            for sigma in [0.1, 0.7] {
                let level = kind.level(sigma);
                let levels = [level; 2];
                let x = mixed(&data, &noise, &levels);
                let found = kind.data(&x, kind.target(&data, &noise, &levels), level);
                let far = values((found - data.clone()).abs().max())[0];
                assert!(far < 1e-5, "{kind:?}: {far}");
                let Noise::Diffusion { predicts, .. } = &kind else { continue };
                let expected = kind.target(&data, &noise, &levels);
                let far = values((predicts.of(&x, data.clone(), level) - expected).abs().max())[0];
                assert!(far < 1e-5, "{predicts:?}: {far}");
            }
        }
    }
}
