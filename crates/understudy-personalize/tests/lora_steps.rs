//! LoRA training against peft, and that of a motion on its basis against PyTorch: gradients, AdamW steps and
//! losses; see `oracle/lora_steps.py` and `oracle/motion_steps.py`.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Tensor;
use common::{device, error, golden, open, tensor, values};
use serde_json::Value;
use understudy_engine::attach::{Attached, Attachments, Window};
use understudy_engine::optimizer::{AdamW, AdamWConfig};
use understudy_engine::parameters::{Leaves, NamedGradients, Parameters};
use understudy_engine::safetensors::Checkpoint;
use understudy_engine::weights::{Probe, Weights};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_personalize::{Adapter, Basis, NoisyBatch, Residuals};
use understudy_pipeline::families::wan::denoiser;
use understudy_pipeline::{Denoiser, Level, Texts};

struct Case {
    io: Checkpoint,
    denoiser: Arc<dyn Denoiser>,
    residuals: Residuals,
    parameters: Parameters,
    batch: NoisyBatch,
    text: Tensor<3>,
}

impl Case {
    fn open(name: &str) -> Self {
        let folder = golden("wan_transformer_a");
        let config: WanTransformerConfig =
            serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
        let weights = open(&folder.join("diffusion_pytorch_model.safetensors"));
        let weights = Weights::new(&weights, &device());
        let transformer = WanTransformer::new(&weights, &config);
        weights.finish().unwrap();

        let folder = golden(name);
        let json: Value = serde_json::from_slice(&std::fs::read(folder.join("case.json")).unwrap()).unwrap();
        let adapter =
            Adapter::open(&folder.join("adapter/pytorch_lora_weights.safetensors"), &device()).unwrap();
        let all = Probe::sites(&device(), |weights| WanTransformer::new(weights, &config)).maps;
        let sites: BTreeMap<_, _> = adapter.residuals.keys().map(|site| (site.clone(), all[site])).collect();
        let mut parameters = Parameters::new();
        for (site, residual) in &adapter.residuals {
            let [down, up] = Residuals::names(site);
            assert_eq!(residual.alpha, json["alpha"].as_f64().unwrap() as f32);
            parameters.insert(down, &residual.down.dims(), values(residual.down.clone()), &device());
            parameters.insert(up, &residual.up.dims(), values(residual.up.clone()), &device());
        }
        let rank = json["r"].as_u64().unwrap() as usize;
        let alpha = json["alpha"].as_f64().unwrap() as f32;
        let io = open(&folder.join("io.safetensors"));
        let sigmas = io.values("sigma").unwrap().0;
        let batch = NoisyBatch {
            latents: tensor(&io, "x0"),
            noise: tensor(&io, "noise"),
            levels: sigmas.into_iter().map(Level::flow).collect(),
            weights: None,
        };
        let text = tensor(&io, "encoder_hidden_states");
        let residuals = Residuals { sites, rank, alpha, window: Window::ALWAYS, basis: Basis::Input };
        Self { io, denoiser: denoiser(transformer), residuals, parameters, batch, text }
    }

    fn gradients(&self, replayed: bool) -> (f32, NamedGradients) {
        let leaves = self.parameters.leaves();
        self.gradients_with(self.residuals.attach(&leaves), &leaves, replayed)
    }

    fn gradients_with(
        &self,
        attachments: Attachments,
        leaves: &Leaves,
        replayed: bool,
    ) -> (f32, NamedGradients) {
        let texts = Texts { words: self.text.clone(), pooled: None };
        let attached = Attached::one(self.denoiser.name(), attachments);
        let denoiser = self.denoiser.as_ref();
        self.batch.gradients(denoiser, (&texts, &attached, 0.0), (leaves, replayed), 1.0)
    }

    /// The largest relative error of the parameters against the tensors under `prefix`.
    fn worst(&self, prefix: &str) -> f64 {
        let expected = |name: &str| self.io.values(&format!("{prefix}.{name}.weight")).unwrap().0;
        let errors = self.parameters.iter().map(|(name, p)| error(&values(p.value.clone()), &expected(name)));
        errors.fold(0.0, f64::max)
    }
}

fn check(name: &str) {
    let mut case = Case::open(name);
    let (_, gradients) = case.gradients(false);
    let mut worst_gradient: f64 = 0.0;
    for (name, gradient) in &gradients {
        let expected = case.io.values(&format!("grad.{name}.weight")).unwrap().0;
        worst_gradient = worst_gradient.max(error(&values(gradient.clone()), &expected));
    }
    assert_eq!(gradients.len(), 2 * case.residuals.sites.len());

    let adamw = AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: 0.0, muon: None };
    let mut optimizer = AdamW::new(adamw);
    let expected = case.io.values("losses").unwrap().0;
    let (mut losses, mut worst_weight) = (Vec::new(), BTreeMap::new());
    for step in 1..=expected.len() {
        let (loss, gradients) = case.gradients(false);
        losses.push(loss);
        if step < expected.len() {
            optimizer.step(&mut case.parameters, gradients, |_| 1e-3);
        }
        if step == 1 || step == expected.len() - 1 {
            worst_weight.insert(step, case.worst(&format!("after{step}")));
        }
    }
    let loss = error(&losses, &expected);
    println!("{name}: gradients {worst_gradient:.1e}, weights {:?}, losses {loss:.1e}", worst_weight);
    assert!(worst_gradient < 1e-3 && loss < 1e-5, "{worst_gradient} {loss}");
    assert!(worst_weight.values().all(|&worst| worst < 1e-4), "{worst_weight:?}");
}

#[test]
fn every_linear_of_a_block_trains_as_with_peft() {
    check("lora_steps_a");
}

#[test]
fn attention_alone_with_twice_the_scale_trains_as_with_peft() {
    check("lora_steps_b");
}

/// The motion stage on the frozen residuals of `lora_steps_a`, with this basis.
fn check_motion(basis: Basis, name: &str) {
    let case = Case::open("lora_steps_a");
    let residuals = Residuals { basis, ..case.residuals.clone() };
    let io = open(&golden(name).join("io.safetensors"));
    let half = if basis == Basis::Output { 0 } else { 1 };
    let mut motion = Parameters::new();
    for site in residuals.sites.keys() {
        let (start, shape) = io.values(&format!("start.{site}")).unwrap();
        motion.insert(&Residuals::names(site)[half], &shape, start, &device());
    }
    let gradients = |motion: &Parameters| {
        let leaves = motion.leaves();
        case.gradients_with(residuals.attach_added(&case.parameters, &leaves), &leaves, false)
    };
    let against = |prefix: &str, found: &dyn Fn(&str) -> Vec<f32>| {
        let errors = residuals.sites.keys().map(|site| {
            let expected = io.values(&format!("{prefix}.{site}")).unwrap().0;
            error(&found(&Residuals::names(site)[half]), &expected)
        });
        errors.fold(0.0, f64::max)
    };
    let (_, first) = gradients(&motion);
    // Nothing but the motion is trained.
    assert_eq!(first.len(), residuals.sites.len());
    let worst_gradient = against("grad", &|name| values(first[name].clone()));
    let adamw = AdamWConfig { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, clip: 0.0, muon: None };
    let mut optimizer = AdamW::new(adamw);
    let expected = io.values("losses").unwrap().0;
    let mut losses = Vec::new();
    for _ in 0..expected.len() {
        let (loss, gradients) = gradients(&motion);
        losses.push(loss);
        optimizer.step(&mut motion, gradients, |_| 1e-3);
    }
    let worst_weight = against("after", &|name| values(motion.get(name).unwrap().value.clone()));
    let loss = error(&losses, &expected);
    println!("{name}: gradients {worst_gradient:.1e}, weights {worst_weight:.1e}, losses {loss:.1e}");
    assert!(
        worst_gradient < 1e-3 && worst_weight < 1e-4 && loss < 1e-5,
        "{worst_gradient} {worst_weight} {loss}"
    );
}

#[test]
fn a_motion_trains_as_in_pytorch_on_either_basis() {
    check_motion(Basis::Output, "motion_steps_output");
    check_motion(Basis::Input, "motion_steps_input");
}

#[test]
fn replaying_blocks_gives_the_same_gradients() {
    let case = Case::open("lora_steps_a");
    let (loss, plain) = case.gradients(false);
    let (again, replayed) = case.gradients(true);
    assert!((loss - again).abs() < 1e-6 * loss);
    assert_eq!(plain.len(), replayed.len());
    for (name, gradient) in plain {
        let error = error(&values(replayed[&name].clone()), &values(gradient));
        assert!(error < 1e-5, "{name}: {error}");
    }
}

#[test]
fn every_trained_tensor_has_a_gradient_once_it_can() {
    let mut case = Case::open("lora_steps_a");
    case.parameters = case.residuals.initialize(11, &device());
    let (_, gradients) = case.gradients(false);
    let zero = |name: &str, gradients: &NamedGradients| {
        let values = values(gradients[name].clone());
        assert!(values.iter().all(|x| x.is_finite()), "{name}");
        values.iter().all(|x| *x == 0.0)
    };
    let mut optimizer = AdamW::new(AdamWConfig::default());
    // As long as B is zero nothing depends on A.
    for site in case.residuals.sites.keys() {
        let [down, up] = Residuals::names(site);
        assert!(zero(&down, &gradients) && !zero(&up, &gradients), "{site}");
    }
    optimizer.step(&mut case.parameters, gradients, |_| 1e-2);
    let (_, gradients) = case.gradients(false);
    for name in gradients.keys() {
        assert!(!zero(name, &gradients), "{name}");
    }
}
