//! Samplers of diffusion against diffusers: whole runs with a stand-in for a denoiser.
#![allow(clippy::unwrap_used)]

mod common;

use std::convert::Infallible;

use burn::tensor::Tensor;
use common::{Case, error, values};
use serde_json::{Map, Value, json};
use understudy_pipeline::{Noise, Sampler, Schedule, Scheduler};

/// The other samplers' names, as the cases say them.
const OTHERS: [&str; 6] = ["ddim", "lcm", "euler", "euler-a", "dpm++2m", "pndm"];

/// What the denoiser is shown at every step, and the result.
fn trajectory(scheduler: &Scheduler, schedule: &Schedule, case: &Case) -> Vec<f32> {
    let noise = scheduler.noise();
    let step_noise = case.tensor::<3>("step_noise");
    let mut seen = Vec::new();
    let denoised = |step: usize, x: &Tensor<5>| {
        seen.extend(values(x.clone()));
        let level = schedule.level(step);
        let t = f64::from(level.timestep);
        let waves = [f64::from((t / 700.0) as f32).cos(), f64::from((t / 100.0) as f32).sin()];
        let prediction = x.clone() * (0.6 * waves[0]) as f32 + (0.3 * waves[1]) as f32;
        Ok::<_, Infallible>(noise.data(x, prediction, level))
    };
    let start = case.tensor::<2>("start").reshape([1, 1, 1, 2, 4]);
    let mut fresh = |step: usize| step_noise.clone().narrow(0, step, 1).reshape([1, 1, 1, 2, 4]);
    let last = scheduler.sample(start, schedule, denoised, &mut fresh).unwrap();
    seen.extend(values(last));
    seen
}

/// How far a run is from the recorded one, whose timesteps are the same.
fn deviation(scheduler: &Scheduler, steps: usize, key: &str, case: &Case) -> f64 {
    let schedule = scheduler.schedule(steps).unwrap();
    let (found, name) = (schedule.timesteps(), format!("{key}.timesteps"));
    if matches!(scheduler.sampler(), Sampler::Euler | Sampler::EulerAncestral) {
        let far = error(&found, &case.values(&name));
        // Karras' are read off logarithms, whose last digits differ.
        let most = if key.contains("karras") || key.contains("folder.dpm") { 1e-6 } else { 0.0 };
        assert!(far <= most, "{name}: {far:e}");
    } else {
        let whole: Vec<i64> = found.iter().map(|&t| t as i64).collect();
        assert_eq!(whole, case.integers(&name), "{name}");
    }
    error(&trajectory(scheduler, &schedule, case), &case.values(&format!("{key}.trajectory")))
}

fn config(case: &Case, fields: &Value) -> Map<String, Value> {
    let mut config = fields.as_object().unwrap().clone();
    if config.get("trained_betas").is_some_and(Value::is_string) {
        config["trained_betas"] = json!(case.values("trained_betas"));
    }
    config
}

#[test]
fn samplers_follow_diffusers() {
    let case = Case::open("diffusion_schedulers");
    let mut all = Vec::new();
    for (name, fields) in &case.object("cases") {
        let scheduler = Scheduler::from_config(&config(&case, fields), name).unwrap();
        for steps in 1..=30 {
            let key = format!("{name}.steps{steps}");
            if case.has(&format!("{key}.trajectory")) {
                all.push((deviation(&scheduler, steps, &key, &case), key));
            }
        }
    }
    assert!(all.len() > 90, "{}", all.len());
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.iter().take(8).for_each(|(far, key)| println!("{key}: {far:.1e}"));
    let faults: Vec<_> = all.iter().filter(|(far, _)| far.is_nan() || *far > 1e-4).collect();
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn another_sampler_takes_the_fields_that_it_has() {
    let case = Case::open("diffusion_schedulers");
    for (base, fields) in &case.object("folders") {
        let own = Scheduler::from_config(&config(&case, fields), base).unwrap();
        for name in OTHERS {
            let other = own.with(Some(name.parse().unwrap()), None).unwrap();
            let far = deviation(&other, 13, &format!("folder.{base}.{name}"), &case);
            assert!(far < 1e-4, "{base} by {name}: {far:e}");
        }
    }
}

#[test]
fn absent_fields_are_as_the_class_has_them() {
    let case = Case::open("diffusion_schedulers");
    for (class, fields) in &case.object("defaults") {
        let read = |mut config: Map<String, Value>| {
            config.insert("_class_name".to_owned(), json!(class));
            Scheduler::from_config(&config, class).unwrap()
        };
        let (whole, bare) = (read(config(&case, fields)), read(Map::new()));
        assert_eq!(whole.solver(), bare.solver(), "{class}");
        assert_eq!(whole.noise(), bare.noise(), "{class}");
        assert_eq!(whole.schedule(13).unwrap(), bare.schedule(13).unwrap(), "{class}");
    }
}

#[test]
fn noise_is_what_was_trained_to_the_last_digit() {
    let case = Case::open("diffusion_schedulers");
    let sd = json!({"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"});
    let zero = json!({
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "rescale_betas_zero_snr": true,
    });
    let cosine = json!({"beta_schedule": "squaredcos_cap_v2"});
    let cases =
        [("linear", json!({})), ("scaled_linear", sd), ("squaredcos_cap_v2", cosine), ("zero_snr", zero)];
    for (name, fields) in cases {
        let mut config = config(&case, &fields);
        config.insert("_class_name".to_owned(), json!("DDIMScheduler"));
        let Noise::Diffusion { alphas_cumprod, .. } = Scheduler::from_config(&config, name).unwrap().noise()
        else {
            panic!("{name}")
        };
        let found: Vec<f32> = alphas_cumprod.iter().map(|kept| *kept as f32).collect();
        let expected = case.values(&format!("alphas_cumprod.{name}"));
        let far = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // The square roots that rescaling takes are not rounded alike everywhere.
        let most = if name == "zero_snr" { 1.2e-7 } else { 0.0 };
        assert!(far <= most, "{name}: {far:e}");
    }
}
