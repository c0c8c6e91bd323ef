//! The embedded judges: a CLIP of the puppet world, and an identity encoder.

use burn::tensor::Device;
use understudy_media::Image;
use understudy_pipeline::Files;

use crate::error::Result;
use crate::metrics::mean_cosine;
use crate::networks::{ClipJudge, Embedder, IdentityJudge};
use crate::retrieval::cosine;

/// The judges that stand beside a base.
#[derive(Debug)]
pub struct Judges {
    /// Tells how well a clip fits a text.
    pub clip: ClipJudge,
    /// Tells how much a character looks like another.
    pub identity: IdentityJudge,
}

impl Judges {
    /// Loads `judges/clip` and `judges/identity` of a base's files.
    ///
    /// # Errors
    /// When a file is missing or malformed, or weights do not fit their configuration.
    pub fn load(files: &Files, device: &Device) -> Result<Self> {
        Ok(Self {
            clip: ClipJudge::load(files, "judges/clip", device)?,
            identity: IdentityJudge::load(files, "judges/identity", device)?,
        })
    }

    /// How well a clip fits `prompt`: the cosine of their embeddings, in [-1, 1].
    ///
    /// # Errors
    /// When there is no frame, or the prompt is longer than the text tower reads.
    pub fn clip_text_score(&self, frames: &[Image], prompt: &str) -> Result<f64> {
        let texts = self.clip.embed_texts(&[prompt])?;
        Ok(cosine(&self.clip_video_embedding(frames)?, texts.first().map_or(&[][..], Vec::as_slice)))
    }

    /// The CLIP embedding of a clip, of length one; see [`ClipJudge::embed_video`].
    ///
    /// # Errors
    /// When there is no frame.
    pub fn clip_video_embedding(&self, frames: &[Image]) -> Result<Vec<f32>> {
        self.clip.embed_video(frames)
    }

    /// How much the character of `frames` looks like that of `references`: the mean cosine over all pairs.
    ///
    /// # Errors
    /// When there is no frame or no reference.
    pub fn identity_similarity(&self, frames: &[Image], references: &[Image]) -> Result<f64> {
        Ok(mean_cosine(&self.identity.embed(frames)?, &self.identity.embed(references)?))
    }
}
