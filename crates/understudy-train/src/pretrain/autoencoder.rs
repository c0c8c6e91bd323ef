//! Training the video autoencoder: reconstruction, with the characters weighed more than the scenery, and a
//! light pull of the latents toward a normal distribution.

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
use crate::pretrain::export;
use crate::pretrain::grid::frames_grid;
use crate::pretrain::recipe::key;
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
    /// An autoencoder to start from in place of random weights: what an earlier run of the same network exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<PathBuf>,
    /// The network.
    pub model: WanVaeConfig,
    /// The loop.
    pub training: TrainConfig,
}

/// Where the posterior's log-variance starts.
const START_LOG_VARIANCE: f32 = -6.0;

/// The autoencoder's objective.
pub struct Autoencoder {
    recipe: AutoencoderRecipe,
    clips: Clips,
}

impl Autoencoder {
    /// Prepares `recipe`.
    ///
    /// # Errors
    /// When the world cannot render its size or the network cannot be built.
    pub fn new(recipe: AutoencoderRecipe) -> Result<Self, TrainError> {
        if let Some(reason) = recipe.model.unsupported() {
            return Err(TrainError::Other(format!("model: {reason}")));
        }
        let clips = Clips::new(recipe.size)?;
        Ok(Self { recipe, clips })
    }

    fn phase(&self, step: u64) -> Phase {
        let whole = Phase { from: 0, frames: self.recipe.size[0], batch: 1 };
        self.recipe.phases.iter().rev().find(|phase| phase.from <= step).copied().unwrap_or(whole)
    }

    fn build(&self, weights: &Weights) -> Result<WanVae, TrainError> {
        let network = WanVae::new(weights, &self.recipe.model);
        weights.finish()?;
        Ok(network)
    }
}

impl Objective for Autoencoder {
    type Batch = ClipBatch;

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

    fn batch(&self, step: u64) -> Result<ClipBatch, TrainError> {
        let phase = self.phase(step);
        let mut random = Random::stream(self.recipe.seed, "autoencoder batch", step);
        let scenarios: Vec<_> =
            (0..phase.batch).map(|_| self.clips.scenario(Split::Train, random.next_u64() >> 24)).collect();
        let start = random.below((self.recipe.size[0] - phase.frames + 1) as u64) as usize;
        Ok(self.clips.batch(&scenarios, start, phase.frames))
    }

    fn step(&self, parameters: &Parameters, batch: ClipBatch, step: u64) -> Result<StepResult, TrainError> {
        let leaves = parameters.leaves();
        let device = device_of(parameters);
        let network = self.build(&Weights::new(&leaves, &device))?;
        let [video, mask] = [batch.video(&device), batch.mask(&device)];

        let posterior = network.encode(video.clone().autodiff());
        let noise = Random::stream(self.recipe.seed, "posterior", step)
            .normal_tensor(posterior.mean.dims(), &device)
            .autodiff();
        let latents = posterior.mean.clone() + (posterior.log_variance.clone() * 0.5).exp() * noise;
        let decoded = network.decode(latents);

        let difference = decoded - video.autodiff();
        let weight = mask * self.recipe.mask_weight + 1.0;
        let weight = weight.clone() / weight.mean().reshape([1, 1, 1, 1, 1]);
        let reconstruction = (difference.clone().abs() * weight.autodiff()).mean();
        let divergence = (posterior.mean.powi_scalar(2) + posterior.log_variance.clone().exp()
            - posterior.log_variance
            - 1.0)
            .mean()
            * 0.5;
        let loss = reconstruction.clone() + divergence.clone() * self.recipe.kl_weight;
        let mut gradients = NamedGradients::new();
        leaves.collect(&mut loss.backward(), &mut gradients);

        let number = |tensor: Tensor<1>| tensor.without_autodiff().into_scalar::<f32>();
        let error = number(difference.powi_scalar(2).mean());
        Ok(StepResult {
            loss: number(loss),
            gradients,
            buffers: Vec::new(),
            metrics: vec![
                ("psnr".into(), 10.0 * (4.0 / error).log10()),
                ("divergence".into(), number(divergence)),
            ],
        })
    }

    /// Held-out clips above their reconstructions.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError> {
        let device = device_of(ema);
        let network = self.build(&Weights::new(ema, &device))?;
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
