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

/// Runs to the end, and gives the state and what was noted.
fn finished(objective: &impl Objective, config: &TrainConfig, folder: &Path) -> (State, Vec<String>) {
    let mut notes = Vec::new();
    let mut emit = |event: &Event| {
        if let Event::Note { message } = event {
            notes.push(message.clone());
        }
        ControlFlow::Continue(())
    };
    let state = train(objective, config, folder, &Device::flex(), &mut emit).unwrap();
    (state, notes)
}

#[test]
fn damaged_states_are_told_and_their_steps_taken_again() {
    let folder = tempfile::tempdir().unwrap();
    let (expected, notes) = finished(&Toy, &config(), folder.path());
    assert!(notes.is_empty());
    let [newest, before] =
        ["state.safetensors", "state.before.safetensors"].map(|name| folder.path().join(name));
    let damage = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let again = |notes: &[&str]| {
        let (state, told) = finished(&Toy, &config(), folder.path());
        assert_eq!(told.len(), notes.len(), "{told:?}");
        assert!(told.iter().zip(notes).all(|(told, note)| told.contains(note)), "{told:?}");
        assert_eq!(fingerprint(&expected), fingerprint(&state));
    };
    damage(&newest);
    again(&["going on from step 10"]);
    again(&[]);
    std::fs::write(&newest, b"not a state").unwrap();
    damage(&before);
    again(&["state.safetensors is damaged; going on from step 0", "state.before.safetensors is damaged"]);
    // Killed between the two names of a new state.
    std::fs::rename(&newest, folder.path().join("state.next.safetensors")).unwrap();
    again(&[]);
    std::fs::rename(&newest, &before).unwrap();
    again(&[]);
}

/// The same with samples, the first of which cannot be written.
struct Sampled(std::sync::Mutex<Vec<u64>>);

impl Objective for Sampled {
    type Batch = Vec<f32>;

    fn name(&self) -> String {
        Toy.name()
    }

    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError> {
        Toy.initialize(device)
    }

    fn batch(&self, step: u64) -> Result<Vec<f32>, TrainError> {
        Toy.batch(step)
    }

    fn step(&self, parameters: &Parameters, batch: Vec<f32>, step: u64) -> Result<StepResult, TrainError> {
        Toy.step(parameters, batch, step)
    }

    fn sample(&self, _: &Parameters, step: u64, _: &Path) -> Result<Option<PathBuf>, TrainError> {
        let mut made = self.0.lock().unwrap();
        made.push(step);
        if made.len() == 1 { Err(TrainError::Other("the disk is full".to_owned())) } else { Ok(None) }
    }
}

#[test]
fn samples_that_failed_are_made_when_the_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let objective = Sampled(std::sync::Mutex::default());
    let config = TrainConfig { sample_every: 7, ..config() };
    let failed =
        train(&objective, &config, folder.path(), &Device::flex(), &mut |_| ControlFlow::Continue(()));
    assert!(failed.is_err_and(|error| error.to_string().contains("full")));
    let mut from = None;
    let mut listen = |event: &Event| {
        if let Event::Plan { from: step, .. } = event {
            from = Some(*step);
        }
        ControlFlow::Continue(())
    };
    let state = train(&objective, &config, folder.path(), &Device::flex(), &mut listen).unwrap();
    // No step was lost with the sample.
    assert_eq!((from, objective.0.into_inner().unwrap()), (Some(7), vec![7, 7, 12]));
    let whole = tempfile::tempdir().unwrap();
    assert_eq!(fingerprint(&finished(&Toy, &config, whole.path()).0), fingerprint(&state));
}
