//! The published `scheduler_config.json`: which sampler a base was made for, and how far its noise levels
//! are shifted.

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};
use crate::sampling::Sampler;

/// A sampler with its shift.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scheduler {
    /// The sampler.
    pub sampler: Sampler,
    /// How far noise levels are moved towards noise; 1 does nothing, Wan uses 3 to 5.
    pub shift: f64,
}

/// What the class of a sampler is called, where its shift stands, and the fields its mathematics rests on.
struct Published {
    sampler: Sampler,
    class: &'static str,
    shift: &'static str,
    /// Fields with another meaning when they are absent.
    required: Value,
    /// Fields that, when they are there, must be this.
    fixed: Value,
}

fn published() -> [Published; 3] {
    let flow = json!({"prediction_type": "flow_prediction", "use_flow_sigmas": true});
    let common = json!({
        "num_train_timesteps": 1000, "use_dynamic_shifting": false, "use_karras_sigmas": false,
        "use_exponential_sigmas": false, "use_beta_sigmas": false,
    });
    let with = |more: Value| {
        let both = [common.clone(), more].into_iter().filter_map(|fields| fields.as_object().cloned());
        Value::Object(both.flatten().collect())
    };
    [
        Published {
            sampler: Sampler::Euler,
            class: "FlowMatchEulerDiscreteScheduler",
            shift: "shift",
            required: json!({}),
            fixed: with(
                json!({"shift_terminal": null, "invert_sigmas": false, "stochastic_sampling": false}),
            ),
        },
        Published {
            sampler: Sampler::UniPc,
            class: "UniPCMultistepScheduler",
            shift: "flow_shift",
            required: flow.clone(),
            fixed: with(json!({
                "solver_order": 2, "solver_type": "bh2", "predict_x0": true, "lower_order_final": true,
                "final_sigmas_type": "zero", "thresholding": false, "disable_corrector": [],
                "solver_p": null, "shift_terminal": null,
            })),
        },
        Published {
            sampler: Sampler::DpmPlusPlus,
            class: "DPMSolverMultistepScheduler",
            shift: "flow_shift",
            required: flow,
            fixed: with(json!({
                "solver_order": 2, "solver_type": "midpoint", "algorithm_type": "dpmsolver++",
                "final_sigmas_type": "zero", "thresholding": false, "use_lu_lambdas": false,
            })),
        },
    ]
}

impl Scheduler {
    /// Reads a configuration; `file` names it in errors.
    ///
    /// # Errors
    /// When its class is not known, or a field asks for mathematics that is not implemented.
    pub fn from_config(config: &Map<String, Value>, file: &str) -> Result<Self> {
        let fault = |reason: String| Error::File {
            file: file.to_owned(),
            reason,
            advice: "use a FlowMatchEulerDiscreteScheduler or a flow-predicting UniPCMultistepScheduler or \
                     DPMSolverMultistepScheduler",
        };
        let class = config.get("_class_name").and_then(Value::as_str).unwrap_or_default();
        let known = published().into_iter().find(|published| published.class == class);
        let known = known.ok_or_else(|| fault(format!("_class_name: {class:?} is not supported")))?;
        for (name, value) in known.required.as_object().into_iter().flatten() {
            if config.get(name) != Some(value) {
                return Err(fault(format!("{name}: must be {value}")));
            }
        }
        for (name, value) in known.fixed.as_object().into_iter().flatten() {
            if let Some(found) = config.get(name).filter(|found| *found != value) {
                return Err(fault(format!("{name}: {found} is not supported, only {value}")));
            }
        }
        let shift = config.get(known.shift).map_or(Some(1.0), Value::as_f64);
        let shift = shift.filter(|shift| *shift > 0.0 && shift.is_finite());
        let shift = shift.ok_or_else(|| fault(format!("{}: must be a positive number", known.shift)))?;
        Ok(Self { sampler: known.sampler, shift })
    }

    /// The configuration as diffusers reads it.
    pub fn to_config(&self) -> Value {
        let mut config = Map::new();
        for published in published().into_iter().filter(|published| published.sampler == self.sampler) {
            config.insert("_class_name".to_owned(), json!(published.class));
            config.insert(published.shift.to_owned(), json!(self.shift));
            for fields in [published.required, published.fixed] {
                config.extend(fields.as_object().cloned().unwrap_or_default());
            }
        }
        Value::Object(config)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(config: Value) -> Result<Scheduler> {
        Scheduler::from_config(config.as_object().unwrap(), "scheduler_config.json")
    }

    #[test]
    fn what_is_written_is_read_back() {
        for sampler in [Sampler::Euler, Sampler::UniPc, Sampler::DpmPlusPlus] {
            let scheduler = Scheduler { sampler, shift: 3.5 };
            assert_eq!(read(scheduler.to_config()).unwrap(), scheduler);
        }
    }

    #[test]
    fn other_mathematics_is_an_error_that_names_the_field() {
        let with = |name: &str, value: Value| {
            let mut config = Scheduler { sampler: Sampler::UniPc, shift: 3.0 }.to_config();
            config[name] = value;
            read(config).unwrap_err().to_string()
        };
        assert!(with("_class_name", json!("DDIMScheduler")).contains("_class_name: \"DDIMScheduler\""));
        assert!(with("solver_order", json!(3)).contains("solver_order: 3 is not supported, only 2"));
        assert!(with("prediction_type", json!("epsilon")).contains("prediction_type: must be"));
        assert!(with("flow_shift", json!(-1.0)).contains("flow_shift: must be a positive number"));
        assert!(read(json!({"_class_name": "UniPCMultistepScheduler"})).is_err());
    }
}
