//! AnimateDiff on Stable Diffusion 1.5 against diffusers: whole runs on tiny bases.
#![allow(clippy::unwrap_used)]

mod common;

use burn::tensor::Tensor;
use common::{Case, check, device, folder, go, values};
use understudy_pipeline::{Animated, Base, PromptOptions, Request, Sampler, Source, encode_prompt, generate};

fn animated(name: &str) -> Source {
    Source::Animated(Animated { pictures: folder(name), ..Animated::default() })
}

/// The case's call.
fn request(case: &Case) -> Request {
    let call = case.object("call");
    let text = |name: &str| call.get(name).and_then(|own| own.as_str()).unwrap_or_default().to_owned();
    let number = |name: &str| call.get(name).and_then(|own| own.as_u64()).unwrap_or(0) as usize;
    Request {
        negative_prompt: text("negative_prompt"),
        frames: number("num_frames"),
        height: number("height"),
        width: number("width"),
        clip_skip: number("clip_skip"),
        steps: 8,
        guidance: 4.0,
        initial_noise: Some(case.tensor("latents")),
        ..Request::new(text("prompt"))
    }
}

fn open(name: &str) -> (Case, Base, Request) {
    let (case, base) = (Case::open(name), animated(name).load(&device()).unwrap());
    let request = request(&case);
    (case, base, request)
}

/// `(batch, 3, frames, height, width)` of one video as `(frames, height, width, 3)`.
fn channels_last(frames: Tensor<5>) -> Vec<f32> {
    values(frames.permute([0, 2, 3, 4, 1]))
}

fn whole(name: &str) {
    let (case, base, request) = open(name);
    let options = PromptOptions { skip: request.clip_skip, ..PromptOptions::default() };
    for (text, expected) in [(&request.prompts[0], "positive"), (&request.negative_prompt, "negative")] {
        let found = encode_prompt(&base, &[text], options).unwrap();
        check(expected, &values(found.words), &case.values(expected), 1e-4);
    }
    let output = generate(&base, &request, &mut go).unwrap();
    check("latents_out", &values(output.latents), &case.values("latents_out"), 1e-3);
    check("frames", &channels_last(output.frames), &case.values("frames"), 1e-3);
}

#[test]
fn a_published_layout_with_a_motion_module_in_the_middle() {
    whole("animatediff_a");
}

#[test]
fn nothing_in_the_middle_and_a_layer_of_the_text_encoder_skipped() {
    whole("animatediff_b");
}

#[test]
fn latent_consistency_with_the_noise_that_was_drawn() {
    for name in ["animatediff_a", "animatediff_b"] {
        let (case, base, request) = open(name);
        let noise = (0..3).map(|step| (step, case.tensor(&format!("lcm.step_noise.{step}"))));
        let sampler = Some(Sampler::Lcm);
        let request = Request { steps: 4, guidance: 1.5, sampler, step_noise: noise.collect(), ..request };
        let output = generate(&base, &request, &mut go).unwrap();
        check("lcm", &values(output.latents), &case.values("lcm.latents_out"), 1e-3);
    }
}

#[test]
fn other_samplers_of_the_same_base() {
    let (case, base, request) = open("animatediff_a");
    let samplers = [Sampler::Ddim, Sampler::Euler, Sampler::DpmPlusPlus, Sampler::Pndm]
        .map(|sampler| (sampler, sampler.name()));
    for (sampler, name) in samplers {
        let name = if name == "dpm++" { "dpm++2m" } else { name };
        let request = Request { steps: 7, sampler: Some(sampler), ..request.clone() };
        let output = generate(&base, &request, &mut go).unwrap();
        check(name, &values(output.latents), &case.values(&format!("{name}.latents_out")), 1e-3);
    }
}
