//! Every network against its public implementation: forward to 1e-4, gradients to 1e-3.
#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::{Int, Tensor, TensorData};
use common::{Case, device};
use understudy_engine::attach::Attachments;
use understudy_engine::parameters::NamedGradients;
use understudy_engine::weights::{WeightSource, Weights};
use understudy_models::clip::{Clip, ClipConfig};
use understudy_models::iresnet::{IResNet, IResNetConfig, arcface_loss};
use understudy_models::sd_unet::{SdUnet, SdUnetConfig};
use understudy_models::tiling::Tiles;
use understudy_models::umt5::{Umt5Config, Umt5Encoder};
use understudy_models::vit::{Vit, VitConfig};
use understudy_models::wan_transformer::{WanTransformer, WanTransformerConfig};
use understudy_models::wan_vae::{WanVae, WanVaeConfig};

const FORWARD: f32 = 1e-4;
const GRADIENT: f32 = 1e-3;

fn build<N>(source: &dyn WeightSource, make: impl FnOnce(&Weights) -> N) -> N {
    let weights = Weights::new(source, &device());
    let network = make(&weights);
    weights.finish().unwrap();
    network
}

fn tokens(case: &Case) -> (Tensor<2, Int>, Vec<Vec<i64>>) {
    let (ids, shape) = case.integers("input_ids");
    let rows = ids.chunks(shape[1]).map(<[i64]>::to_vec).collect();
    (Tensor::from_data(TensorData::new(ids, shape), &device()), rows)
}

fn lengths(case: &Case) -> Vec<usize> {
    let (mask, shape) = case.integers("attention_mask");
    mask.chunks(shape[1]).map(|row| row.iter().sum::<i64>() as usize).collect()
}

#[test]
fn wan_transformer_forward() {
    for name in ["wan_transformer_a", "wan_transformer_b", "wan_transformer_c"] {
        let case = Case::open(name);
        let config: WanTransformerConfig = case.config();
        let network = build(&case.checkpoint(), |w| WanTransformer::new(w, &config));
        let none = Attachments::none();
        let context = network.context(case.tensor("encoder_hidden_states"), &none);
        let output = network.forward(case.tensor("hidden_states"), &case.values("timestep"), context, &none);
        case.check("output", output, FORWARD);
    }
}

#[test]
fn wan_transformer_gradients() {
    let case = Case::open("wan_transformer_a");
    let config: WanTransformerConfig = case.config();
    let leaves = case.parameters().leaves();
    let network = build(&leaves, |w| WanTransformer::new(w, &config));
    let none = Attachments::none();
    let latents = case.tensor::<5>("hidden_states").autodiff().require_grad();
    let text = case.tensor::<3>("encoder_hidden_states").autodiff().require_grad();
    let context = network.context(text.clone(), &none);
    let output = network.forward(latents.clone(), &case.values("timestep"), context, &none);
    let mut found = (output * case.tensor::<5>("cotangent").autodiff()).sum().backward();
    case.check("grad_hidden_states", latents.grad(&found).unwrap(), GRADIENT);
    case.check("grad_encoder_hidden_states", text.grad(&found).unwrap(), GRADIENT);
    let mut gradients = NamedGradients::new();
    leaves.collect(&mut found, &mut gradients);
    case.check_gradients("grad.", &gradients, "", GRADIENT);
}

#[test]
fn sd_unet_forward() {
    for name in ["sd_unet_a", "sd_unet_b", "sd_unet_c"] {
        let case = Case::open(name);
        let config: SdUnetConfig = case.config();
        assert_eq!(config.unsupported(), None);
        let network = build(&case.checkpoint(), |w| SdUnet::new(w, &config));
        let (times, text) = (case.values("timestep"), case.tensor("encoder_hidden_states"));
        let output = network.forward(case.tensor("sample"), &times, text, &Attachments::none());
        case.check("output", output, FORWARD);
    }
}

#[test]
fn sd_unet_gradients() {
    let case = Case::open("sd_unet_a");
    let leaves = case.parameters().leaves();
    let network = build(&leaves, |w| SdUnet::new(w, &case.config()));
    let latents = case.tensor::<4>("sample").autodiff().require_grad();
    let text = case.tensor::<3>("encoder_hidden_states").autodiff().require_grad();
    let times = case.values("timestep");
    let output = network.forward(latents.clone(), &times, text.clone(), &Attachments::none());
    let mut found = (output * case.tensor::<4>("cotangent").autodiff()).sum().backward();
    case.check("grad_sample", latents.grad(&found).unwrap(), GRADIENT);
    case.check("grad_encoder_hidden_states", text.grad(&found).unwrap(), GRADIENT);
    let mut gradients = NamedGradients::new();
    leaves.collect(&mut found, &mut gradients);
    case.check_gradients("grad.", &gradients, "", GRADIENT);
    // The oracle has every gradient that is not zero; nothing else was left out.
    for info in case.checkpoint().infos() {
        assert!(gradients.contains_key(&info.name), "no gradient for {}", info.name);
    }
}

#[test]
fn wan_vae_forward_whole_and_streamed() {
    for name in ["wan_vae_a", "wan_vae_b", "wan_vae_c"] {
        let case = Case::open(name);
        let config: WanVaeConfig = case.config();
        let network = build(&case.checkpoint(), |w| WanVae::new(w, &config));
        for suffix in ["", "_image"] {
            let named = |what: &str| format!("{what}{suffix}");
            if !case.has(&named("video")) {
                continue;
            }
            let video = case.tensor::<5>(&named("video"));
            let latents = case.tensor::<5>(&named("latents"));
            for streamed in [false, true] {
                let posterior = if streamed {
                    network.encode_streamed(video.clone())
                } else {
                    network.encode(video.clone())
                };
                case.check(&named("posterior_mean"), posterior.mean, FORWARD);
                case.check(&named("posterior_logvar"), posterior.log_variance, FORWARD);
                let decoded = if streamed {
                    network.decode_streamed(latents.clone())
                } else {
                    network.decode(latents.clone())
                };
                case.check(&named("decoded"), decoded.clamp(-1.0, 1.0), FORWARD);
            }
        }
    }
}

#[test]
fn wan_vae_in_tiles() {
    #[derive(serde::Deserialize)]
    struct Layout {
        size: [usize; 2],
        stride: [usize; 2],
    }
    let weights = Case::open("wan_vae_b");
    let config: WanVaeConfig = weights.config();
    let network = build(&weights.checkpoint(), |w| WanVae::new(w, &config));
    let case = Case::open("wan_tiling");
    let Layout { size, stride } = case.json("case.json");
    let tiles = Tiles { size, stride };
    case.check("posterior_mean", network.encode_tiled(case.tensor("video"), tiles).mean, FORWARD);
    let decoded = network.decode_tiled(case.tensor("latents"), tiles).clamp(-1.0, 1.0);
    case.check("decoded", decoded, FORWARD);
    // One tile is the whole.
    let one = Tiles { size: [64, 64], stride: [64, 64] };
    let whole = network.decode_streamed(case.tensor("latents"));
    let tiled = network.decode_tiled(case.tensor("latents"), one);
    assert_eq!(whole.into_data(), tiled.into_data());
}

#[test]
fn wan_vae_gradients() {
    let case = Case::open("wan_vae_b");
    let config: WanVaeConfig = case.config();
    let leaves = case.parameters().leaves();
    let network = build(&leaves, |w| WanVae::new(w, &config));
    let decoded = network.decode(case.tensor::<5>("latents").autodiff());
    let mut gradients = NamedGradients::new();
    let loss = (decoded * case.tensor::<5>("cotangent_decoded").autodiff()).sum();
    leaves.collect(&mut loss.backward(), &mut gradients);
    let mean = network.encode(case.tensor::<5>("video").autodiff()).mean;
    let loss = (mean * case.tensor::<5>("cotangent_mean").autodiff()).sum();
    leaves.collect(&mut loss.backward(), &mut gradients);
    case.check_gradients("grad.", &gradients, "", GRADIENT);
}

#[test]
fn umt5_forward_and_gradients() {
    for name in ["umt5_a", "umt5_b"] {
        let case = Case::open(name);
        let config: Umt5Config = case.config();
        let network = build(&case.checkpoint(), |w| Umt5Encoder::new(w, &config));
        let (ids, _) = tokens(&case);
        let output = network.forward(network.embed(ids), &lengths(&case), &Attachments::none());
        // States of padding mean nothing and are zeroed by every user.
        let (mask, shape) = case.integers("attention_mask");
        let mask: Vec<f32> = mask.into_iter().map(|m| m as f32).collect();
        let mask = Tensor::<2>::from_data(TensorData::new(mask, shape), &device()).unsqueeze_dim::<3>(2);
        let expected = case.tensor::<3>("last_hidden_state") * mask.clone();
        let error = common::relative_error(
            &(output * mask).into_data().try_into_vec::<f32>().unwrap(),
            &expected.into_data().try_into_vec::<f32>().unwrap(),
        );
        assert!(error < FORWARD, "{name}: {error:e}");
    }

    let case = Case::open("umt5_a");
    let config: Umt5Config = case.config();
    let leaves = case.parameters().leaves();
    let network = build(&leaves, |w| Umt5Encoder::new(w, &config));
    let (ids, _) = tokens(&case);
    let output = network.forward(network.embed(ids), &lengths(&case), &Attachments::none());
    let mut gradients = NamedGradients::new();
    let loss = (output * case.tensor::<3>("cotangent").autodiff()).sum();
    leaves.collect(&mut loss.backward(), &mut gradients);
    case.check_gradients("grad.", &gradients, "", GRADIENT);
}

#[test]
fn clip_forward() {
    for name in ["clip_a", "clip_b"] {
        let case = Case::open(name);
        let config: ClipConfig = case.config();
        let network = build(&case.checkpoint(), |w| Clip::new(w, &config));
        case.check("image_features", network.image(case.tensor("pixel_values")), FORWARD);
        case.check("text_features", network.text(&tokens(&case).1, &device()), FORWARD);
    }
}

#[test]
fn vision_transformer_forward() {
    for name in ["vit_a", "vit_b", "dinov2_a", "dinov2_b"] {
        let case = Case::open(name);
        let config: VitConfig = case.config();
        assert_eq!(config.unsupported(), None);
        let network = build(&case.checkpoint(), |w| Vit::new(w, &config));
        let sizes: Vec<[usize; 2]> = case.json::<Sizes>("case.json").sizes;
        for [height, width] in sizes {
            let key = |what: &str| format!("{height}x{width}.{what}");
            let states = network.states(case.tensor(&key("pixel_values")));
            case.check(&key("last_hidden_state"), states, FORWARD);
        }
    }
}

/// What a case of a vision transformer was made with.
#[derive(serde::Deserialize)]
struct Sizes {
    sizes: Vec<[usize; 2]>,
}

#[test]
fn iresnet_forward_and_gradients() {
    for name in ["iresnet_a", "iresnet_b"] {
        let case = Case::open(name);
        let config: IResNetConfig = case.json("case.json");
        let network = build(&case.checkpoint(), |w| IResNet::new(w, &config));
        case.check("output", network.forward(case.tensor("input")), FORWARD);
    }

    let case = Case::open("iresnet_a");
    let config: IResNetConfig = case.json("case.json");
    let leaves = case.parameters().leaves();
    let network = build(&leaves, |w| IResNet::new(w, &config));
    let cotangent = case.tensor::<2>("cotangent").autodiff();
    let mut gradients = NamedGradients::new();
    let output = network.forward(case.tensor::<4>("input").autodiff());
    leaves.collect(&mut (output * cotangent.clone()).sum().backward(), &mut gradients);
    case.check_gradients("grad.", &gradients, "", GRADIENT);

    // A network's views of its leaves serve one backward pass.
    let leaves = case.parameters().leaves();
    let network = build(&leaves, |w| IResNet::new(w, &config));
    let mut gradients = NamedGradients::new();
    let (output, statistics) = network.forward_train(case.tensor::<4>("input").autodiff());
    case.check("train.output", output.clone(), FORWARD);
    leaves.collect(&mut (output * cotangent).sum().backward(), &mut gradients);
    case.check_gradients("train.grad.", &gradients, "", GRADIENT);
    let before = case.parameters();
    for (path, mean, variance) in statistics {
        for (what, batch) in [("running_mean", mean), ("running_var", variance)] {
            let name = format!("{path}.{what}");
            let old = before.get(&name).unwrap().value.clone();
            case.check(&format!("train.{name}"), old * 0.9 + batch * 0.1, FORWARD);
        }
    }
}

#[test]
fn arcface_loss_and_gradients() {
    let case = Case::open("arcface_loss");
    let (labels, shape) = case.integers("labels");
    let labels = Tensor::<1, Int>::from_data(TensorData::new(labels, shape), &device());
    let mut checked = 0;
    for scale in [32.0, 64.0] {
        let key = |what: &str| format!("s{scale}.{what}");
        if !case.has(&key("loss")) {
            continue;
        }
        let embeddings = case.tensor::<2>("embeddings").autodiff().require_grad();
        let classes = case.tensor::<2>("weights").autodiff().require_grad();
        let loss = arcface_loss(embeddings.clone(), classes.clone(), labels.clone(), scale, 0.5);
        let gradients = loss.backward();
        let expected = case.values(&key("loss"))[0];
        let found: f32 = loss.into_scalar();
        assert!((found - expected).abs() < 1e-4 * expected.abs(), "{found} {expected}");
        case.check(&key("grad_embeddings"), embeddings.grad(&gradients).unwrap(), GRADIENT);
        case.check(&key("grad_weights"), classes.grad(&gradients).unwrap(), GRADIENT);
        checked += 1;
    }
    assert!(checked > 0);
}
