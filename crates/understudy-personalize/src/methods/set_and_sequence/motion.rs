//! The stage of the motion: what is added to the coefficients of the looks' residuals.

use burn::tensor::{Device, Tensor};
use understudy_engine::attach::Attachments;
use understudy_engine::parameters::{Leaves, Parameters};
use understudy_engine::random::Random;

use super::settings::Motion;
use crate::adapter::Adapter;
use crate::metadata::MotionName;
use crate::stages::data::TrainingSet;
use crate::stages::objective::Learner;
use crate::stages::residuals::{Dropout, Residuals};
use crate::stages::rows::Rows;
use crate::stages::run::Run;

impl Motion {
    /// The rows of the motions' tokens, from the subjects' class nouns, beside those of the subjects, which
    /// stay at `looks`.
    pub(super) fn rows(&self, run: &Run, looks: Tensor<2>) -> Rows {
        let trained =
            run.starts().iter().enumerate().map(|(index, start)| (self.token_of(index), start.clone()));
        let subjects = run.job.subjects().map(|subject| subject.token.clone()).collect();
        Rows { trained: trained.collect(), fixed: Some((subjects, looks)), rate: run.learning.token_rate }
    }
}

/// Trains added coefficients on clips in their order.
pub(super) struct MotionLearner<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) motion: &'a Motion,
    pub(super) residuals: &'a Residuals,
    /// What the residuals were trained to for the looks.
    pub(super) looks: &'a Parameters,
    pub(super) clips: &'a TrainingSet,
    /// Clips of two subjects side by side.
    pub(super) stitched: &'a TrainingSet,
    pub(super) prior: &'a TrainingSet,
}

impl Learner for MotionLearner<'_> {
    fn name(&self) -> &'static str {
        "motion"
    }

    fn initialize(&self, device: &Device) -> Parameters {
        self.residuals.initialize_coefficients(device)
    }

    fn attachments(&self, leaves: &Leaves, step: u64) -> Attachments {
        let dropout = Dropout { share: self.motion.dropout, seed: self.run.learning.seed, step };
        self.residuals.attach_added_with(self.looks, leaves, dropout)
    }

    /// Now and then two subjects side by side.
    fn samples(&self, random: &mut Random) -> &TrainingSet {
        let both = !self.stitched.is_empty() && random.uniform() < f64::from(self.motion.stitched);
        if both { self.stitched } else { self.clips }
    }

    fn sets(&self) -> Vec<&TrainingSet> {
        vec![self.clips, self.stitched]
    }

    fn prior(&self) -> Option<&TrainingSet> {
        Some(self.prior)
    }

    fn adapter(&self, parameters: &Parameters, rows: Tensor<2>) -> Adapter {
        let tokens: Vec<String> =
            (0..self.run.starts().len()).map(|index| self.motion.token_of(index)).collect();
        let mut adapter = self.run.adapter(self.residuals.finished(self.looks), rows, &tokens);
        adapter.metadata.motion =
            Some(MotionName { token: self.motion.token.clone(), basis: self.run.learning.basis });
        adapter.motion = self.residuals.finished_coefficients(parameters);
        adapter
    }

    fn prompts(&self, phrase: &str) -> Vec<String> {
        vec![format!("a {phrase} {}", self.motion.token)]
    }
}
