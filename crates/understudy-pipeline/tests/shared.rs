//! Trained states that every block reads: under replay their gradients are those of the plain graph.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use burn::tensor::{Tensor, activation};
use common::{base, device, values};
use understudy_engine::attach::{Attached, Attachments, Call, StateHook, Window};
use understudy_engine::parameters::{Leaves, NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_engine::replay::backward;
use understudy_engine::sites::Role;
use understudy_pipeline::{Base, PromptOptions, Step, encode_prompt};

/// Pictures of a subject, in so many tokens of the states' width.
const TOKENS: usize = 3;
const WIDTH: usize = 32;
const LATENTS: [usize; 5] = [2, 8, 2, 4, 4];

/// Every block looks at the same tokens through a trained map of its own: attention, and a step of what it
/// saw.
#[derive(Debug)]
struct Look {
    tokens: Tensor<3>,
    gates: Vec<(String, Tensor<2>)>,
}

impl StateHook for Look {
    fn pass(&self, call: Call, hidden: Tensor<3>) -> Tensor<3> {
        let (_, gate) = self.gates.iter().find(|(site, _)| site == call.site).unwrap();
        let tokens = call.shared[0].clone();
        let seen =
            activation::softmax(hidden.clone().matmul(tokens.clone().swap_dims(1, 2)), 2).matmul(tokens);
        hidden + seen.matmul(gate.clone().unsqueeze::<3>())
    }

    fn shared(&self) -> Vec<Tensor<3>> {
        vec![self.tokens.clone()]
    }

    fn detached(self: Arc<Self>) -> Arc<dyn StateHook> {
        let gate = |(site, gate): &(String, Tensor<2>)| (site.clone(), gate.clone().without_autodiff());
        Arc::new(Self {
            tokens: self.tokens.clone().without_autodiff(),
            gates: self.gates.iter().map(gate).collect(),
        })
    }
}

fn sites(base: &Base) -> Vec<String> {
    base.about.denoiser_sites().states(Role::CrossAttention).map(|site| site.path.clone()).collect()
}

fn parameters(base: &Base) -> Parameters {
    let mut parameters = Parameters::new();
    let mut add = |name: &str, shape: &[usize], scale: f32| {
        let values = Random::stream(7, name, 0).normals(shape.iter().product());
        parameters.insert(name, shape, values.into_iter().map(|value| scale * value).collect(), &device());
    };
    add("tokens", &[TOKENS, WIDTH], 0.5);
    sites(base).iter().for_each(|site| add(site, &[WIDTH, WIDTH], 0.2));
    parameters
}

fn look(base: &Base, leaves: &Leaves) -> Attached {
    let tokens: Tensor<2> = leaves.tensor("tokens", [TOKENS, WIDTH]).unwrap();
    let sites = sites(base);
    let gate = |site: &String| (site.clone(), leaves.tensor(site, [WIDTH, WIDTH]).unwrap());
    let gates = sites.iter().map(gate).collect();
    let tokens = tokens.tanh().unsqueeze::<3>().repeat_dim(0, LATENTS[0]);
    let mut attachments = Attachments::none();
    attachments.add_state(sites, Window::ALWAYS, Arc::new(Look { tokens, gates }));
    Attached::one("transformer", attachments)
}

fn gradients(base: &Base, replayed: bool) -> (f32, NamedGradients) {
    let leaves = parameters(base).leaves();
    let attached = look(base, &leaves);
    let options = PromptOptions { max_sequence_length: Some(24), ..Default::default() };
    let texts = encode_prompt(base, &["a red ball", "the blue cube"], options).unwrap();
    let latents = Random::new(3, 0).normal_tensor(LATENTS, &device());
    let timesteps = [300.0, 800.0];
    let step = Step { latents, timesteps: &timesteps, progress: 0.5, attached: None };
    let end = Box::new(|prediction: Tensor<5>| prediction.powi_scalar(2).mean());
    let stack = base.networks.denoiser.stack(&texts, step, &attached, end);
    let (loss, gradients) = backward(stack.as_ref(), &leaves, replayed);
    (values(loss)[0], gradients)
}

#[test]
fn replay_gives_the_gradients_of_the_plain_graph() {
    let base = base("wan_pipeline_a");
    let (loss, kept) = gradients(&base, false);
    let (same_loss, replayed) = gradients(&base, true);
    assert!((loss - same_loss).abs() < 1e-5 * loss.abs(), "{loss} {same_loss}");
    assert_eq!(kept.len(), 1 + sites(&base).len());
    assert_eq!(kept.len(), replayed.len());
    for (name, gradient) in kept {
        let (kept, replayed) = (values(gradient), values(replayed[&name].clone()));
        assert!(kept.iter().all(|value| value.is_finite() && *value != 0.0), "{name}");
        common::check(&name, &replayed, &kept, 1e-5);
    }
}
