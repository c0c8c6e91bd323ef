//! Telling runs apart, so that a state or a cache is only used by the run that made it.

use burn::tensor::Tensor;
use understudy_engine::attach::Attachments;
use understudy_pipeline::{PromptOptions, encode_prompt};

use crate::config::LoraConfig;
use crate::job::Job;
use crate::row::RowStart;

/// A hash of everything a run's numbers depend on.
pub(crate) struct Fingerprint(u64);

impl Fingerprint {
    /// Of the base's architecture and a sample of its weights, the subject, and all settings.
    pub(crate) fn new(job: &Job, config: &LoraConfig, start: &RowStart) -> Self {
        let mut hash = Self(0xcbf2_9ce4_8422_2325);
        hash.add(job.base.identity.as_bytes());
        hash.add(format!("{config:?}").as_bytes());
        hash.add_tensor(start.row.clone());
        // The class noun as the denoiser sees it depends on both networks that read text.
        if let Ok(states) = encode_prompt(job.base, &[&job.subject.class], PromptOptions::default()) {
            let context = job.base.transformer.context(states, &Attachments::none());
            hash.add_tensor(context.flatten(0, 2));
        }
        let subject = job.subject;
        hash.add(format!("{}\n{}", subject.class, subject.token).as_bytes());
        for picture in &subject.pictures {
            hash.add(format!("{:?}", picture.caption).as_bytes());
            hash.add(&picture.picture.image.rgb);
            hash.add(picture.picture.mask.as_ref().map_or(&[], |mask| &mask.alpha));
        }
        for frame in subject.clips.iter().flat_map(|clip| &clip.frames) {
            hash.add(&frame.rgb);
        }
        hash
    }

    /// FNV-1a: short, stable, and only has to keep runs apart.
    fn add(&mut self, bytes: &[u8]) {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.0 = (bytes.len() as u64).to_le_bytes().iter().chain(bytes).fold(self.0, step);
    }

    fn add_tensor(&mut self, tensor: Tensor<1>) {
        let values: Vec<f32> = tensor.into_data().try_into_vec().unwrap_or_default();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.add(&bytes);
    }

    pub(crate) fn finish(self) -> String {
        format!("{:016x}", self.0)
    }
}
