//! What a `scheduler_config.json` of a class of diffusion says.

use serde_json::{Map, Value, json};

use super::betas::alphas_cumprod;
use super::fields::{Fields, Read};
use crate::noise::{Noise, Predicts};
use crate::sampling::{DpmPlusPlus, Lcm, Pndm, Rule, Sampler, Solver, Spacing};

const CLASSES: [(&str, Class); 6] = [
    ("DDIMScheduler", Class::Ddim),
    ("LCMScheduler", Class::Lcm),
    ("EulerDiscreteScheduler", Class::Euler),
    ("EulerAncestralDiscreteScheduler", Class::EulerAncestral),
    ("DPMSolverMultistepScheduler", Class::DpmPlusPlus),
    ("PNDMScheduler", Class::Pndm),
];
/// The field that tells the two samplers of one class apart.
const ALGORITHM: &str = "algorithm_type";
const STOCHASTIC: &str = "sde-dpmsolver++";
const DETERMINISTIC: &str = "dpmsolver++";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Ddim,
    Lcm,
    Euler,
    EulerAncestral,
    DpmPlusPlus,
    Pndm,
}

/// A sampler of diffusion, what was trained, and how a run is laid over it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Diffusion {
    /// The fields that were stated, the class among them.
    pub(super) config: Map<String, Value>,
    pub(super) sampler: Sampler,
    pub(super) solver: Solver,
    /// The square of data's share at each timestep, from the first on.
    pub(super) alphas_cumprod: Vec<f32>,
    pub(super) predicts: Predicts,
    /// Whether the last timestep is noise alone.
    pub(super) rescaled: bool,
    pub(super) spacing: Spacing,
    /// What is added to timesteps of [`Spacing::Leading`].
    pub(super) offset: usize,
    /// Whether the end is data, or else as noisy as the first timestep.
    pub(super) to_data: bool,
    pub(super) sigmas: Sigmas,
    /// Timesteps with less of half the logarithm of the signal-to-noise ratio are left out.
    pub(super) least_lambda: f64,
    /// Whether Karras' timesteps are cut off, not rounded.
    pub(super) fractional: bool,
    /// How many timesteps were distilled.
    pub(super) original_steps: usize,
}

/// How noise falls, if not with timesteps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sigmas {
    pub(super) karras: bool,
    pub(super) log_linear: bool,
    /// Bounds of Karras' in place of those of the timesteps.
    pub(super) least: Option<f64>,
    pub(super) most: Option<f64>,
}

impl Diffusion {
    /// Reads a configuration.
    ///
    /// # Errors
    /// The field that is wrong, and how.
    pub(super) fn read(config: &Map<String, Value>) -> Read<Self> {
        let name = config.get("_class_name").and_then(Value::as_str).unwrap_or_default();
        let class = CLASSES.iter().find(|(known, _)| *known == name);
        let (_, class) = class.ok_or_else(|| format!("_class_name: {name:?} is not supported"))?;
        let fields = Fields(config);
        for (name, value) in unsupported(*class) {
            fields.only(name, &value)?;
        }
        let rescales = *class != Class::Pndm;
        let rescaled = rescales && fields.flag("rescale_betas_zero_snr", false)?;
        let (range, curve) = match class {
            Class::Lcm => ([0.00085, 0.012], "scaled_linear"),
            _ => ([0.0001, 0.02], "linear"),
        };
        let alphas_cumprod = alphas_cumprod(fields, range, curve, rescaled)?;
        let predicts = predicts(*class, fields)?;
        let (sampler, solver) = solver(*class, fields, predicts)?;
        let to_data = match class {
            Class::Ddim | Class::Lcm => fields.flag("set_alpha_to_one", true)?,
            Class::Pndm => fields.flag("set_alpha_to_one", false)?,
            Class::EulerAncestral => true,
            Class::Euler | Class::DpmPlusPlus => {
                fields.word("final_sigmas_type", "zero", &[("zero", true), ("sigma_min", false)])?
            }
        };
        let usual_spacing = match class {
            Class::Ddim | Class::Lcm | Class::Pndm => "leading",
            _ => "linspace",
        };
        let spacings =
            [("linspace", Spacing::Linspace), ("leading", Spacing::Leading), ("trailing", Spacing::Trailing)];
        let train = alphas_cumprod.len();
        Ok(Self {
            config: config.clone(),
            sampler,
            solver,
            predicts,
            rescaled,
            spacing: fields.word("timestep_spacing", usual_spacing, &spacings)?,
            offset: fields.whole("steps_offset", 0, [0, train])?,
            to_data,
            sigmas: sigmas(*class, fields)?,
            least_lambda: fields.number("lambda_min_clipped", f64::NEG_INFINITY, [f64::MIN, f64::MAX])?,
            fractional: config.get("beta_schedule") == Some(&json!("squaredcos_cap_v2")),
            original_steps: fields.whole("original_inference_steps", 50.min(train), [1, train])?,
            alphas_cumprod,
        })
    }

    /// Another sampler with what is stated for this one, as diffusers' `from_config`: the fields that its
    /// class has too, and its own defaults for the others.
    ///
    /// # Errors
    /// The field that does not go with it, and how.
    pub(super) fn with(&self, sampler: Sampler) -> Read<Self> {
        let class = match sampler {
            Sampler::Ddim => Class::Ddim,
            Sampler::UniPc => return Err("it is for bases that match flows".to_owned()),
            Sampler::Lcm => Class::Lcm,
            Sampler::Euler => Class::Euler,
            Sampler::EulerAncestral => Class::EulerAncestral,
            Sampler::DpmPlusPlus | Sampler::DpmPlusPlusSde => Class::DpmPlusPlus,
            Sampler::Pndm => Class::Pndm,
        };
        let mut config = self.config.clone();
        for (name, own) in CLASSES {
            if own == class {
                config.insert("_class_name".to_owned(), json!(name));
            }
        }
        if class == Class::DpmPlusPlus {
            let stochastic = sampler == Sampler::DpmPlusPlusSde;
            let algorithm = if stochastic { STOCHASTIC } else { DETERMINISTIC };
            config.insert(ALGORITHM.to_owned(), json!(algorithm));
        }
        Self::read(&config)
    }

    /// What was trained.
    pub(super) fn noise(&self) -> Noise {
        let alphas_cumprod = self.alphas_cumprod.iter().map(|kept| f64::from(*kept)).collect();
        Noise::Diffusion { alphas_cumprod, predicts: self.predicts }
    }
}

/// Fields of a class that, where they are stated, must say this.
fn unsupported(class: Class) -> Vec<(&'static str, Value)> {
    let mut fields = match class {
        Class::Ddim | Class::Lcm => vec![("thresholding", json!(false))],
        Class::Euler => vec![("timestep_type", json!("discrete"))],
        Class::DpmPlusPlus => vec![
            ("thresholding", json!(false)),
            ("use_lu_lambdas", json!(false)),
            ("use_flow_sigmas", json!(false)),
            ("use_dynamic_shifting", json!(false)),
            ("variance_type", Value::Null),
        ],
        Class::EulerAncestral | Class::Pndm => Vec::new(),
    };
    if matches!(class, Class::Euler | Class::DpmPlusPlus) {
        fields.extend([("use_exponential_sigmas", json!(false)), ("use_beta_sigmas", json!(false))]);
    }
    fields
}

fn predicts(class: Class, fields: Fields<'_>) -> Read<Predicts> {
    let words = [
        ("epsilon", Predicts::Noise),
        ("v_prediction", Predicts::Velocity),
        // Two classes have no formula for it.
        ("sample", Predicts::Data),
    ];
    let known = if matches!(class, Class::EulerAncestral | Class::Pndm) { &words[..2] } else { &words };
    fields.word("prediction_type", "epsilon", known)
}

fn solver(class: Class, fields: Fields<'_>, averages: Predicts) -> Read<(Sampler, Solver)> {
    Ok(match class {
        Class::Ddim => (Sampler::Ddim, Solver::Ddim { clip: clip(fields, true)? }),
        Class::Lcm => {
            let timestep_scaling = fields.number("timestep_scaling", 10.0, [0.0, 1e6])?;
            (Sampler::Lcm, Solver::Lcm(Lcm { clip: clip(fields, false)?, timestep_scaling }))
        }
        Class::Euler => (Sampler::Euler, Solver::Euler),
        Class::EulerAncestral => (Sampler::EulerAncestral, Solver::EulerAncestral),
        Class::DpmPlusPlus => dpm_plus_plus(fields)?,
        Class::Pndm => {
            let runge_kutta = !fields.flag("skip_prk_steps", false)?;
            (Sampler::Pndm, Solver::Pndm(Pndm { runge_kutta, averages }))
        }
    })
}

fn clip(fields: Fields<'_>, absent: bool) -> Read<Option<f32>> {
    let range = fields.number("clip_sample_range", 1.0, [0.0, f64::from(f32::MAX)])?;
    Ok(fields.flag("clip_sample", absent)?.then_some(range as f32))
}

fn dpm_plus_plus(fields: Fields<'_>) -> Read<(Sampler, Solver)> {
    // Names of other classes that diffusers reads as these.
    let algorithms = [(DETERMINISTIC, false), (STOCHASTIC, true), ("deis", false)];
    let rules = [
        ("midpoint", Rule::Midpoint),
        ("heun", Rule::Heun),
        ("logrho", Rule::Midpoint),
        ("bh1", Rule::Midpoint),
        ("bh2", Rule::Midpoint),
    ];
    let stochastic = fields.word(ALGORITHM, DETERMINISTIC, &algorithms)?;
    let settings = DpmPlusPlus {
        order: fields.whole("solver_order", 2, [1, 3])?,
        rule: fields.word("solver_type", "midpoint", &rules)?,
        stochastic,
        lower_order_final: fields.flag("lower_order_final", true)?,
        euler_at_final: fields.flag("euler_at_final", false)?,
    };
    let sampler = if stochastic { Sampler::DpmPlusPlusSde } else { Sampler::DpmPlusPlus };
    Ok((sampler, Solver::DpmPlusPlus(settings)))
}

fn sigmas(class: Class, fields: Fields<'_>) -> Read<Sigmas> {
    const POSITIVE: [f64; 2] = [f64::MIN_POSITIVE, f64::MAX];
    if !matches!(class, Class::Euler | Class::DpmPlusPlus) {
        return Ok(Sigmas::default());
    }
    let interpolations = [("linear", false), ("log_linear", true)];
    Ok(Sigmas {
        karras: fields.flag("use_karras_sigmas", false)?,
        log_linear: class == Class::Euler && fields.word("interpolation_type", "linear", &interpolations)?,
        least: fields.optional("sigma_min", POSITIVE)?,
        most: fields.optional("sigma_max", POSITIVE)?,
    })
}
