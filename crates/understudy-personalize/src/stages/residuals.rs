//! Low-rank residuals as trainable parameters, and what is added to their coefficients.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::attach::{Attachments, LowRank, Window};
use understudy_engine::parameters::{Leaves, Parameters};
use understudy_engine::random::Random;
use understudy_engine::sites::{Site, Sites};

use super::settings::{Basis, Learning};
use crate::adapter::Residual;
use crate::error::Result;

/// The residuals of a rank on some sites, as trainable parameters.
#[derive(Clone, Debug)]
pub struct Residuals {
    /// The sites.
    pub sites: BTreeMap<String, Site>,
    /// Rank of every residual.
    pub rank: usize,
    /// Their scale, times the rank.
    pub alpha: f32,
    /// When they are active.
    pub window: Window,
    /// The half that starts at random; the other, the coefficients, starts at zero.
    pub basis: Basis,
}

/// Which coefficients a step leaves out: a share, drawn from a seed and the step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    pub(crate) share: f32,
    pub(crate) seed: u64,
    pub(crate) step: u64,
}

impl Dropout {
    /// `coefficients` without the share that is left out, the others scaled up to make up for it (Srivastava
    /// et al., "Dropout", 2014).
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
    /// Those `learning` asks for.
    ///
    /// # Errors
    /// When a target is no site of the denoiser.
    pub fn new(learning: &Learning, sites: &Sites) -> Result<Self> {
        let Learning { rank, alpha, window, basis, ref targets, .. } = *learning;
        Ok(Self { sites: targets.resolve(sites)?, rank, alpha, window, basis })
    }

    /// The names of the halves of the residual at `site` among the parameters: A and B.
    pub fn names(site: &str) -> [String; 2] {
        [format!("{site}.lora_A"), format!("{site}.lora_B")]
    }

    /// The shapes of A and B at a site.
    fn shapes(&self, site: &Site) -> [[usize; 2]; 2] {
        let [outputs, inputs] = site.shape;
        [[self.rank, inputs], [outputs, self.rank]]
    }

    /// Which of A and B holds the coefficients.
    fn coefficients(&self) -> usize {
        match self.basis {
            Basis::Input => 1,
            Basis::Output => 0,
        }
    }

    /// Parameters to start from: the basis normal with the variance of one over the channels it reads or
    /// writes, a function of `seed`; the coefficients zero.
    pub fn initialize(&self, seed: u64, device: &Device) -> Parameters {
        let mut parameters = Parameters::new();
        for (path, site) in &self.sites {
            let channels = match self.basis {
                Basis::Input => site.shape[1],
                Basis::Output => site.shape[0],
            };
            for (half, (name, dims)) in Self::names(path).into_iter().zip(self.shapes(site)).enumerate() {
                let count = dims[0] * dims[1];
                let values = if half == self.coefficients() {
                    vec![0.0; count]
                } else {
                    let deviation = (channels as f32).powf(-0.5);
                    let mut values = Random::stream(seed, &name, 0).normals(count);
                    values.iter_mut().for_each(|value| *value *= deviation);
                    values
                };
                parameters.insert(name, &dims, values, device);
            }
        }
        parameters
    }

    /// The parameters of what is learned apart on this basis: coefficients alone, all zero.
    pub(crate) fn initialize_coefficients(&self, device: &Device) -> Parameters {
        let mut parameters = Parameters::new();
        for (path, site) in &self.sites {
            let half = self.coefficients();
            let dims = self.shapes(site)[half];
            parameters.insert(&Self::names(path)[half], &dims, vec![0.0; dims[0] * dims[1]], device);
        }
        parameters
    }

    /// Everything attached, as tracked views of `leaves`, so that gradients reach them.
    pub fn attach(&self, leaves: &Leaves) -> Attachments {
        self.attach_with(leaves, Dropout { share: 0.0, seed: 0, step: 0 })
    }

    /// The same with some coefficients left out.
    pub(crate) fn attach_with(&self, leaves: &Leaves, dropout: Dropout) -> Attachments {
        let half = |name: &str, dims| leaves.tensor::<2>(name, dims);
        self.attached(|site, names, shapes| {
            let mut halves = [half(&names[0], shapes[0])?, half(&names[1], shapes[1])?];
            let own = self.coefficients();
            halves[own] = dropout.of(halves[own].clone(), site);
            Some(halves)
        })
    }

    /// The residuals of `still`, which stay as they are, with what is in `leaves` added to their
    /// coefficients.
    pub fn attach_added(&self, still: &Parameters, leaves: &Leaves) -> Attachments {
        self.attach_added_with(still, leaves, Dropout { share: 0.0, seed: 0, step: 0 })
    }

    /// The same with some of the added coefficients left out.
    pub(crate) fn attach_added_with(
        &self,
        still: &Parameters,
        leaves: &Leaves,
        dropout: Dropout,
    ) -> Attachments {
        let fixed = |name: &str, dims: [usize; 2]| Some(still.get(name)?.value.clone().reshape(dims));
        self.attached(|site, names, shapes| {
            let mut halves = [fixed(&names[0], shapes[0])?, fixed(&names[1], shapes[1])?];
            let own = self.coefficients();
            let added = leaves.tensor::<2>(&names[own], shapes[own])?;
            halves[own] = halves[own].clone() + dropout.of(added, site);
            Some(halves)
        })
    }

    fn attached(
        &self,
        halves: impl Fn(&str, [String; 2], [[usize; 2]; 2]) -> Option<[Tensor<2>; 2]>,
    ) -> Attachments {
        let mut attachments = Attachments::none();
        for (path, site) in &self.sites {
            if let Some([down, up]) = halves(path, Self::names(path), self.shapes(site)) {
                let scale = self.alpha / self.rank as f32;
                attachments.add_low_rank(path, LowRank { down, up, scale, window: self.window });
            }
        }
        attachments
    }

    /// The residuals as an adapter has them.
    pub fn finished(&self, parameters: &Parameters) -> BTreeMap<String, Residual> {
        let half = |name: &str, shape: [usize; 2]| Some(parameters.get(name)?.value.clone().reshape(shape));
        let residual = |(path, site): (&String, &Site)| {
            let ([down, up], shapes) = (Self::names(path), self.shapes(site));
            let (down, up) = (half(&down, shapes[0])?, half(&up, shapes[1])?);
            Some((path.clone(), Residual { down, up, alpha: self.alpha, kernel: site.kernel }))
        };
        self.sites.iter().filter_map(residual).collect()
    }

    /// Added coefficients as an adapter has them.
    pub(crate) fn finished_coefficients(&self, parameters: &Parameters) -> BTreeMap<String, Tensor<2>> {
        let own = self.coefficients();
        let coefficients = |(path, site): (&String, &Site)| {
            let value = parameters.get(&Self::names(path)[own])?.value.clone();
            Some((path.clone(), value.reshape(self.shapes(site)[own])))
        };
        self.sites.iter().filter_map(coefficients).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use understudy_engine::host::values;
    use understudy_engine::sites::Role;

    use super::*;

    const SITE: &str = "blocks.0.attn1.to_q";

    fn residuals(basis: Basis) -> Residuals {
        Residuals {
            sites: BTreeMap::from([(
                SITE.to_owned(),
                Site { shape: [30, 40], role: Role::SelfAttention, kernel: None },
            )]),
            rank: 20,
            alpha: 20.0,
            window: Window::ALWAYS,
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
            let motion = residuals.initialize_coefficients(&device);
            assert_eq!(output(&residuals.attach_added(&still, &motion.leaves()), &device), expected);
            // Of the motion alone coefficients are left out: the looks do not flicker.
            let dropout = Dropout { share: 0.5, seed: 0, step: 7 };
            let attached = residuals.attach_added_with(&still, &motion.leaves(), dropout);
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
