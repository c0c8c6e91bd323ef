//! Telling runs apart, so that a state or a cache is only used by the run that made it.

use burn::tensor::Tensor;
use understudy_engine::attach::Attached;
use understudy_engine::hash::Fnv;
use understudy_engine::host::values;
use understudy_pipeline::{Base, PromptOptions, Step, Texts, encode_prompt};

use super::row::RowStart;
use crate::error::Result;
use crate::job::Job;
use crate::subject::Subject;

/// What a run's numbers depend on beside its settings, looked at once.
pub(crate) struct Fingerprint<'a> {
    job: &'a Job<'a>,
    /// What the base's networks make of small inputs.
    seen: Bytes,
}

/// Numbers in the order they are hashed.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl<'a> Fingerprint<'a> {
    /// Of the base's architecture and what its networks make of small inputs, and the subjects.
    ///
    /// # Errors
    /// When the class cannot be encoded.
    pub(crate) fn new(job: &'a Job<'a>, starts: &[RowStart]) -> Result<Self> {
        let mut seen = Bytes::default();
        for start in starts {
            seen.add_tensor(start.row.clone());
        }
        let texts = encode_prompt(job.base, &[&job.subject.class], PromptOptions::default())?;
        seen.add_tensor(texts.words.clone().flatten(0, 2));
        seen.add_networks(job.base, texts)?;
        Ok(Self { job, seen })
    }

    /// A hash of all that and of the `settings` in words.
    pub(crate) fn with(&self, settings: &str) -> String {
        let mut hash = Hash(Fnv::default());
        hash.add(self.job.base.about.identity.as_bytes());
        hash.add(settings.as_bytes());
        hash.0.add(self.seen.0.iter().copied());
        for subject in self.job.subjects() {
            hash.add_subject(subject);
        }
        format!("{:016x}", hash.0.finish())
    }
}

/// A hash of pieces, each with its length, so that neighbours cannot trade places.
struct Hash(Fnv);

impl Hash {
    fn add_subject(&mut self, subject: &Subject) {
        self.add(format!("{}\n{}", subject.class, subject.token).as_bytes());
        for picture in &subject.pictures {
            self.add(format!("{:?} {:?}", picture.caption, picture.size).as_bytes());
            self.add(&picture.picture.image.rgb);
            self.add(picture.picture.mask.as_ref().map_or(&[], |mask| &mask.alpha));
        }
        if !subject.clip_captions.is_empty() {
            self.add(subject.clip_captions.join("\n").as_bytes());
        }
        for mask in subject.clip_masks.iter().flatten() {
            self.add(&mask.alpha);
        }
        for frame in subject.clips.iter().flat_map(|clip| &clip.frames) {
            self.add(&frame.rgb);
        }
    }

    /// Goes on with `bytes` and their number.
    fn add(&mut self, bytes: &[u8]) {
        self.0.add((bytes.len() as u64).to_le_bytes());
        self.0.add(bytes.iter().copied());
    }
}

impl Bytes {
    /// What the encoder and the denoiser make of the smallest input there is. What is learned does not depend
    /// on the decoder.
    fn add_networks(&mut self, base: &Base, texts: Texts) -> Result<()> {
        let [frames, height, width] = base.about.geometry.smallest();
        let latents = base.encode(Tensor::full([1, 3, frames, height, width], 0.25, &base.device))?;
        let step = Step { latents: latents.clone(), timesteps: &[500.0], progress: 0.0, attached: None };
        let prediction = base.networks.denoiser.with_texts(texts, &Attached::none(), None).predict(step);
        self.add_tensor(prediction.flatten(0, 4));
        self.add_tensor(latents.flatten(0, 4));
        Ok(())
    }

    /// Goes on with a tensor's bytes and their number, as [`Hash::add`] does.
    fn add_tensor(&mut self, tensor: Tensor<1>) {
        let values = values(tensor);
        self.0.extend((4 * values.len() as u64).to_le_bytes());
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
}
