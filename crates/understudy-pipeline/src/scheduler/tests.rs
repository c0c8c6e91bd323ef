use std::convert::Infallible;

use burn::tensor::Device;
use serde_json::json;

use super::*;

fn read(config: Value) -> Result<Scheduler> {
    Scheduler::from_config(config.as_object().unwrap(), "scheduler_config.json")
}

/// Stable Diffusion 1.5's, as published.
fn stable_diffusion() -> Value {
    json!({
        "_class_name": "PNDMScheduler", "beta_start": 0.00085, "beta_end": 0.012,
        "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "set_alpha_to_one": false,
        "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null, "clip_sample": false,
    })
}

fn flows() -> [Scheduler; 3] {
    [Sampler::Euler, Sampler::UniPc, Sampler::DpmPlusPlus].map(|sampler| Scheduler::flow(sampler, 3.5))
}

fn diffusions() -> Vec<Scheduler> {
    let base = read(stable_diffusion()).unwrap();
    let fitting = Sampler::ALL.into_iter().filter(|sampler| sampler.is_for_diffusion());
    fitting.map(|sampler| base.with(Some(sampler), None).unwrap()).collect()
}

#[test]
fn what_is_written_is_read_back() {
    for scheduler in flows().into_iter().chain(diffusions()) {
        assert_eq!(read(scheduler.to_config()).unwrap(), scheduler);
    }
}

#[test]
fn other_mathematics_is_an_error_that_names_the_field() {
    let with = |base: &Value, name: &str, value: Value| {
        let mut config = base.clone();
        config[name] = value;
        read(config).unwrap_err().to_string()
    };
    let flow = Scheduler::flow(Sampler::UniPc, 3.0).to_config();
    assert!(with(&flow, "_class_name", json!("HeunDiscreteScheduler")).contains("_class_name: \"Heun"));
    assert!(with(&flow, "solver_order", json!(3)).contains("solver_order: 3 is not supported, only 2"));
    assert!(with(&flow, "prediction_type", json!("epsilon")).contains("prediction_type: must be"));
    assert!(with(&flow, "flow_shift", json!(-1.0)).contains("flow_shift: must be a positive number"));
    assert!(read(json!({"_class_name": "UniPCMultistepScheduler"})).is_err());

    let base = stable_diffusion();
    assert!(with(&base, "beta_schedule", json!("sigmoid")).contains("beta_schedule: \"sigmoid\" is not"));
    assert!(with(&base, "prediction_type", json!("sample")).contains("only epsilon, v_prediction"));
    assert!(with(&base, "beta_end", json!(7)).contains("beta_end: must be a number from 0 to 1"));
    assert!(with(&base, "steps_offset", json!(-1)).contains("steps_offset: must be a whole number"));
    assert!(with(&base, "trained_betas", json!([0.1])).contains("trained_betas: has 1 numbers, not 1000"));
    let dpm = json!({"_class_name": "DPMSolverMultistepScheduler"});
    assert!(with(&dpm, "algorithm_type", json!("dpmsolver")).contains("algorithm_type: \"dpmsolver\""));
    assert!(with(&dpm, "thresholding", json!(true)).contains("thresholding: true is not supported"));
    assert!(with(&dpm, "use_beta_sigmas", json!(true)).contains("use_beta_sigmas: true"));
    let file = Scheduler::flow_from_config(base.as_object().unwrap(), "a.json").unwrap_err().to_string();
    assert!(file.contains("_class_name: \"PNDMScheduler\" is not supported; use a FlowMatch"), "{file}");
}

#[test]
fn samplers_are_for_flows_or_for_diffusion() {
    let flow = Scheduler::flow(Sampler::UniPc, 3.0);
    let diffusion = read(stable_diffusion()).unwrap();
    let refused = |own: &Scheduler, sampler, shift| own.with(sampler, shift).unwrap_err().to_string();
    let message = refused(&flow, Some(Sampler::Ddim), None);
    assert!(message.ends_with("this base matches flows; use one of euler, unipc, dpm++"), "{message}");
    let message = refused(&diffusion, Some(Sampler::UniPc), None);
    assert!(message.contains("this base is of diffusion; use one of euler, dpm++, ddim, lcm"), "{message}");
    assert!(refused(&diffusion, None, Some(2.0)).starts_with("shift is for bases that match flows"));
    assert_eq!(flow.with(Some(Sampler::Euler), Some(2.0)).unwrap(), Scheduler::flow(Sampler::Euler, 2.0));
    assert_eq!(diffusion.with(None, None).unwrap(), diffusion);

    let data = Scheduler::from_config(
        json!({"_class_name": "DDIMScheduler", "prediction_type": "sample"}).as_object().unwrap(),
        "a.json",
    );
    let message = refused(&data.unwrap(), Some(Sampler::Pndm), None);
    assert!(message.contains("pndm does not go with this base: prediction_type"), "{message}");
}

/// If the data is the same wherever one looks, every sampler ends there.
#[test]
fn constant_data_is_reached() {
    let device = Device::flex();
    for scheduler in flows().into_iter().chain(diffusions()) {
        // In one step those of diffusion may begin next to data, where noise alone does not belong.
        for steps in if scheduler.shift().is_some() { [1, 2, 7] } else { [2, 7, 20] } {
            let schedule = scheduler.schedule(steps).unwrap();
            let noise = Tensor::<1>::from_floats([0.3, -2.0, 1.0], &device);
            let data = Tensor::<1>::from_floats([1.0, 0.5, -0.25], &device);
            let same = |_: usize, _: &Tensor<1>| Ok::<_, Infallible>(data.clone());
            let mut fresh = |_| Tensor::<1>::from_floats([0.2, 1.0, -1.0], &device);
            let reached = scheduler.sample(noise, &schedule, same, &mut fresh).unwrap();
            let far = (reached - data.clone()).abs().max().into_scalar::<f32>();
            // Stable Diffusion's own ends with as much noise as its first timestep has.
            let most = 1e-5 + 4.0 * schedule.sigmas()[schedule.steps()];
            assert!(far < most, "{} with {steps} steps: {far}", scheduler.sampler());
        }
    }
}

#[test]
fn only_those_with_noise_of_their_own_ask_for_it_and_not_at_the_end() {
    let device = Device::flex();
    for scheduler in flows().into_iter().chain(diffusions()) {
        let schedule = scheduler.schedule(5).unwrap();
        let mut asked = Vec::new();
        let mut fresh = |step| {
            asked.push(step);
            Tensor::<1>::zeros([2], &device)
        };
        let denoised = |_: usize, x: &Tensor<1>| Ok::<_, Infallible>(x.clone() * 0.5);
        let _ = scheduler.sample(Tensor::<1>::ones([2], &device), &schedule, denoised, &mut fresh).unwrap();
        let draws =
            [Sampler::Lcm, Sampler::EulerAncestral, Sampler::DpmPlusPlusSde].contains(&scheduler.sampler());
        let expected: Vec<usize> = if draws { (0..4).collect() } else { Vec::new() };
        assert_eq!(asked, expected, "{}", scheduler.sampler());
    }
}

#[test]
fn impossible_numbers_of_steps_are_errors() {
    let message = |config: Value, steps| read(config).unwrap().schedule(steps).unwrap_err().to_string();
    let lcm = json!({"_class_name": "LCMScheduler"});
    assert_eq!(message(lcm, 51), "steps must be at most 50, as many as the base was distilled from");
    let pndm = json!({"_class_name": "PNDMScheduler"});
    assert!(message(pndm, 3).starts_with("steps must be at least 4"));
    let ddim = json!({"_class_name": "DDIMScheduler", "num_train_timesteps": 100});
    assert!(message(ddim, 101).starts_with("steps must be at most 100"));
    assert!(message(stable_diffusion(), 1000).starts_with("steps are too many for this scheduler"));
    let dpm = json!({"_class_name": "DPMSolverMultistepScheduler", "timestep_spacing": "leading"});
    assert!(message(dpm, 1000).contains("some would change nothing"));
}
