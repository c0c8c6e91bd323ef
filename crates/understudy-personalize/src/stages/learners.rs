//! What every method learns: the rows of tokens, and low-rank residuals.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor};
use understudy_engine::attach::Attachments;
use understudy_engine::parameters::{Leaves, Parameters};
use understudy_engine::random::Random;

use super::data::TrainingSet;
use super::objective::Learner;
use super::residuals::{Dropout, Residuals};
use super::run::Run;
use crate::adapter::Adapter;

/// Moves the rows of the tokens alone, which cannot change what the class is: it needs no prior.
pub(super) struct TokenLearner<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) samples: &'a TrainingSet,
}

impl Learner for TokenLearner<'_> {
    fn name(&self) -> &'static str {
        "token"
    }

    fn initialize(&self, _: &Device) -> Parameters {
        Parameters::new()
    }

    fn attachments(&self, _: &Leaves, _: u64) -> Attachments {
        Attachments::none()
    }

    fn samples(&self, _: &mut Random) -> &TrainingSet {
        self.samples
    }

    fn sets(&self) -> Vec<&TrainingSet> {
        vec![self.samples]
    }

    fn prior(&self) -> Option<&TrainingSet> {
        None
    }

    fn adapter(&self, _: &Parameters, rows: Tensor<2>) -> Adapter {
        self.run.adapter(BTreeMap::new(), rows, &[])
    }
}

/// Trains residuals.
pub(super) struct ResidualLearner<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) residuals: &'a Residuals,
    pub(super) samples: &'a TrainingSet,
    pub(super) prior: &'a TrainingSet,
}

impl Learner for ResidualLearner<'_> {
    fn name(&self) -> &'static str {
        "residuals"
    }

    fn initialize(&self, device: &Device) -> Parameters {
        self.residuals.initialize(self.run.learning.seed, device)
    }

    fn attachments(&self, leaves: &Leaves, step: u64) -> Attachments {
        let (share, seed) = (self.run.learning.dropout, self.run.learning.seed);
        self.residuals.attach_with(leaves, Dropout { share, seed, step })
    }

    fn samples(&self, _: &mut Random) -> &TrainingSet {
        self.samples
    }

    fn sets(&self) -> Vec<&TrainingSet> {
        vec![self.samples]
    }

    fn prior(&self) -> Option<&TrainingSet> {
        Some(self.prior)
    }

    fn adapter(&self, parameters: &Parameters, rows: Tensor<2>) -> Adapter {
        self.run.adapter(self.residuals.finished(parameters), rows, &[])
    }
}
