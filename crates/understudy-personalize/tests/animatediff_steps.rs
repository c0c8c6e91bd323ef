//! LoRA training of a UNet with motion modules against peft: gradients, AdamW steps and losses; see
//! `oracle/animatediff_steps.py`.
#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::Tensor;
use common::{device, error, golden, open, tensor, values};
use serde_json::Value;
use understudy_engine::attach::{Attached, Window};
use understudy_engine::optimizer::{AdamW, AdamWConfig};
use understudy_engine::parameters::{NamedGradients, Parameters};
use understudy_engine::safetensors::Checkpoint;
use understudy_personalize::{Adapter, Basis, NoisyBatch, Residuals};
use understudy_pipeline::{Animated, Base, Level, Source, Texts};

struct Case {
    io: Checkpoint,
    base: Base,
    residuals: Residuals,
    parameters: Parameters,
    batch: NoisyBatch,
    text: Tensor<3>,
}

impl Case {
    fn open() -> Self {
        let source = Source::Animated(Animated { pictures: golden("animatediff_b"), ..Animated::default() });
        let base = source.load(&device()).unwrap();
        let folder = golden("animatediff_steps");
        let json: Value = serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
        let adapter =
            Adapter::open(&folder.join("adapter/pytorch_lora_weights.safetensors"), &device()).unwrap();
        adapter.check(&base.about).unwrap();
        let alpha = json["alpha"].as_f64().unwrap() as f32;
        let mut parameters = Parameters::new();
        for (site, residual) in &adapter.residuals {
            assert_eq!(residual.alpha, alpha, "{site}");
            for (name, half) in Residuals::names(site).iter().zip([&residual.down, &residual.up]) {
                parameters.insert(name, &half.dims(), values(half.clone()), &device());
            }
        }
        let sites = adapter.residuals.keys().map(|site| (site.clone(), *base.about.map(site).unwrap()));
        let residuals = Residuals {
            sites: sites.collect(),
            rank: json["r"].as_u64().unwrap() as usize,
            alpha,
            window: Window::ALWAYS,
            basis: Basis::Input,
        };
        let io = open(&folder.join("io.safetensors"));
        let timesteps: Vec<f32> =
            json["timesteps"].as_array().unwrap().iter().map(|own| own.as_f64().unwrap() as f32).collect();
        let kept = io.values("kept").unwrap().0;
        let level = |(&timestep, &kept): (&f32, &f32)| Level {
            alpha: kept.sqrt(),
            sigma: (1.0 - kept).sqrt(),
            timestep,
        };
        let levels: Vec<Level> = timesteps.iter().zip(&kept).map(level).collect();
        // The base itself has these levels.
        for level in &levels {
            let own = base.networks.denoiser.noise().level(level.timestep / 999.0);
            assert!((own.alpha - level.alpha).abs() < 1e-5 && own.timestep == level.timestep);
        }
        let batch =
            NoisyBatch { latents: tensor(&io, "x0"), noise: tensor(&io, "noise"), levels, weights: None };
        let text = tensor(&io, "encoder_hidden_states");
        Self { io, base, residuals, parameters, batch, text }
    }

    fn gradients(&self, replayed: bool) -> (f32, NamedGradients) {
        let leaves = self.parameters.leaves();
        let denoiser = self.base.networks.denoiser.as_ref();
        let texts = Texts { words: self.text.clone(), pooled: None };
        let attached = Attached::one(denoiser.name(), self.residuals.attach(&leaves));
        self.batch.gradients(denoiser, (&texts, &attached, 0.0), (&leaves, replayed), 1.0)
    }

    fn expected(&self, prefix: &str, name: &str) -> Vec<f32> {
        self.io.values(&format!("{prefix}.{name}.weight")).unwrap().0
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn gradients_are_those_of_peft_with_blocks_kept_or_replayed() {
    let case = Case::open();
    for part in ["attn1.to_q", "motion_modules.0", "attn2.to_v", "conv1", "downsamplers", "time_emb_proj"] {
        assert!(case.residuals.sites.keys().any(|site| site.contains(part)), "{part}");
    }
    for replayed in [false, true] {
        let (loss, gradients) = case.gradients(replayed);
        let expected = case.io.values("losses").unwrap().0[0];
        assert!((loss - expected).abs() < 1e-5 * expected, "{loss} {expected}");
        assert_eq!(gradients.len(), 2 * case.residuals.sites.len());
        let (mut worst, mut least) = (0.0_f64, 1.0_f64);
        for (name, gradient) in gradients {
            let (found, expected) = (values(gradient), case.expected("grad", &name));
            worst = worst.max(error(&found, &expected));
            least = least.min(cosine(&found, &expected));
        }
        println!("replayed {replayed}: worst error {worst:.1e}, least cosine {least:.7}");
        assert!(worst < 1e-3 && least > 0.999, "{worst} {least}");
    }
}

#[test]
fn steps_are_those_of_peft() {
    let mut case = Case::open();
    let adamw = AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: 0.0, muon: None };
    let mut optimizer = AdamW::new(adamw);
    let expected = case.io.values("losses").unwrap().0;
    let mut losses = Vec::new();
    for step in 0..expected.len() {
        let (loss, gradients) = case.gradients(true);
        losses.push(loss);
        if step + 1 < expected.len() {
            optimizer.step(&mut case.parameters, gradients, |_| 1e-3);
        }
    }
    let errors = case
        .parameters
        .iter()
        .map(|(name, own)| error(&values(own.value.clone()), &case.expected("after", name)));
    let worst = errors.fold(0.0, f64::max);
    let loss = error(&losses, &expected);
    println!("weights {worst:.1e}, losses {loss:.1e}");
    assert!(worst < 1e-4 && loss < 1e-5, "{worst} {loss}");
}
