//! What a `scheduler_config.json` of a class of flow matching says.

use serde_json::{Map, Value, json};

use super::fields::{Fields, Read};
use crate::sampling::Sampler;

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

/// Whether a configuration is of flow matching: of a class that knows nothing else, or asked to.
pub(super) fn is_flow(config: &Map<String, Value>) -> bool {
    let class = config.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    let stated = |name: &str, value: Value| config.get(name) == Some(&value);
    let asked = stated("use_flow_sigmas", json!(true)) || stated("prediction_type", json!("flow_prediction"));
    match published().iter().find(|published| published.class == class) {
        Some(published) => published.sampler != Sampler::DpmPlusPlus || asked,
        None => false,
    }
}

/// The sampler and its shift.
///
/// # Errors
/// The field that is wrong, and how.
pub(super) fn read(config: &Map<String, Value>) -> Read<(Sampler, f64)> {
    let class = config.get("_class_name").and_then(Value::as_str).unwrap_or_default();
    let known = published().into_iter().find(|published| published.class == class);
    let known = known.ok_or_else(|| format!("_class_name: {class:?} is not supported"))?;
    for (name, value) in known.required.as_object().into_iter().flatten() {
        if config.get(name) != Some(value) {
            return Err(format!("{name}: must be {value}"));
        }
    }
    for (name, value) in known.fixed.as_object().into_iter().flatten() {
        Fields(config).only(name, value)?;
    }
    let shift = config.get(known.shift).map_or(Some(1.0), Value::as_f64);
    let shift = shift.filter(|shift| *shift > 0.0 && shift.is_finite());
    let shift = shift.ok_or_else(|| format!("{}: must be a positive number", known.shift))?;
    Ok((known.sampler, shift))
}

/// The configuration as diffusers reads it.
pub(super) fn to_config(sampler: Sampler, shift: f64) -> Map<String, Value> {
    let mut config = Map::new();
    for published in published().into_iter().filter(|published| published.sampler == sampler) {
        config.insert("_class_name".to_owned(), json!(published.class));
        config.insert(published.shift.to_owned(), json!(shift));
        for fields in [published.required, published.fixed] {
            config.extend(fields.as_object().cloned().unwrap_or_default());
        }
    }
    config
}
