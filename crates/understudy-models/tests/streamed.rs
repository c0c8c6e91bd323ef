//! Networks whose blocks stay in their file compute the same bits.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};
use common::{Case, device};
use understudy_engine::attach::Attachments;
use understudy_engine::weights::{WeightSource, Weights};
use understudy_models::umt5::{Umt5Config, Umt5Encoder};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};

fn streamed<N>(case: &Case, on_host: usize, make: impl FnOnce(&Weights) -> N) -> N {
    let weights = Weights::streamed(Arc::new(case.checkpoint()), &device(), on_host);
    let network = make(&weights);
    weights.finish().unwrap();
    network
}

fn bits<const D: usize>(tensor: Tensor<D>) -> Vec<u32> {
    let values: Vec<f32> = tensor.into_data().try_into_vec().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_denoiser_runs_from_its_file() {
    // Three shards; and numbers in half precision.
    for name in ["wan_transformer_b", "wan_transformer_c"] {
        let case = Case::open(name);
        let config: WanTransformerConfig = case.config();
        let run = |on_host| {
            let network = streamed(&case, on_host, |weights| WanTransformer::new(weights, &config));
            let timesteps: Vec<f32> = case.values("timestep");
            let none = Attachments::none();
            let forward = || {
                let context = network.context(case.tensor("encoder_hidden_states"), &none);
                bits(network.forward(case.tensor("hidden_states"), &timesteps, context, &none))
            };
            let first = forward();
            assert_eq!(first, forward());
            // Backward, as a sweep over checkpointed blocks goes.
            let hidden = network.patchify(case.tensor("hidden_states"), &none);
            let context = network.context(case.tensor("encoder_hidden_states"), &none);
            let conditions = network.conditions(&timesteps, context, &none);
            let dims = case.tensor::<5>("hidden_states").dims();
            let rotary = network.rotary(dims, &device());
            let back = (0..network.depth())
                .rev()
                .fold(hidden, |hidden, index| network.block(index, hidden, &conditions, &rotary, &none));
            (first, bits(back))
        };
        let held = run(0);
        for on_host in [1, 2, usize::MAX / 1024] {
            assert!(held == run(on_host), "{name}: {on_host} blocks on the host");
        }
    }
}

#[test]
fn a_text_encoder_runs_from_its_file() {
    let case = Case::open("umt5_a");
    let config: Umt5Config = case.config();
    let (ids, shape) = case.integers("input_ids");
    let lengths = vec![shape[1]; shape[0]];
    let run = |on_host| {
        let network = streamed(&case, on_host, |weights| Umt5Encoder::new(weights, &config));
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids.clone(), shape.clone()), &device());
        bits(network.forward(network.embed(ids), &lengths, &Attachments::none()))
    };
    let held = run(0);
    assert!(held == run(1));
    assert!(held == run(config.num_layers));
}

#[test]
fn what_is_not_there_is_found_before_anything_runs() {
    let case = Case::open("wan_transformer_b");
    let config: WanTransformerConfig = case.config();
    let deeper = WanTransformerConfig { num_layers: config.num_layers + 1, ..config };
    let source = case.checkpoint();
    assert!(source.holds("proj_out.weight", &[1, 1]).is_err());
    assert!(!source.holds("nothing", &[1]).unwrap());
    let weights = Weights::streamed(Arc::new(source), &device(), deeper.num_layers);
    drop(WanTransformer::new(&weights, &deeper));
    let message = weights.finish().unwrap_err().to_string();
    assert!(message.contains(&format!("blocks.{}.attn1.to_q.weight", deeper.num_layers - 1)), "{message}");
}
