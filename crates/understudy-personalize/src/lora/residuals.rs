//! Low-rank residuals as trainable parameters, and what is added to their coefficients.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::attach::{Attachments, LowRank, Window};
use understudy_engine::parameters::{Leaves, Parameters};
use understudy_engine::random::Random;
use understudy_models::wan_transformer::WanTransformerConfig;

use crate::adapter::Residual;
use crate::config::{Basis, LoraConfig};
use crate::error::Result;
use crate::sites::PATCHES;

/// The residuals of a rank on some sites, as trainable parameters.
#[derive(Clone, Debug)]
pub struct Residuals {
    /// Sites with their shapes `[outputs, inputs]`.
    pub sites: BTreeMap<String, [usize; 2]>,
    /// Rank of every residual.
    pub rank: usize,
    /// Their scale, times the rank.
    pub alpha: f32,
    /// When they are active.
    pub window: Window,
    /// Frames, rows and columns of the denoiser's patches, which are the kernel of the patch embedding.
    pub patch: [usize; 3],
    /// The half that starts at random; the other, the coefficients, starts at zero.
    pub basis: Basis,
}

/// Which coefficients a step leaves out: a share, drawn from a seed and the step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dropout {
    pub(super) share: f32,
    pub(super) seed: u64,
    pub(super) step: u64,
}

impl Dropout {
    /// `coefficients` without the share that is left out, the others scaled up to make up for it (Srivastava et al.,
    /// "Dropout", 2014).
    fn of(self, coefficients: Tensor<2>, name: &str) -> Tensor<2> {
        if self.share == 0.0 {
            return coefficients;
        }
        let dims = coefficients.dims();
        let mut random = Random::stream(self.seed, &format!("dropout {name}"), self.step);
        let kept = 1.0 / (1.0 - self.share);
        let share = f64::from(self.share);
        let mask: Vec<f32> =
            (0..dims[0] * dims[1]).map(|_| if random.uniform() < share { 0.0 } else { kept }).collect();
        let device = coefficients.device().without_autodiff();
        coefficients * Tensor::<2>::from_data(TensorData::new(mask, dims), &device)
    }
}

impl Residuals {
    /// Those `config` asks for.
    ///
    /// # Errors
    /// When a target is no site of the denoiser.
    pub fn new(config: &LoraConfig, transformer: &WanTransformerConfig) -> Result<Self> {
        let LoraConfig { rank, alpha, window, basis, ref targets, .. } = *config;
        let (sites, patch) = (targets.resolve(transformer)?, transformer.patch_size);
        Ok(Self { sites, rank, alpha, window, patch, basis })
    }

    /// The names of the halves of the residual at `site` among the parameters: A and B.
    pub fn names(site: &str) -> [String; 2] {
        [format!("{site}.lora_A"), format!("{site}.lora_B")]
    }

    /// The shapes of A and B at a site of shape `[outputs, inputs]`.
    fn shapes(&self, [outputs, inputs]: [usize; 2]) -> [[usize; 2]; 2] {
        [[self.rank, inputs], [outputs, self.rank]]
    }

    /// Which of A and B holds the coefficients.
    fn coefficients(&self) -> usize {
        match self.basis {
            Basis::Input => 1,
            Basis::Output => 0,
        }
    }

    /// Parameters to start from: the basis normal with the variance of one over the channels it reads or writes, a
    /// function of `seed`; the coefficients zero.
    pub fn initialize(&self, seed: u64, device: &Device) -> Parameters {
        let mut parameters = Parameters::new();
        for (site, shape) in &self.sites {
            let channels = match self.basis {
                Basis::Input => shape[1],
                Basis::Output => shape[0],
            };
            for (half, (name, dims)) in Self::names(site).into_iter().zip(self.shapes(*shape)).enumerate() {
                let count = dims[0] * dims[1];
                let values = match half == self.coefficients() {
                    true => vec![0.0; count],
                    false => {
                        let deviation = (channels as f32).powf(-0.5);
                        let mut values = Random::stream(seed, &name, 0).normals(count);
                        values.iter_mut().for_each(|value| *value *= deviation);
                        values
                    }
                };
                parameters.insert(name, &dims, values, device);
            }
        }
        parameters
    }

    /// The parameters of a motion on this basis: coefficients alone, all zero.
    pub(super) fn initialize_motion(&self, device: &Device) -> Parameters {
        let mut parameters = Parameters::new();
        for (site, shape) in &self.sites {
            let half = self.coefficients();
            let dims = self.shapes(*shape)[half];
            parameters.insert(&Self::names(site)[half], &dims, vec![0.0; dims[0] * dims[1]], device);
        }
        parameters
    }

    /// Everything attached, as tracked views of `leaves`, so that gradients reach them.
    pub fn attach(&self, leaves: &Leaves) -> Attachments {
        self.attach_with(leaves, Dropout { share: 0.0, seed: 0, step: 0 })
    }

    /// The same with some coefficients left out.
    pub(super) fn attach_with(&self, leaves: &Leaves, dropout: Dropout) -> Attachments {
        let half = |name: &str, dims| leaves.tensor::<2>(name, dims);
        self.attached(|site, names, shapes| {
            let mut halves = [half(&names[0], shapes[0])?, half(&names[1], shapes[1])?];
            let own = self.coefficients();
            halves[own] = dropout.of(halves[own].clone(), site);
            Some(halves)
        })
    }

    /// The residuals of `still`, which stay as they are, with the motion in `leaves` added to their coefficients.
    pub fn attach_motion(&self, still: &Parameters, leaves: &Leaves) -> Attachments {
        self.attach_motion_with(still, leaves, Dropout { share: 0.0, seed: 0, step: 0 })
    }

    /// The same with some of the motion's coefficients left out.
    pub(super) fn attach_motion_with(
        &self,
        still: &Parameters,
        leaves: &Leaves,
        dropout: Dropout,
    ) -> Attachments {
        let fixed = |name: &str, dims: [usize; 2]| Some(still.get(name)?.value.clone().reshape(dims));
        self.attached(|site, names, shapes| {
            let mut halves = [fixed(&names[0], shapes[0])?, fixed(&names[1], shapes[1])?];
            let own = self.coefficients();
            let motion = leaves.tensor::<2>(&names[own], shapes[own])?;
            halves[own] = halves[own].clone() + dropout.of(motion, site);
            Some(halves)
        })
    }

    fn attached(
        &self,
        halves: impl Fn(&str, [String; 2], [[usize; 2]; 2]) -> Option<[Tensor<2>; 2]>,
    ) -> Attachments {
        let mut attachments = Attachments::none();
        for (site, shape) in &self.sites {
            if let Some([down, up]) = halves(site, Self::names(site), self.shapes(*shape)) {
                let scale = self.alpha / self.rank as f32;
                attachments.add_low_rank(site, LowRank { down, up, scale, window: self.window });
            }
        }
        attachments
    }

    /// The residuals as an adapter has them.
    pub fn finished(&self, parameters: &Parameters) -> BTreeMap<String, Residual> {
        let half = |name: &str, shape: [usize; 2]| Some(parameters.get(name)?.value.clone().reshape(shape));
        let residual = |(site, shape): (&String, &[usize; 2])| {
            let ([down, up], shapes) = (Self::names(site), self.shapes(*shape));
            let (down, up) = (half(&down, shapes[0])?, half(&up, shapes[1])?);
            let kernel = (site == PATCHES).then_some(self.patch);
            Some((site.clone(), Residual { down, up, alpha: self.alpha, kernel }))
        };
        self.sites.iter().filter_map(residual).collect()
    }

    /// The motion's coefficients as an adapter has them.
    pub(super) fn finished_motion(&self, parameters: &Parameters) -> BTreeMap<String, Tensor<2>> {
        let own = self.coefficients();
        let coefficients = |(site, shape): (&String, &[usize; 2])| {
            let value = parameters.get(&Self::names(site)[own])?.value.clone();
            Some((site.clone(), value.reshape(self.shapes(*shape)[own])))
        };
        self.sites.iter().filter_map(coefficients).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use understudy_engine::host::values;

    use super::*;

    const SITE: &str = "blocks.0.attn1.to_q";

    fn residuals(basis: Basis) -> Residuals {
        Residuals {
            sites: BTreeMap::from([(SITE.to_owned(), [30, 40])]),
            rank: 20,
            alpha: 20.0,
            window: Window::ALWAYS,
            patch: [1, 1, 1],
            basis,
        }
    }

    /// Residuals in the midst of training.
    fn trained(residuals: &Residuals, device: &Device) -> Parameters {
        let mut parameters = residuals.initialize(1, device);
        for name in Residuals::names(SITE) {
            let count = parameters.get(&name).unwrap().shape.iter().product();
            parameters.update(&name, Random::new(2, 0).normal_tensor::<1>([count], device));
        }
        parameters
    }

    /// What is attached makes of some input.
    fn output(attachments: &Attachments, device: &Device) -> Vec<f32> {
        let x = Random::new(3, 0).normal_tensor::<2>([5, 40], device).autodiff();
        let zero = understudy_engine::ops::Weight::new(Tensor::zeros([30, 40], device));
        let output = attachments.linear(SITE, (&zero, None), x);
        values(output.without_autodiff())
    }

    #[test]
    fn a_motion_of_nothing_changes_no_bit() {
        let device = Device::flex();
        for basis in [Basis::Output, Basis::Input] {
            let residuals = residuals(basis);
            let still = trained(&residuals, &device);
            let expected = output(&residuals.attach(&still.leaves()), &device);
            assert!(expected.iter().any(|value| *value != 0.0));
            let motion = residuals.initialize_motion(&device);
            assert_eq!(output(&residuals.attach_motion(&still, &motion.leaves()), &device), expected);
            // Of the motion alone coefficients are left out: the looks do not flicker.
            let dropout = Dropout { share: 0.5, seed: 0, step: 7 };
            let attached = residuals.attach_motion_with(&still, &motion.leaves(), dropout);
            assert_eq!(output(&attached, &device), expected);
        }
    }

    #[test]
    fn coefficients_left_out_are_made_up_for() {
        let device = Device::flex();
        let ones = Tensor::<2>::ones([200, 100], &device).autodiff().require_grad();
        let dropped = |step| {
            let dropout = Dropout { share: 0.8, seed: 4, step };
            let left = dropout.of(ones.clone(), SITE);
            let gradient = ones.grad(&left.clone().sum().backward()).unwrap();
            (values(left.without_autodiff()), values(gradient))
        };
        let (left, gradient) = dropped(1);
        assert!(left.iter().all(|value| *value == 0.0 || (*value - 5.0).abs() < 1e-5));
        let mean = left.iter().sum::<f32>() / 20_000.0;
        // Its standard deviation is 0.014.
        assert!((mean - 1.0).abs() < 0.07, "{mean}");
        assert_eq!(left, gradient);
        assert_eq!(left, dropped(1).0);
        assert_ne!(left, dropped(2).0);
    }

    #[test]
    fn the_basis_is_whole_and_its_coefficients_are_not() {
        let device = Device::flex();
        for basis in [Basis::Output, Basis::Input] {
            let residuals = residuals(basis);
            let leaves = trained(&residuals, &device).leaves();
            let dropout = Dropout { share: 0.5, seed: 4, step: 1 };
            let whole = output(&residuals.attach(&leaves), &device);
            assert_ne!(output(&residuals.attach_with(&leaves, dropout), &device), whole, "{basis:?}");
            let start = residuals.initialize(1, &device).leaves();
            let none = output(&residuals.attach_with(&start, dropout), &device);
            assert!(none.iter().all(|value| *value == 0.0), "{basis:?}");
        }
    }
}
