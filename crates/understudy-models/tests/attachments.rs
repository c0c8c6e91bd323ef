//! What attaching does to a network: nothing without weights, and exactly the published residual with them.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use burn::tensor::Tensor;
use common::{Case, device, relative_error};
use understudy_engine::attach::{
    Attachments, AttentionHook, AttentionInputs, Call, LowRank, StateHook, Window,
};
use understudy_engine::random::Random;
use understudy_engine::weights::Weights;
use understudy_models::sd_unet::SdUnet;
use understudy_models::wan_transformer::WanTransformer;

fn run(attachments: &Attachments) -> Vec<f32> {
    let case = Case::open("wan_transformer_a");
    let checkpoint = case.checkpoint();
    let weights = Weights::new(&checkpoint, &device());
    let network = WanTransformer::new(&weights, &case.config());
    let context = network.context(case.tensor("encoder_hidden_states"), attachments);
    let output =
        network.forward(case.tensor("hidden_states"), &case.values("timestep"), context, attachments);
    output.into_data().try_into_vec().unwrap()
}

fn residual(seed: u64, up_scale: f32, window: Window) -> LowRank {
    let mut random = Random::new(seed, 0);
    LowRank {
        down: random.normal_tensor([3, 32], &device()),
        up: random.normal_tensor([32, 3], &device()) * up_scale,
        scale: 0.5,
        window,
    }
}

#[derive(Debug)]
struct Observe;

impl AttentionHook for Observe {
    fn attend(&self, _: &str, _: f32, inputs: AttentionInputs) -> AttentionInputs {
        inputs
    }
}

#[derive(Debug)]
struct ZeroValues;

impl AttentionHook for ZeroValues {
    fn attend(&self, _: &str, _: f32, inputs: AttentionInputs) -> AttentionInputs {
        AttentionInputs { value: inputs.value.zeros_like(), ..inputs }
    }
}

#[derive(Debug)]
struct AddOne;

impl StateHook for AddOne {
    fn pass(&self, _: Call, hidden: Tensor<3>) -> Tensor<3> {
        hidden + 1.0
    }

    fn detached(self: Arc<Self>) -> Arc<dyn StateHook> {
        self
    }
}

const SITE: &str = "blocks.1.attn1.to_q";

#[test]
fn attachments_that_do_nothing_change_no_bit() {
    let plain = run(&Attachments::none());
    let mut attachments = Attachments::none();
    attachments.add_low_rank(SITE, residual(1, 0.0, Window::ALWAYS));
    attachments.add_low_rank("blocks.0.attn2.to_out.0", residual(2, 1.0, Window { start: 0.5, end: 1.0 }));
    attachments.add_attention("blocks.0.attn1", Window::ALWAYS, Arc::new(Observe));
    attachments.add_state(["blocks.0", "blocks.0.attn2"], Window { start: 0.75, end: 1.0 }, Arc::new(AddOne));
    assert_eq!(plain, run(&attachments.at(0.2)));
    assert_ne!(plain, run(&attachments.at(0.8)));
}

#[test]
fn hooks_replace_what_attention_sees() {
    let mut attachments = Attachments::none();
    attachments.add_attention("blocks.0.attn1", Window::ALWAYS, Arc::new(ZeroValues));
    assert_ne!(run(&Attachments::none()), run(&attachments));
}

/// The residual against the same product folded into the checkpoint's weight.
#[test]
fn a_residual_equals_the_merged_weight() {
    let low_rank = residual(3, 0.3, Window::ALWAYS);
    let delta: Vec<f32> = (low_rank.up.clone().matmul(low_rank.down.clone()) * low_rank.scale)
        .into_data()
        .try_into_vec()
        .unwrap();
    let mut attachments = Attachments::none();
    attachments.add_low_rank(SITE, low_rank);
    let attached = run(&attachments);

    let case = Case::open("wan_transformer_a");
    let mut parameters = case.parameters();
    let name = format!("{SITE}.weight");
    let weight: Vec<f32> = parameters.get(&name).unwrap().value.clone().into_data().try_into_vec().unwrap();
    let merged = weight.iter().zip(&delta).map(|(w, d)| w + d).collect();
    parameters.insert(name, &[32, 32], merged, &device());
    let weights = Weights::new(&parameters, &device());
    let network = WanTransformer::new(&weights, &case.config());
    let none = Attachments::none();
    let context = network.context(case.tensor("encoder_hidden_states"), &none);
    let output = network.forward(case.tensor("hidden_states"), &case.values("timestep"), context, &none);
    let merged: Vec<f32> = output.into_data().try_into_vec().unwrap();
    let error = relative_error(&attached, &merged);
    assert!(error < 1e-5, "{error:e}");
    assert_ne!(attached, run(&Attachments::none()));
}

#[test]
fn padding_is_attended_to_as_if_it_were_written_out() {
    let case = Case::open("wan_transformer_a");
    let checkpoint = case.checkpoint();
    let weights = Weights::new(&checkpoint, &device());
    let network = WanTransformer::new(&weights, &case.config());
    let latents: Tensor<5> = case.tensor("hidden_states");
    let timesteps = case.values("timestep");
    let [batch, channels] = [latents.dims()[0], network.config().text_dim];
    let text = Random::new(5, 0).normal_tensor([batch, 3, channels], &device());
    let text = Tensor::cat(vec![text, Tensor::zeros([batch, 40, channels], &device())], 1);
    let run = |attachments: &Attachments| {
        let context = network.context(text.clone(), attachments);
        assert_eq!((context.words.dims()[1], context.repeats), (4, 40));
        assert_eq!(context.whole().dims()[1], 43);
        let output = network.forward(latents.clone(), &timesteps, context, attachments);
        output.into_data().try_into_vec::<f32>().unwrap()
    };
    let once = run(&Attachments::none());
    // A hook sees all words, so with one nothing is left out.
    let mut observed = Attachments::none();
    for block in 0..network.depth() {
        observed.add_attention(format!("blocks.{block}.attn2"), Window::ALWAYS, Arc::new(Observe));
    }
    let error = relative_error(&once, &run(&observed));
    assert!(error < 1e-5, "{error:e}");
}

#[test]
fn a_checkpoint_that_does_not_fit_lists_every_fault() {
    let case = Case::open("wan_transformer_a");
    let mut parameters =
        case.parameters().filtered(|name| (name != "proj_out.bias").then(|| name.to_owned()));
    parameters.insert("proj_out.weight", &[2, 2], vec![0.0; 4], &device());
    parameters.insert("blocks.7.extra", &[1], vec![0.0], &device());
    let weights = Weights::new(&parameters, &device());
    WanTransformer::new(&weights, &case.config());
    let message = weights.finish().unwrap_err().to_string();
    for part in
        ["1 missing (proj_out.bias", "proj_out.weight: has shape [2, 2]", "1 not used (blocks.7.extra)"]
    {
        assert!(message.contains(part), "{message}");
    }
}

fn run_unet(attachments: &Attachments) -> Vec<f32> {
    let case = Case::open("sd_unet_a");
    let checkpoint = case.checkpoint();
    let network = SdUnet::new(&Weights::new(&checkpoint, &device()), &case.config());
    let (times, text) = (case.values("timestep"), case.tensor("encoder_hidden_states"));
    network.forward(case.tensor("sample"), &times, text, attachments).into_data().try_into_vec().unwrap()
}

/// Every kind of linear map of the UNet: its inputs and outputs.
const UNET_SITES: [(&str, [usize; 2]); 9] = [
    ("time_embedding.linear_1", [8, 32]),
    ("down_blocks.0.resnets.0.time_emb_proj", [32, 8]),
    ("down_blocks.1.resnets.0.conv_shortcut", [8, 12]),
    ("down_blocks.0.attentions.0.proj_in", [8, 8]),
    ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", [8, 8]),
    ("mid_block.attentions.0.transformer_blocks.0.attn2.to_k", [10, 16]),
    ("up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_out.0", [16, 16]),
    ("up_blocks.3.attentions.0.transformer_blocks.0.ff.net.0.proj", [8, 64]),
    ("up_blocks.3.attentions.0.proj_out", [8, 8]),
];

#[test]
fn the_unet_has_the_published_sites() {
    let plain = run_unet(&Attachments::none());
    let mut all = Attachments::none();
    for (site, [inputs, outputs]) in UNET_SITES {
        let mut random = Random::new(7, 0);
        let down = random.normal_tensor([3, inputs], &device());
        let up: Tensor<2> = random.normal_tensor([outputs, 3], &device());
        let residual = |up: Tensor<2>| LowRank { down: down.clone(), up, scale: 0.5, window: Window::ALWAYS };
        all.add_low_rank(site, residual(up.zeros_like()));
        let mut one = Attachments::none();
        one.add_low_rank(site, residual(up));
        assert!(relative_error(&run_unet(&one), &plain) > 1e-5, "{site} is no site");
    }
    all.add_attention("mid_block.attentions.0.transformer_blocks.0.attn1", Window::ALWAYS, Arc::new(Observe));
    assert_eq!(plain, run_unet(&all));
}

#[test]
fn modules_are_added_where_controlnet_adds() {
    let plain = run_unet(&Attachments::none());
    for site in ["conv_in", "down_blocks.0.resnets.0", "down_blocks.0.downsamplers.0", "mid_block"] {
        let mut attachments = Attachments::none();
        attachments.add_state([site], Window::ALWAYS, Arc::new(AddOne));
        assert!(relative_error(&run_unet(&attachments), &plain) > 1e-5, "{site} is no site");
    }
    let mut attachments = Attachments::none();
    let site = "down_blocks.2.attentions.0.transformer_blocks.0.attn1";
    attachments.add_attention(site, Window::ALWAYS, Arc::new(ZeroValues));
    assert_ne!(plain, run_unet(&attachments));
}
