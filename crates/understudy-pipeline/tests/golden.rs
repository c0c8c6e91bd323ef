//! Schedulers and whole pipelines against diffusers.
#![allow(clippy::unwrap_used)]

mod common;

use std::convert::Infallible;

use burn::tensor::Tensor;
use common::{Case, base, check, go, values};
use understudy_engine::attach::{Attached, Window};
use understudy_pipeline::{
    Branch, Guided, Noise, PromptOptions, Sampler, Schedule, Scheduler, encode_prompt, generate,
};

const SAMPLERS: [(&str, Sampler); 3] =
    [("euler", Sampler::Euler), ("unipc", Sampler::UniPc), ("dpm", Sampler::DpmPlusPlus)];

/// The samples after each step, with the data that `foresee` makes of a step and its sample.
fn trajectory<const D: usize>(
    scheduler: &Scheduler,
    schedule: &Schedule,
    start: Tensor<D>,
    mut foresee: impl FnMut(usize, &Tensor<D>) -> Tensor<D>,
) -> Vec<f32> {
    let mut seen = Vec::new();
    let denoised = |step: usize, x: &Tensor<D>| {
        if step > 0 {
            seen.extend(values(x.clone()));
        }
        Ok::<_, Infallible>(foresee(step, x))
    };
    let last = scheduler.sample(start, schedule, denoised, &mut |_| unreachable!("it draws no noise"));
    seen.extend(values(last.unwrap()));
    seen
}

#[test]
fn whole_published_configurations_are_read() {
    let case = Case::open("schedulers");
    for (name, sampler) in SAMPLERS {
        for shift in [1, 3, 5] {
            let mut config = case.object(&format!("{name}.shift{shift}"));
            let expected = Scheduler::flow(sampler, f64::from(shift));
            config.insert("_class_name".to_owned(), expected.to_config()["_class_name"].clone());
            assert_eq!(Scheduler::from_config(&config, name).unwrap(), expected);
        }
    }
}

#[test]
fn schedulers_follow_diffusers() {
    let case = Case::open("schedulers");
    let mut worst = 0.0_f64;
    for (name, sampler) in SAMPLERS {
        for shift in [1, 3, 5] {
            for steps in [1, 2, 4, 8, 20, 50] {
                let key = format!("{name}.shift{shift}.steps{steps}");
                let scheduler = Scheduler::flow(sampler, f64::from(shift));
                let schedule = scheduler.schedule(steps).unwrap();
                let (sigmas, timesteps) = (schedule.sigmas(), schedule.timesteps());
                let name = format!("{key}.timesteps");
                if sampler == Sampler::Euler {
                    assert_eq!(timesteps, case.values(&name), "{name}");
                } else {
                    let whole: Vec<i64> = timesteps.iter().map(|&t| t as i64).collect();
                    assert_eq!(whole, case.integers(&name), "{name}");
                }
                assert_eq!(sigmas, case.values(&format!("{key}.sigmas")), "{key}.sigmas");

                let found = trajectory(&scheduler, &schedule, case.tensor::<3>("start"), |step, x| {
                    let t = f64::from(timesteps[step]);
                    let velocity =
                        x.clone() * (0.3 * (t / 500.0).cos()) as f32 + (0.1 * (t / 100.0).sin()) as f32;
                    x.clone() - velocity * sigmas[step]
                });
                let expected = case.values(&format!("{key}.trajectory"));
                let error = common::error(&found, &expected);
                assert!(error < 1e-5, "{key}: {error:e}");
                worst = worst.max(error);
            }
        }
    }
    println!("worst trajectory: {worst:.2e}");
}

/// `(batch, 3, frames, height, width)` of one video as `(frames, height, width, 3)`.
fn channels_last(frames: Tensor<5>) -> Vec<f32> {
    values(frames.permute([0, 2, 3, 4, 1]))
}

fn pipeline(name: &str, sampler: Option<Sampler>, prefix: &str) {
    let (case, base) = (Case::open(name), base(name));
    let mut request = case.request();
    request.sampler = sampler;

    let options = PromptOptions { max_sequence_length: request.max_sequence_length, ..Default::default() };
    let text = encode_prompt(&base, &[&request.prompts[0]], options).unwrap();
    let negative = encode_prompt(&base, &[&request.negative_prompt], options).unwrap();
    check("prompt_embeds", &values(text.words.clone()), &case.values("prompt_embeds"), 1e-4);
    check(
        "negative_prompt_embeds",
        &values(negative.words.clone()),
        &case.values("negative_prompt_embeds"),
        1e-4,
    );

    let scheduler = request.scheduler(&base.about).unwrap();
    let schedule = scheduler.schedule(request.steps).unwrap();
    let attached = &Attached::none();
    let branches = vec![
        Branch { texts: text, attached, weight: request.guidance },
        Branch { texts: negative, attached, weight: 1.0 - request.guidance },
    ];
    let mut guided = Guided::new(base.networks.denoiser.as_ref(), branches, 1, Window::ALWAYS, None);
    let noise = case.tensor::<5>("latents_in");
    let steps = trajectory(&scheduler, &schedule, noise, |step, x| {
        let level = schedule.level(step);
        let prediction = guided.predict(x, level.timestep, [step, request.steps]);
        Noise::Flow.data(x, prediction, level)
    });
    let expected = |what: &str| case.values(&format!("{prefix}{what}"));
    check("latents_steps", &steps, &expected("latents_steps"), 1e-3);

    let output = generate(&base, &request, &mut go).unwrap();
    check("latents_out", &values(output.latents.clone()), &expected("latents_out"), 1e-3);
    check("frames", &channels_last(output.frames.clone()), &expected("frames"), 1e-3);
    assert_eq!(values(base.networks.vae.decode(output.latents, None)), values(output.frames));
}

#[test]
fn pipeline_a_with_unipc() {
    pipeline("wan_pipeline_a", None, "");
}

#[test]
fn pipeline_a_with_euler() {
    pipeline("wan_pipeline_a", Some(Sampler::Euler), "euler.");
}

#[test]
fn pipeline_b_sharded_with_a_prompt_to_clean() {
    pipeline("wan_pipeline_b", None, "");
}

#[test]
fn pipeline_c_of_thirteen_latent_frames_in_three_shards() {
    pipeline("wan_pipeline_c", None, "");
}

#[test]
fn pipeline_d_of_one_latent_frame() {
    pipeline("wan_pipeline_d", None, "");
}

#[test]
fn tokens_are_the_published_tokenizers() {
    for name in ["wan_pipeline_a", "wan_pipeline_b"] {
        let (case, base) = (Case::open(name), base(name));
        let request = case.request();
        let limit = request.max_sequence_length.unwrap();
        let prompts = [request.prompts[0].as_str(), request.negative_prompt.as_str()];
        let tokens = base.networks.text.tokenizer().encode(&prompts, limit).unwrap();
        let ids: Vec<i64> = tokens.ids.iter().flatten().map(|&id| i64::from(id)).collect();
        assert_eq!(ids, case.integers("input_ids"));
        let mask = case.integers("attention_mask");
        let lengths: Vec<usize> = mask.chunks(limit).map(|row| row.iter().sum::<i64>() as usize).collect();
        assert_eq!(tokens.lengths, lengths);
    }
}
