//! The loop.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::time::Instant;

use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};
use understudy_engine::ops::Products;
use understudy_engine::optimizer::{AdamWConfig, ema_step};
use understudy_engine::parameters::{NamedGradients, Parameters};

use crate::error::TrainError;
use crate::event::Event;
use crate::schedule::Schedule;
use crate::state::State;

/// What one step gives.
pub struct StepResult {
    /// The loss.
    pub loss: f32,
    /// Gradients by parameter name.
    pub gradients: NamedGradients,
    /// New values of parameters that follow the data without a gradient (running statistics).
    pub buffers: Vec<(String, Tensor<1>)>,
    /// Anything else worth a line in the log.
    pub metrics: Vec<(String, f32)>,
}

/// Something that can be trained.
///
/// Everything random in it is a function of the seed and the step, so that a run that was stopped and resumed
/// is the run that was never stopped.
pub trait Objective: Sync {
    /// What one step needs.
    type Batch: Send;

    /// What the run is called; a state file of another name is refused.
    fn name(&self) -> String;

    /// The parameters before the first step.
    ///
    /// # Errors
    /// When something they start from cannot be read.
    fn initialize(&self, device: &Device) -> Result<Parameters, TrainError>;

    /// The batch of `step`. Runs ahead on another thread.
    ///
    /// # Errors
    /// When its data cannot be had.
    fn batch(&self, step: u64) -> Result<Self::Batch, TrainError>;

    /// Loss and gradients of `parameters` on `batch`.
    ///
    /// # Errors
    /// When they cannot be computed.
    fn step(&self, parameters: &Parameters, batch: Self::Batch, step: u64) -> Result<StepResult, TrainError>;

    /// Writes samples of the averaged parameters below `folder`; returns the picture to look at, if any.
    ///
    /// # Errors
    /// When they cannot be made or written.
    fn sample(&self, ema: &Parameters, step: u64, folder: &Path) -> Result<Option<PathBuf>, TrainError>;
}

/// Settings of a run that do not depend on what is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Steps in all.
    pub steps: u64,
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: AdamWConfig,
    /// Decay of the moving average; 0 keeps the last step.
    #[serde(default)]
    pub ema_decay: f32,
    /// Steps between saved states.
    pub checkpoint_every: u64,
    /// Steps between samples; 0 for none.
    #[serde(default)]
    pub sample_every: u64,
    /// Whether matrix products round their operands to bf16, with f32 sums, masters and gradients.
    #[serde(default)]
    pub bf16_products: bool,
}

/// The file in a run's folder that holds its state.
pub const STATE: &str = "state.safetensors";
/// The file its events are appended to, one JSON object a line.
const LOG: &str = "events.jsonl";

/// Trains `objective` in `folder`, from the state found there if any, and returns the final state.
///
/// Events go to `emit` and to the log in the folder. `emit` can stop the run, which then writes its state and
/// returns it.
///
/// # Errors
/// When data, state or samples cannot be read or written, or the loss stops being a number.
pub fn train<O: Objective>(
    objective: &O,
    config: &TrainConfig,
    folder: &Path,
    device: &Device,
    emit: &mut dyn FnMut(&Event) -> ControlFlow<()>,
) -> Result<State, TrainError> {
    let io = |action| move |error| TrainError::Io { action, path: folder.to_owned(), error };
    std::fs::create_dir_all(folder).map_err(io("create"))?;
    let _products = Products::rounded(config.bf16_products).scope();
    let name = objective.name();
    let (found, damaged) = State::load(folder, &name, config.optimizer.clone(), device)?;
    let saved = found.as_ref().map(|state| (state.step, state.sampled));
    let state = match found {
        Some(state) => state,
        None => State::new(objective.initialize(device)?, config.optimizer.clone()),
    };
    let log = open_log(&folder.join(LOG)).map_err(io("open the log in"))?;
    let mut run = Run { objective, config, folder, name, state, saved, log, emit };
    for path in damaged {
        let message = format!("{} is damaged; going on from step {}", path.display(), run.state.step);
        let _ = run.tell(Event::Note { message });
    }
    // Stopping is looked at after steps only.
    let _ = run.tell(Event::Plan {
        name: run.name.clone(),
        parameters: run.state.parameters.count(),
        from: run.state.step,
        to: config.steps,
    });
    run.steps().map(|()| run.state)
}

/// The log, ready for a new line: the last one may have been cut off.
fn open_log(path: &Path) -> std::io::Result<File> {
    let mut log = OpenOptions::new().create(true).append(true).read(true).open(path)?;
    let mut last = [b'\n'];
    if log.metadata()?.len() > 0 {
        log.seek(SeekFrom::End(-1))?;
        log.read_exact(&mut last)?;
    }
    if last != *b"\n" {
        // As with every line of it: it is a convenience.
        let _ = log.write_all(b"\n");
    }
    Ok(log)
}

struct Run<'a, O> {
    objective: &'a O,
    config: &'a TrainConfig,
    folder: &'a Path,
    name: String,
    state: State,
    /// Of the state on the disk: steps, and whether samples were made.
    saved: Option<(u64, bool)>,
    log: File,
    emit: &'a mut dyn FnMut(&Event) -> ControlFlow<()>,
}

impl<O: Objective> Run<'_, O> {
    /// All remaining steps, batches being made ahead on a thread of their own.
    fn steps(&mut self) -> Result<(), TrainError> {
        let (first, last) = (self.state.step, self.config.steps);
        let objective = self.objective;
        if !self.state.sampled {
            self.sample()?;
        }
        let products = Products::current();
        std::thread::scope(|scope| {
            let (sender, batches) = sync_channel(2);
            scope.spawn(move || {
                let _products = products.scope();
                for step in first..last {
                    let batch = objective.batch(step);
                    // The receiver is gone when the run was stopped.
                    if sender.send(batch).is_err() {
                        return;
                    }
                }
            });
            for batch in batches {
                if self.step(batch?)?.is_break() {
                    break;
                }
            }
            Ok::<(), TrainError>(())
        })?;
        if self.saved != Some((self.state.step, self.state.sampled)) {
            self.save_state()?;
        }
        let (step, path) = (self.state.step, self.folder.join(STATE));
        let _ = self.tell(Event::Done { step, path });
        Ok(())
    }

    fn step(&mut self, batch: O::Batch) -> Result<ControlFlow<()>, TrainError> {
        let started = Instant::now();
        let step = self.state.step;
        let result = self.objective.step(&self.state.parameters, batch, step)?;
        let learning_rate = self.config.schedule.rate(step, self.config.steps);
        let averaged = self.config.ema_decay > 0.0;
        if !averaged {
            // It is the parameters themselves, which would have to be copied to be moved.
            self.state.ema = Parameters::new();
        }
        let norm = self.state.optimizer.step(&mut self.state.parameters, result.gradients, |_| learning_rate);
        if !norm.is_finite() || !result.loss.is_finite() {
            return Err(TrainError::Diverged { step, loss: result.loss, norm });
        }
        for (name, value) in result.buffers {
            self.state.parameters.update(&name, value);
        }
        if averaged {
            // The average forgets the start quickly: early on it follows closely.
            let decay = self.config.ema_decay.min((1.0 + step as f32) / (10.0 + step as f32));
            ema_step(&mut self.state.ema, &self.state.parameters, decay);
        } else {
            self.state.ema = self.state.parameters.clone();
        }
        self.state.step = step + 1;
        let flow = self.tell(Event::Step {
            step: self.state.step,
            total: self.config.steps,
            loss: result.loss,
            gradient_norm: norm,
            learning_rate,
            seconds: started.elapsed().as_secs_f32(),
            metrics: result.metrics,
        });
        self.periodic()?;
        Ok(flow)
    }

    /// States and samples that are due after this step.
    fn periodic(&mut self) -> Result<(), TrainError> {
        let step = self.state.step;
        let due = |every: u64| every > 0 && step.is_multiple_of(every);
        // A run that ends while samples are made makes them when it goes on.
        self.state.sampled = !(due(self.config.sample_every) || step == self.config.steps);
        if due(self.config.checkpoint_every) {
            self.save_state()?;
        }
        if self.state.sampled { Ok(()) } else { self.sample() }
    }

    /// Makes the samples of this step. When that fails, no step is lost.
    fn sample(&mut self) -> Result<(), TrainError> {
        let step = self.state.step;
        let made = self.objective.sample(&self.state.ema, step, self.folder);
        if made.is_err() && self.saved.is_none_or(|(saved, _)| saved < step) {
            // What went wrong first is what is told.
            let _ = self.save_state();
        }
        if let Some(path) = made? {
            let _ = self.tell(Event::Sample { step, path });
        }
        self.state.sampled = true;
        Ok(())
    }

    fn save_state(&mut self) -> Result<(), TrainError> {
        self.state.save(self.folder, &self.name)?;
        let step = self.state.step;
        self.saved = Some((step, self.state.sampled));
        let _ = self.tell(Event::Checkpoint { step, path: self.folder.join(STATE) });
        Ok(())
    }

    fn tell(&mut self, event: Event) -> ControlFlow<()> {
        if let Ok(line) = serde_json::to_string(&event) {
            // The log is a convenience; a full disk will be reported by the state.
            let _ = self.log.write_all(format!("{line}\n").as_bytes());
        }
        (self.emit)(&event)
    }
}
