//! The samplers by name.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// The samplers by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampler {
    /// Euler's method: first order.
    Euler,
    /// UniPC: second-order predictor with a corrector that costs nothing. Wan's own.
    UniPc,
    /// DPM-Solver++ (2M).
    DpmPlusPlus,
    /// DDIM, without noise of its own.
    Ddim,
    /// Latent consistency: for denoisers distilled to a few steps.
    Lcm,
    /// Euler's method with fresh noise at every step.
    EulerAncestral,
    /// DPM-Solver++ (2M) with fresh noise at every step.
    DpmPlusPlusSde,
    /// PNDM: fourth order by past predictions. Stable Diffusion's own.
    Pndm,
}

impl Sampler {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Euler,
        Self::UniPc,
        Self::DpmPlusPlus,
        Self::Ddim,
        Self::Lcm,
        Self::EulerAncestral,
        Self::DpmPlusPlusSde,
        Self::Pndm,
    ];

    /// The name the command line uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Euler => "euler",
            Self::UniPc => "unipc",
            Self::DpmPlusPlus => "dpm++",
            Self::Ddim => "ddim",
            Self::Lcm => "lcm",
            Self::EulerAncestral => "euler-a",
            Self::DpmPlusPlusSde => "dpm++2m-sde",
            Self::Pndm => "pndm",
        }
    }

    /// Whether it samples what matches flows.
    pub fn is_for_flow(self) -> bool {
        matches!(self, Self::Euler | Self::UniPc | Self::DpmPlusPlus)
    }

    /// Whether it samples diffusion.
    pub fn is_for_diffusion(self) -> bool {
        self != Self::UniPc
    }
}

impl FromStr for Sampler {
    type Err = Error;

    /// `dpm++2m` is `dpm++` by its whole name.
    fn from_str(name: &str) -> Result<Self, Error> {
        if name == "dpm++2m" {
            return Ok(Self::DpmPlusPlus);
        }
        let known = Self::ALL.into_iter().find(|sampler| sampler.name() == name);
        known.ok_or_else(|| Error::UnknownScheduler(name.to_owned()))
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for sampler in Sampler::ALL {
            assert_eq!(sampler.name().parse::<Sampler>().unwrap(), sampler);
        }
        assert_eq!("dpm++2m".parse::<Sampler>().unwrap(), Sampler::DpmPlusPlus);
        let error = "heun".parse::<Sampler>().unwrap_err().to_string();
        let names: Vec<&str> = Sampler::ALL.iter().map(|sampler| sampler.name()).collect();
        assert_eq!(error, format!("unknown scheduler \"heun\"; use one of {}", names.join(", ")));
    }
}
