//! The networks of AnimateDiff on Stable Diffusion against diffusers: forward to 1e-4, gradients to 1e-3.
#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::{Int, Tensor, TensorData};
use common::{Case, device, relative_error};
use understudy_engine::attach::{Attachments, LowRank, Window};
use understudy_engine::parameters::{Leaves, NamedGradients, Parameters};
use understudy_engine::sites::Role;
use understudy_engine::weights::{Probe, WeightSource, Weights};
use understudy_models::clip::{ClipText, ClipTextConfig};
use understudy_models::controlnet::{ControlNet, ControlNetConfig, Residuals};
use understudy_models::motion_module::MotionConfig;
use understudy_models::sd_unet::{SdUnet, SdUnetConfig};
use understudy_models::sd_vae::{SdVae, SdVaeConfig};
use understudy_models::tiling::Tiles;

const FORWARD: f32 = 1e-4;
const GRADIENT: f32 = 1e-3;

fn build<N>(source: &dyn WeightSource, make: impl FnOnce(&Weights) -> N) -> N {
    let weights = Weights::new(source, &device());
    let network = make(&weights);
    weights.finish().unwrap();
    network
}

/// Everything that is trained has a gradient in the oracle under `prefix`, if it is not zero but for
/// rounding.
fn assert_complete(case: &Case, prefix: &str, parameters: &Parameters, gradients: &NamedGradients) {
    #[derive(Default, serde::Deserialize)]
    struct Zero {
        #[serde(default)]
        zero_gradients: Vec<String>,
    }
    let zero = case.json::<Zero>("case.json").zero_gradients;
    for (name, _) in parameters.iter() {
        let key = format!("{prefix}{name}");
        let gradient = gradients.get(name).unwrap_or_else(|| panic!("no gradient for {name}"));
        let values: Vec<f32> = gradient.clone().into_data().try_into_vec().unwrap();
        assert!(values.iter().all(|value| value.is_finite()), "{name}");
        assert!(case.has(&key) != zero.contains(&key), "{key}");
        assert!(zero.contains(&key) || values.iter().any(|value| *value != 0.0), "{name}");
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.without_autodiff().into_data().try_into_vec().unwrap()
}

/// The residuals of a case: its sites, and the parameters they are made of.
fn residuals(case: &Case) -> (Vec<String>, Parameters) {
    let mut parameters = Parameters::new();
    for (name, values, shape) in case.all("lora.") {
        parameters.insert(name, &shape, values, &device());
    }
    let site = |(name, _): (&String, _)| name.strip_suffix(".down").map(str::to_owned);
    (parameters.iter().filter_map(site).collect(), parameters)
}

fn attached(sites: &[String], parameters: &Parameters, leaves: &Leaves, scale: f32) -> Attachments {
    let mut attachments = Attachments::none();
    for site in sites {
        let matrix = |part: &str| {
            let name = format!("{site}.{part}");
            let shape = &parameters.get(&name).unwrap().shape;
            leaves.tensor::<2>(&name, [shape[0], shape[1]]).unwrap()
        };
        let residual = LowRank { down: matrix("down"), up: matrix("up"), scale, window: Window::ALWAYS };
        attachments.add_low_rank(site, residual);
    }
    attachments
}

/// What a network gives with the residuals of a case, and their gradients.
fn check_residuals_and_gradients<const D: usize>(case: &Case, run: impl Fn(&Attachments) -> Tensor<D>) {
    #[derive(serde::Deserialize)]
    struct Scale {
        scale: f32,
    }
    let (sites, parameters) = residuals(case);
    let leaves = parameters.leaves();
    let attachments = attached(&sites, &parameters, &leaves, case.json::<Scale>("case.json").scale);
    case.check("adapted", run(&attachments.without_autodiff()), FORWARD);
    let output = run(&attachments);
    case.check("adapted", output.clone(), FORWARD);
    let mut found = (output * case.tensor::<D>("cotangent").autodiff()).sum().backward();
    let mut gradients = NamedGradients::new();
    leaves.collect(&mut found, &mut gradients);
    case.check_gradients("lora_grad.", &gradients, "", GRADIENT);
    assert!(sites.len() >= 18 && gradients.len() == 2 * sites.len(), "{}", sites.len());
}

fn vae(case: &Case) -> SdVae {
    let config: SdVaeConfig = case.config();
    assert_eq!(config.unsupported(), None);
    build(&case.checkpoint(), |w| SdVae::new(w, &config))
}

#[test]
fn vae_forward_whole_and_one_by_one() {
    for name in ["sd_vae_a", "sd_vae_b"] {
        let case = Case::open(name);
        let network = vae(&case);
        let (pictures, latents) = (case.tensor::<4>("pictures"), case.tensor::<4>("latents"));
        for posterior in [network.encode(pictures.clone()), network.encode_streamed(pictures)] {
            case.check("posterior_mean", posterior.mean, FORWARD);
            case.check("posterior_logvar", posterior.log_variance, FORWARD);
        }
        for decoded in [network.decode(latents.clone()), network.decode_streamed(latents.clone())] {
            case.check("decoded", decoded, FORWARD);
        }
        case.check("scaled", network.normalize(latents.clone()), FORWARD);
        case.check("unscaled", network.denormalize(latents), FORWARD);
    }
}

#[test]
fn vae_in_tiles() {
    let case = Case::open("sd_vae_a");
    let network = vae(&case);
    let (pictures, latents) = (case.tensor::<4>("tiled.pictures"), case.tensor::<4>("tiled.latents"));
    let tiles = Tiles::square(32);
    case.check("tiled.posterior_mean", network.encode_tiled(pictures, tiles).mean, FORWARD);
    case.check("tiled.decoded", network.decode_tiled(latents.clone(), tiles), FORWARD);
    let one = Tiles { size: [128; 2], stride: [128; 2] };
    assert_eq!(values(network.decode_tiled(latents.clone(), one)), values(network.decode(latents)));
}

#[test]
fn vae_gradients() {
    let case = Case::open("sd_vae_a");
    let config: SdVaeConfig = case.config();
    let parameters = case.parameters();
    let leaves = parameters.leaves();
    let network = build(&leaves, |w| SdVae::new(w, &config));
    let mut gradients = NamedGradients::new();
    for (input, cotangent) in [("latents", "cotangent_decoded"), ("pictures", "cotangent_mean")] {
        let given = case.tensor::<4>(input).autodiff().require_grad();
        let output = if input == "latents" {
            network.decode(given.clone())
        } else {
            network.encode(given.clone()).mean
        };
        let mut found = (output * case.tensor::<4>(cotangent).autodiff()).sum().backward();
        case.check(&format!("grad_{input}"), given.grad(&found).unwrap(), GRADIENT);
        leaves.collect(&mut found, &mut gradients);
    }
    case.check_gradients("grad.", &gradients, "", GRADIENT);
    assert_complete(&case, "grad.", &parameters, &gradients);
}

fn ids(case: &Case) -> Tensor<2, Int> {
    let (ids, shape) = case.integers("input_ids");
    Tensor::from_data(TensorData::new(ids, shape), &device())
}

#[test]
fn text_encoder_forward() {
    for name in ["clip_text_a", "clip_text_b"] {
        let case = Case::open(name);
        let config: ClipTextConfig = case.config();
        assert_eq!(config.unsupported(), None);
        let source = case.checkpoint();
        let network = if source.names().iter().any(|name| name.starts_with("text_model.")) {
            build(&source, |w| ClipText::new(w, &config))
        } else {
            let below = |name: &str| Some(format!("text_model.{name}"));
            build(&source.renamed(below).unwrap(), |w| ClipText::new(w, &config))
        };
        let rows = network.embed(ids(&case));
        case.check("rows", rows.clone(), 1e-7);
        let none = Attachments::none();
        case.check("last_hidden_state", network.encode(rows.clone(), 0, &none), FORWARD);
        for skip in 1..config.num_hidden_layers {
            case.check(&format!("skip{skip}"), network.encode(rows.clone(), skip, &none), FORWARD);
        }
    }
}

#[test]
fn text_encoder_gradients_and_sites() {
    let case = Case::open("clip_text_a");
    let config: ClipTextConfig = case.config();
    let leaves = case.parameters().leaves();
    let network = build(&leaves, |w| ClipText::new(w, &config));
    let rows = case.tensor::<3>("rows").autodiff().require_grad();
    let states = network.encode(rows.clone(), 0, &Attachments::none());
    let mut found = (states * case.tensor::<3>("cotangent").autodiff()).sum().backward();
    case.check("grad_rows", rows.grad(&found).unwrap(), GRADIENT);
    let mut gradients = NamedGradients::new();
    leaves.collect(&mut found, &mut gradients);
    case.check_gradients("grad.", &gradients, "", GRADIENT);

    let sites = Probe::sites(&device(), |w| ClipText::new(w, &config)).maps;
    assert_eq!(sites.len(), 6 * config.num_hidden_layers);
    assert_eq!(sites["text_model.encoder.layers.0.self_attn.q_proj"].role, Role::SelfAttention);
    assert_eq!(sites["text_model.encoder.layers.2.mlp.fc1"].shape, [20, 12]);
    let network = build(&case.checkpoint(), |w| ClipText::new(w, &config));
    check_residuals_and_gradients(&case, |attachments| network.encode(case.tensor("rows"), 0, attachments));
}

/// The UNet of a case and its motion modules, of weights in two stores.
fn unet_of(unet: &dyn WeightSource, motion: &dyn WeightSource, name: &str) -> SdUnet {
    let config: SdUnetConfig = Case::part(name, "unet").config();
    let motion_config: MotionConfig = Case::part(name, "motion").config();
    assert_eq!(config.unsupported(), None);
    assert_eq!(config.unsupported_motion(&motion_config), None);
    let [weights, further] = [unet, motion].map(|source| Weights::new(source, &device()));
    let network = SdUnet::with_motion(&weights, &config, &further, &motion_config);
    weights.finish().unwrap();
    further.finish().unwrap();
    network
}

fn motion_unet(name: &str) -> SdUnet {
    unet_of(&Case::part(name, "unet").checkpoint(), &Case::part(name, "motion").checkpoint(), name)
}

fn predicted(case: &Case, network: &SdUnet, attachments: &Attachments) -> Tensor<4> {
    let (times, text) = (case.values("timestep"), case.tensor("encoder_hidden_states"));
    network.forward(case.tensor("sample"), &times, text, attachments)
}

#[test]
fn motion_unet_forward() {
    for (name, frames) in [("motion_unet_a", 12), ("motion_unet_b", 13)] {
        let case = Case::open(name);
        let network = motion_unet(name);
        assert_eq!(network.max_frames(), Some(frames));
        case.check("output", predicted(&case, &network, &Attachments::none()), FORWARD);
    }
}

#[test]
fn motion_unet_block_by_block() {
    let case = Case::open("motion_unet_a");
    let network = motion_unet("motion_unet_a");
    let none = Attachments::none();
    let conditions =
        network.conditions(&case.values("timestep"), case.tensor("encoder_hidden_states"), 9, &none);
    let mut state = network.begin(case.tensor("sample"), &none);
    let mut most = 0;
    for index in 0..network.depth() {
        most = most.max(state.skips.len());
        state = network.block(index, state, &conditions, &none);
    }
    // What each level leaves, its half, and the first convolution; all of it is met again.
    assert_eq!((network.depth(), most, state.skips.len()), (2 + 1 + 4, 4, 0));
    let whole = values(predicted(&case, &network, &none));
    assert_eq!(values(network.end(state, &none)), whole);
}

#[test]
fn frames_of_one_are_pictures() {
    // A UNet without motion modules takes the frames of a video for pictures.
    let case = Case::open("motion_unet_a");
    let config: SdUnetConfig = Case::part("motion_unet_a", "unet").config();
    let network = build(&Case::part("motion_unet_a", "unet").checkpoint(), |w| SdUnet::new(w, &config));
    assert_eq!(network.max_frames(), None);
    let together = predicted(&case, &network, &Attachments::none());
    let (times, text) = (case.values("timestep"), case.tensor::<3>("encoder_hidden_states"));
    let each = |values: Vec<f32>| -> Vec<f32> {
        values.into_iter().flat_map(|value| std::iter::repeat_n(value, 9)).collect()
    };
    let [samples, words, channels] = text.dims();
    let text = text.reshape([samples, 1, words, channels]).expand([samples, 9, words, channels]);
    let text = text.reshape([samples * 9, words, channels]);
    let apart = network.forward(case.tensor("sample"), &each(times), text, &Attachments::none());
    assert!(relative_error(&values(together), &values(apart)) < 1e-6);
}

#[test]
fn motion_unet_gradients() {
    let case = Case::open("motion_unet_a");
    let mut parameters = Case::part("motion_unet_a", "unet").parameters();
    let motion = Case::part("motion_unet_a", "motion").parameters();
    let leaves = [parameters.leaves(), motion.leaves()];
    let network = unet_of(&leaves[0], &leaves[1], "motion_unet_a");
    let latents = case.tensor::<4>("sample").autodiff().require_grad();
    let text = case.tensor::<3>("encoder_hidden_states").autodiff().require_grad();
    let times = case.values("timestep");
    let output = network.forward(latents.clone(), &times, text.clone(), &Attachments::none());
    let mut found = (output * case.tensor::<4>("cotangent").autodiff()).sum().backward();
    case.check("grad_sample", latents.grad(&found).unwrap(), GRADIENT);
    case.check("grad_encoder_hidden_states", text.grad(&found).unwrap(), GRADIENT);
    let mut gradients = NamedGradients::new();
    leaves.iter().for_each(|own| own.collect(&mut found, &mut gradients));
    case.check_gradients("grad.", &gradients, "", GRADIENT);
    parameters.extend(motion);
    assert_complete(&case, "grad.", &parameters, &gradients);
}

#[test]
fn residuals_of_maps_and_convolutions() {
    let case = Case::open("motion_unet_a");
    let network = motion_unet("motion_unet_a");
    check_residuals_and_gradients(&case, |attachments| predicted(&case, &network, attachments));
}

#[test]
fn a_unet_notes_its_convolutions_and_its_motion() {
    let config: SdUnetConfig = Case::part("motion_unet_a", "unet").config();
    let motion: MotionConfig = Case::part("motion_unet_a", "motion").config();
    let sites = Probe::sites(&device(), |w| SdUnet::with_motion(w, &config, w, &motion));
    let halved = sites.maps["down_blocks.0.downsamplers.0.conv"];
    assert_eq!((halved.shape, halved.kernel, halved.role), ([4, 4 * 9], Some([1, 3, 3]), Role::Other));
    // What peft wraps, is there as it has it.
    for (name, _, shape) in Case::open("motion_unet_a").all("lora.") {
        let (site, part) = name.rsplit_once('.').unwrap();
        let own = sites.maps[site].shape;
        assert_eq!(shape, if part == "down" { vec![2, own[1]] } else { vec![own[0], 2] }, "{name}");
    }
    let temporal: Vec<&str> = sites.attentions(Role::TemporalAttention).collect();
    assert_eq!(temporal.len(), 2 * (2 + 1 + 4));
    assert_eq!(temporal[0], "down_blocks.0.motion_modules.0.transformer_blocks.0.attn1");
    assert_eq!(temporal[4], "mid_block.motion_modules.0.transformer_blocks.0.attn1");
    let states: Vec<&str> = sites.states(Role::Other).map(|state| state.path.as_str()).collect();
    let expected = [
        "conv_in",
        "down_blocks.0.resnets.0",
        "down_blocks.0.downsamplers.0",
        "down_blocks.1.resnets.0",
        "mid_block",
    ];
    assert_eq!(states[..5], expected);
}

/// What the residuals of a ControlNet are multiplied by.
#[derive(serde::Deserialize)]
struct Weight {
    weight: f32,
}

/// As the oracle has it, `(pictures, channels, rows, columns)`.
fn in_planes(residual: &Tensor<3>, [rows, columns]: [usize; 2]) -> Tensor<4> {
    let [pictures, _, channels] = residual.dims();
    residual.clone().swap_dims(1, 2).reshape([pictures, channels, rows, columns])
}

fn check_residuals(case: &Case, name: &str, found: &Residuals) {
    for (index, (_, residual)) in found.iter().enumerate() {
        let key = format!("{name}.{index}");
        let shape = case.tensor::<4>(&key).dims();
        case.check(&key, in_planes(residual, [shape[2], shape[3]]), FORWARD);
    }
}

#[test]
fn controlnet_forward_and_what_the_unet_makes_of_it() {
    let case = Case::open("motion_unet_a");
    let source = Case::part("motion_unet_a", "controlnet");
    let config: ControlNetConfig = source.config();
    let unet: SdUnetConfig = Case::part("motion_unet_a", "unet").config();
    assert_eq!((config.unsupported(), config.unsupported_by(&unet)), (None, None));
    assert_eq!(config.factor(), 2);
    let run = |config: &ControlNetConfig| {
        let network = build(&source.checkpoint(), |w| ControlNet::new(w, config));
        let (times, text) = (case.values("timestep"), case.tensor("encoder_hidden_states"));
        let none = Attachments::none();
        network.forward(case.tensor("sample"), case.tensor("pictures"), &times, text, &none)
    };
    let found = run(&config);
    let sites: Vec<&str> = found.iter().map(|(site, _)| site).collect();
    let expected = [
        "conv_in",
        "down_blocks.0.resnets.0",
        "down_blocks.0.downsamplers.0",
        "down_blocks.1.resnets.0",
        "mid_block",
    ];
    assert_eq!(sites, expected);
    check_residuals(&case, "residual", &found);
    check_residuals(&case, "guess", &found.clone().guessing());
    let pooled = run(&ControlNetConfig { global_pool_conditions: true, ..config.clone() });
    check_residuals(&case, "pooled", &pooled);
    check_residuals(&case, "pooled", &pooled.clone().guessing());
    let reversed =
        run(&ControlNetConfig { controlnet_conditioning_channel_order: "bgr".to_owned(), ..config.clone() });
    let (_, middle) = reversed.iter().last().unwrap();
    case.check("bgr", in_planes(middle, [3, 4]), FORWARD);

    let network = motion_unet("motion_unet_a");
    let weight = case.json::<Weight>("case.json").weight;
    let attachments = found.attachments(weight, Window { start: 0.25, end: 0.5 });
    case.check("controlled", predicted(&case, &network, &attachments.at(0.25)), FORWARD);
    case.check("output", predicted(&case, &network, &attachments.at(0.5)), FORWARD);
    // Means are added everywhere.
    predicted(&case, &network, &pooled.attachments(weight, Window::ALWAYS));
}

#[test]
fn controlnet_gradients() {
    let case = Case::open("motion_unet_a");
    let source = Case::part("motion_unet_a", "controlnet");
    let config: ControlNetConfig = source.config();
    let parameters = source.parameters();
    let leaves = parameters.leaves();
    let control = build(&leaves, |w| ControlNet::new(w, &config));
    let (times, text) = (case.values("timestep"), case.tensor("encoder_hidden_states"));
    let none = Attachments::none();
    let found = control.forward(case.tensor("sample"), case.tensor("pictures"), &times, text, &none);
    let attachments = found.attachments(case.json::<Weight>("case.json").weight, Window::ALWAYS);
    let output = predicted(&case, &motion_unet("motion_unet_a"), &attachments);
    let mut found = (output * case.tensor::<4>("cotangent").autodiff()).sum().backward();
    let mut gradients = NamedGradients::new();
    leaves.collect(&mut found, &mut gradients);
    case.check_gradients("control_grad.", &gradients, "", GRADIENT);
    assert_complete(&case, "control_grad.", &parameters, &gradients);
}

/// How many million numbers a network has that `build` builds.
fn millions<N>(build: impl FnOnce(&Weights) -> N) -> f64 {
    let shapes = Probe::shapes(&device(), build);
    shapes.values().map(|shape| shape.iter().product::<usize>()).sum::<usize>() as f64 / 1e6
}

fn read<C: serde::de::DeserializeOwned>(json: &str) -> C {
    serde_json::from_str(json).unwrap()
}

#[test]
fn at_the_published_widths_they_have_the_published_sizes() {
    let unet: SdUnetConfig = read(r#"{"cross_attention_dim": 768}"#);
    let denoiser = millions(|w| SdUnet::new(w, &unet));
    assert_eq!(format!("{denoiser:.3}"), "859.521");
    // The first release, its second, and the third, which is like the second.
    for (json, size, modules) in [
        (r#"{"use_motion_mid_block": false, "motion_max_seq_length": 24}"#, 417, 20),
        (r#"{"motion_layers_per_block": 2, "motion_num_attention_heads": 8}"#, 453, 21),
    ] {
        let motion: MotionConfig = read(json);
        assert_eq!(unet.unsupported_motion(&motion), None);
        let whole = millions(|w| SdUnet::with_motion(w, &unet, w, &motion));
        assert_eq!((whole - denoiser) as usize, size);
        let sites = Probe::sites(&device(), |w| SdUnet::with_motion(w, &unet, w, &motion));
        assert_eq!(sites.attentions(Role::TemporalAttention).count(), 2 * modules);
    }
    let control: ControlNetConfig = read(r#"{"cross_attention_dim": 768, "only_cross_attention": false}"#);
    assert_eq!(format!("{:.3}", millions(|w| ControlNet::new(w, &control))), "361.279");
    let autoencoder: SdVaeConfig = read(
        r#"{"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "down_block_types":
        ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"], "up_block_types":
        ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"]}"#,
    );
    assert_eq!((autoencoder.unsupported(), autoencoder.spatial_factor()), (None, 8));
    assert_eq!(format!("{:.3}", millions(|w| SdVae::new(w, &autoencoder))), "83.654");
    let text: ClipTextConfig = read(
        r#"{"architectures": ["CLIPTextModel"], "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 77, "hidden_act":
        "quick_gelu", "layer_norm_eps": 1e-05, "eos_token_id": 2, "projection_dim": 768}"#,
    );
    assert_eq!(format!("{:.3}", millions(|w| ClipText::new(w, &text))), "123.060");
}
