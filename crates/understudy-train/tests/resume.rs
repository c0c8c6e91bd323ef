//! A run that was stopped and resumed is the run that was never stopped, bit for bit.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use understudy_engine::ops;
use understudy_engine::parameters::{NamedGradients, Parameters};
use understudy_engine::random::Random;
use understudy_train::{Event, Objective, Schedule, State, StepResult, TrainConfig, TrainError, train};

/// Fits a two-layer map to noise.
struct Toy;

impl Objective for Toy {
    type Batch = Vec<f32>;

    fn name(&self) -> String {
        "toy".into()
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        let mut parameters = Parameters::new();
        for (name, shape) in [("in", [16, 8]), ("out", [4, 16])] {
            let values = Random::stream(1, name, 0).normals(shape[0] * shape[1]);
            parameters.insert(name, &shape, values, device);
        }
        Ok(parameters)
    }

    fn batch(&self, step: u64) -> Result<Vec<f32>, TrainError> {
        Ok(Random::stream(2, "batch", step).normals(8 * 8))
    }

    fn step(&self, parameters: &Parameters, batch: Vec<f32>, _: u64) -> Result<StepResult, TrainError> {
        let leaves = parameters.leaves();
        let x = Tensor::<1>::from_floats(batch.as_slice(), &Device::flex()).reshape([8, 8]);
        let hidden = ops::gelu_tanh(ops::linear(x.clone(), leaves.tensor("in", [16, 8]).unwrap(), None));
        let y = ops::linear(hidden, leaves.tensor("out", [4, 16]).unwrap(), None);
        let loss = (y - x.narrow(1, 0, 4)).powi_scalar(2).mean();
        let mut gradients = NamedGradients::new();
        leaves.collect(&mut loss.backward(), &mut gradients);
        let loss = loss.without_autodiff().into_scalar();
        Ok(StepResult { loss, gradients, buffers: Vec::new(), metrics: Vec::new() })
    }

    fn sample(&self, _: &Parameters, _: u64, _: &Path) -> Result<Option<PathBuf>, TrainError> {
        Ok(None)
    }
}

fn config() -> TrainConfig {
    TrainConfig {
        steps: 12,
        schedule: Schedule { learning_rate: 1e-2, warmup: 3, end: 0.1 },
        optimizer: Default::default(),
        ema_decay: 0.9,
        checkpoint_every: 5,
        sample_every: 0,
        bf16_products: false,
    }
}

/// Everything the state holds, as bytes.
fn fingerprint(state: &State) -> Vec<(String, Vec<u32>)> {
    let groups = [state.parameters.clone(), state.ema.clone()].into_iter().chain(state.optimizer.moments());
    groups
        .flat_map(|group| group.to_named_values())
        .map(|t| (t.name, t.values.iter().map(|v| v.to_bits()).collect()))
        .collect()
}

#[test]
fn resuming_is_exact_from_a_stop_and_from_a_crash() {
    let device = Device::flex();
    let folder = tempfile::tempdir().unwrap();
    let never_stopped =
        train(&Toy, &config(), &folder.path().join("a"), &device, &mut |_| ControlFlow::Continue(()))
            .unwrap();
    assert_eq!(never_stopped.step, 12);

    // Stopped by the listener: the state is written after the step.
    let stopped = folder.path().join("b");
    let mut stop = |event: &Event| match event {
        Event::Step { step: 7, .. } => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    };
    assert_eq!(train(&Toy, &config(), &stopped, &device, &mut stop).unwrap().step, 7);
    let resumed = train(&Toy, &config(), &stopped, &device, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(fingerprint(&never_stopped), fingerprint(&resumed));

    // Killed after step 8: what is left is the checkpoint of step 5.
    let killed = folder.path().join("c");
    let mut copied = false;
    let mut crash = |event: &Event| {
        if let Event::Checkpoint { step: 5, path } = event {
            let to = folder.path().join("d");
            std::fs::create_dir_all(&to).unwrap();
            std::fs::copy(path, to.join("state.safetensors")).unwrap();
            copied = true;
        }
        ControlFlow::Continue(())
    };
    train(&Toy, &config(), &killed, &device, &mut crash).unwrap();
    assert!(copied);
    let resumed =
        train(&Toy, &config(), &folder.path().join("d"), &device, &mut |_| ControlFlow::Continue(()))
            .unwrap();
    assert_eq!(fingerprint(&never_stopped), fingerprint(&resumed));
}

#[test]
fn a_damaged_state_is_an_error_not_a_fresh_start() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state.safetensors"), b"not a state").unwrap();
    let result = train(&Toy, &config(), folder.path(), &Device::flex(), &mut |_| ControlFlow::Continue(()));
    assert!(result.is_err_and(|error| error.to_string().contains("state.safetensors")));
}
