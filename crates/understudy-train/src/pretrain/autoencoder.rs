//! Training the video autoencoder: reconstruction, with the characters weighed more than the scenery, what
//! judges see of it, and a light pull of the latents toward a normal distribution.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use understudy_engine::host;
use understudy_engine::parameters::{Initializer, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_engine::weights::Weights;
use understudy_models::wan_vae::{WanVae, WanVaeConfig};
use understudy_puppet::Split;

use crate::error::TrainError;
use crate::pretrain::clips::{ClipBatch, Clips};
use crate::pretrain::export::{self, append_score};
use crate::pretrain::grid::frames_grid;
use crate::pretrain::perception::{Perception, PerceptionRecipe};
use crate::pretrain::recipe::key;
use crate::pretrain::window::Window;
use crate::trainer::{Objective, StepResult, TrainConfig};

/// A stretch of the training with its own length of clips.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// The first step of the stretch.
    pub from: u64,
    /// Frames of a clip.
    pub frames: usize,
    /// Clips a batch.
    pub batch: usize,
    /// Rows and columns of the part of every clip that is learned from, mostly around a character; all of it
    /// if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<[usize; 2]>,
}

/// How the autoencoder is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderRecipe {
    /// Seed of everything random.
    pub seed: u64,
    /// Frames, height and width of the clips that are rendered.
    pub size: [usize; 3],
    /// Short clips first, whole ones at the end.
    pub phases: Vec<Phase>,
    /// Weight of the divergence from a normal distribution, per latent value.
    pub kl_weight: f32,
    /// How much more a character's pixels count.
    pub mask_weight: f32,
    /// What a difference of pixels costs.
    #[serde(default)]
    pub difference: Difference,
    /// What networks see of the frames, if they are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perception: Option<PerceptionRecipe>,
    /// An autoencoder to start from in place of random weights: what an earlier run of the same network
    /// exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The network.
    pub model: WanVaeConfig,
    /// The loop.
    pub training: TrainConfig,
}

/// Weights of what a difference of pixels costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Difference {
    /// Of its size.
    pub absolute: f32,
    /// Of its square, which large ones dominate.
    pub squared: f32,
    /// Of the size of its own differences between neighbours in time, rows and columns, which edges that are
    /// blurred or in the wrong place dominate.
    pub edges: f32,
}

impl Default for Difference {
    fn default() -> Self {
        Self { absolute: 1.0, squared: 0.0, edges: 0.0 }
    }
}

impl Difference {
    /// The mean cost of `difference (clips, 3, frames, rows, columns)`, whose pixels count by `weight (clips,
    /// 1, frames, rows, columns)`.
    fn cost(self, difference: Tensor<5>, weight: Tensor<5>) -> Tensor<1> {
        let mut cost = difference.clone().abs() * self.absolute;
        if self.squared > 0.0 {
            cost = cost + difference.clone().powi_scalar(2) * self.squared;
        }
        let mut total = (cost * weight.clone()).mean();
        if self.edges > 0.0 {
            for axis in 2..5 {
                let extent = difference.dims()[axis];
                if extent < 2 {
                    continue;
                }
                let part = |tensor: &Tensor<5>, from| tensor.clone().narrow(axis, from, extent - 1);
                let step = part(&difference, 1) - part(&difference, 0);
                total = total + (step.abs() * part(&weight, 1)).mean() * (self.edges / 3.0);
            }
        }
        total
    }
}

/// Where the posterior's log-variance starts.
const START_LOG_VARIANCE: f32 = -6.0;

/// Held-out clips that are measured with every sample.
const HELD_OUT: u64 = 32;

/// The autoencoder's objective.
pub struct Autoencoder {
    recipe: AutoencoderRecipe,
    clips: Clips,
    perception: Option<Perception>,
}

impl Autoencoder {
    /// Prepares `recipe`.
    ///
    /// # Errors
    /// When the world cannot render its size, or a network cannot be built or read.
    pub fn new(recipe: AutoencoderRecipe, device: &Device) -> Result<Self, TrainError> {
        if let Some(reason) = recipe.model.unsupported() {
            return Err(TrainError::Other(format!("model: {reason}")));
        }
        let clips = Clips::new(recipe.size)?;
        let perception = recipe.perception.as_ref().map(|own| Perception::open(own, device)).transpose()?;
        Ok(Self { recipe, clips, perception })
    }

    fn phase(&self, step: u64) -> Phase {
        let whole = Phase { from: 0, frames: self.recipe.size[0], batch: 1, window: None };
        self.recipe.phases.iter().rev().find(|phase| phase.from <= step).copied().unwrap_or(whole)
    }

    /// The mean PSNR of some held-out clips after encoding and decoding.
    fn held_out_psnr(&self, network: &WanVae, device: &Device) -> f64 {
        let ratio = |index: u64| {
            let scenario = self.clips.scenario(Split::HeldOut, index);
            let video = self.clips.batch(&[scenario], 0, self.recipe.size[0]).video(device);
            let decoded = network.decode(network.encode(video.clone()).mean).clamp(-1.0, 1.0);
            let error: f32 = (decoded - video).powi_scalar(2).mean().into_scalar();
            10.0 * f64::from(4.0 / error).log10()
        };
        (0..HELD_OUT).map(ratio).sum::<f64>() / HELD_OUT as f64
    }

    fn build(&self, weights: &Weights) -> Result<WanVae, TrainError> {
        let network = WanVae::new(weights, &self.recipe.model);
        weights.finish()?;
        Ok(network)
    }
}

/// Clips, and the part of each that is learned from.
pub struct Cut {
    clips: ClipBatch,
    windows: Vec<Window>,
}

impl Cut {
    /// The parts of `video`, a clip each, one after the other.
    fn of(&self, video: &Tensor<5>) -> Tensor<5> {
        let part = |(clip, window): (usize, &Window)| window.of(video.clone().narrow(0, clip, 1));
        Tensor::cat(self.windows.iter().enumerate().map(part).collect(), 0)
    }

    /// `video` with `parts` in their places.
    fn pasted(&self, parts: Tensor<5>, video: Tensor<5>) -> Tensor<5> {
        let clip = |(clip, window): (usize, &Window)| {
            window.pasted(parts.clone().narrow(0, clip, 1), video.clone().narrow(0, clip, 1))
        };
        Tensor::cat(self.windows.iter().enumerate().map(clip).collect(), 0)
    }
}

impl Objective for Autoencoder {
    type Batch = Cut;

    fn name(&self) -> String {
        format!("autoencoder {}", key(&self.recipe))
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        if let Some(folder) = &self.recipe.start {
            let (_, parameters) = export::read_network::<WanVaeConfig>(folder, export::DIFFUSERS, device)?;
            self.build(&Weights::new(&parameters, device))?;
            return Ok(parameters);
        }
        let source = Initializer::new(self.recipe.seed, device);
        WanVae::new(&Weights::new(&source, device), &self.recipe.model);
        let mut parameters = source.into_parameters();
        // A posterior as wide as the latents themselves would hide every picture from the decoder at first.
        let z = self.recipe.model.z_dim;
        let bias = (0..2 * z).map(|channel| if channel < z { 0.0 } else { START_LOG_VARIANCE }).collect();
        parameters.insert("quant_conv.bias", &[2 * z], bias, device);
        Ok(parameters)
    }

    fn batch(&self, step: u64) -> Result<Cut, TrainError> {
        let phase = self.phase(step);
        let mut random = Random::stream(self.recipe.seed, "autoencoder batch", step);
        let scenarios: Vec<_> = (0..phase.batch).map(|_| Clips::training(random.next_u64() >> 24)).collect();
        let start = random.below((self.recipe.size[0] - phase.frames + 1) as u64) as usize;
        let clips = self.clips.batch(&scenarios, start, phase.frames);
        let [_, height, width] = self.recipe.size;
        let side = phase.window.unwrap_or([height, width]);
        let windows = (0..phase.batch).map(|clip| Window::drawn(&clips, clip, side, &mut random)).collect();
        Ok(Cut { clips, windows })
    }

    fn step(&self, parameters: &Parameters, batch: Cut, step: u64) -> Result<StepResult, TrainError> {
        let leaves = parameters.leaves();
        let device = device_of(parameters);
        let network = self.build(&Weights::new(&leaves, &device))?;
        let whole = batch.clips.video(&device);
        let [video, mask] = [batch.of(&whole), batch.of(&batch.clips.mask(&device))];

        let posterior = network.encode(video.clone().autodiff());
        let noise = Random::stream(self.recipe.seed, "posterior", step)
            .normal_tensor(posterior.mean.dims(), &device)
            .autodiff();
        let latents = posterior.mean.clone() + (posterior.log_variance.clone() * 0.5).exp() * noise;
        let decoded = network.decode(latents);

        let difference = decoded.clone() - video.clone().autodiff();
        let weight = mask * self.recipe.mask_weight + 1.0;
        let weight = weight.clone() / weight.mean().reshape([1, 1, 1, 1, 1]);
        let reconstruction = self.recipe.difference.cost(difference.clone(), weight.autodiff());
        let divergence = (posterior.mean.powi_scalar(2) + posterior.log_variance.clone().exp()
            - posterior.log_variance
            - 1.0)
            .mean()
            * 0.5;
        let mut loss = reconstruction + divergence.clone() * self.recipe.kl_weight;
        let mut metrics = Vec::new();
        let number = |tensor: Tensor<1>| tensor.without_autodiff().into_scalar::<f32>();
        if let Some(perception) = &self.perception {
            let mut random = Random::stream(self.recipe.seed, "perceived frames", step);
            let made = batch.pasted(decoded, whole.clone().autodiff());
            let term = perception.term(made, whole, &mut random);
            metrics.push(("perception".to_owned(), number(term.clone())));
            loss = loss + term;
        }
        let mut gradients = NamedGradients::new();
        leaves.collect(&mut loss.backward(), &mut gradients);

        let error = number(difference.powi_scalar(2).mean());
        metrics.push(("psnr".into(), 10.0 * (4.0 / error).log10()));
        metrics.push(("divergence".into(), number(divergence)));
        Ok(StepResult { loss: number(loss), gradients, buffers: Vec::new(), metrics })
    }

    /// Held-out clips above their reconstructions; the mean PSNR of more of them is appended to `psnr.txt`.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError> {
        let device = device_of(ema);
        let network = self.build(&Weights::new(ema, &device))?;
        append_score(&folder.join("psnr.txt"), step, self.held_out_psnr(&network, &device))?;
        let scenarios: Vec<_> = (0..4).map(|index| self.clips.scenario(Split::HeldOut, index)).collect();
        let video = self.clips.batch(&scenarios, 0, self.recipe.size[0]).video(&device);
        let decoded = network.decode(network.encode(video.clone()).mean);
        let path = folder.join(format!("sample-{step:06}.png"));
        frames_grid(Tensor::cat(vec![video, decoded], 0), 4, 2, &path)?;
        Ok(Some(path))
    }
}

/// The device parameters live on.
pub(crate) fn device_of(parameters: &Parameters) -> Device {
    parameters.iter().next().map(|(_, parameter)| parameter.value.device()).unwrap_or_default()
}

/// Mean and standard deviation of every latent channel of `network` over `count` training clips, which the
/// exported configuration needs. `tell` hears how many are done, and can stop, which gives `None`.
///
/// # Errors
/// When the clips cannot be rendered.
pub fn measure_latents(
    network: &WanVae,
    size: [usize; 3],
    count: u64,
    device: &Device,
    tell: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<[Vec<f32>; 2]>, TrainError> {
    let clips = Clips::new(size)?;
    let channels = network.config().z_dim;
    let mut sums = vec![[0.0_f64; 2]; channels];
    let mut values = 0.0;
    for index in 0..count {
        let scenario = clips.scenario(Split::Train, index);
        let mean = network.encode(clips.batch(&[scenario], 0, size[0]).video(device)).mean;
        let each: usize = mean.dims().iter().product::<usize>() / channels;
        let latents = host::values(mean);
        for (sum, channel) in sums.iter_mut().zip(latents.chunks_exact(each)) {
            sum[0] += channel.iter().map(|&x| f64::from(x)).sum::<f64>();
            sum[1] += channel.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>();
        }
        values += each as f64;
        if tell(index + 1).is_break() {
            return Ok(None);
        }
    }
    let mean = |sum: &[f64; 2]| sum[0] / values;
    let deviation = |sum: &[f64; 2]| (sum[1] / values - mean(sum).powi(2)).max(1e-12).sqrt();
    Ok(Some([
        sums.iter().map(|sum| mean(sum) as f32).collect(),
        sums.iter().map(|sum| deviation(sum) as f32).collect(),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;

    /// What two rows of one frame, one pixel and channel each, cost.
    fn cost(difference: Difference, values: [f32; 2], weights: [f32; 2]) -> f32 {
        let tensor = |values: [f32; 2]| {
            let data = TensorData::new(values.to_vec(), [1, 1, 1, 2, 1]);
            Tensor::<5>::from_data(data, &Device::flex())
        };
        difference.cost(tensor(values), tensor(weights)).into_scalar()
    }

    #[test]
    fn each_weight_asks_for_its_own_cost() {
        let none = Difference { absolute: 0.0, squared: 0.0, edges: 0.0 };
        let near = |a: f32, b: f32| (a - b).abs() < 1e-6;
        assert!(near(cost(Difference::default(), [0.5, -1.0], [1.0, 3.0]), (0.5 + 3.0) / 2.0));
        assert!(near(cost(Difference { squared: 2.0, ..none }, [0.5, -1.0], [1.0, 1.0]), 1.25));
        // Only rows have neighbours here; what is off by the same everywhere has no edges.
        assert!(near(cost(Difference { edges: 3.0, ..none }, [0.5, -1.0], [1.0, 2.0]), 3.0));
        assert!(near(cost(Difference { edges: 3.0, ..none }, [0.5, 0.5], [1.0, 2.0]), 0.0));
    }
}
