//! Evaluations during a fit.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use understudy_evaluate::{ClipJudge, Embedder, mean_cosine};
use understudy_media::Image;
use understudy_personalize::{Evaluation, Judge, Subject};
use understudy_pipeline::Description;

use crate::base::is_nano;
use crate::context::Context;
use crate::event::Event;
use crate::judges;
use crate::outputs::Input;
use crate::usage::WrongUsage;

/// Who evaluates a fit.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Evaluations")]
pub struct Judging {
    /// Evaluate the adapter every so many steps and keep the best.
    ///
    /// The best has the highest identity of those whose text score is at least 0.9 of the base's.
    #[arg(long, value_name = "N")]
    pub evaluate_every: Option<i64>,
    /// The CLIP that scores texts, as a Hugging Face folder [nano's].
    #[arg(long, value_name = "DIR", requires = "evaluate_every")]
    clip: Option<PathBuf>,
    /// The DINO that scores identity, as a Hugging Face folder [nano's identity encoder].
    #[arg(long, value_name = "DIR", requires = "evaluate_every", conflicts_with = "identity")]
    dino: Option<PathBuf>,
    /// An identity encoder in its place: an ArcFace IResNet's file, or a folder as `pretrain` writes it.
    #[arg(long, value_name = "FILE|DIR", requires = "evaluate_every")]
    identity: Option<PathBuf>,
}

/// A CLIP, and an encoder that knows the subject.
pub struct Seen<'a> {
    clip: ClipJudge,
    looks: Box<dyn Embedder>,
    references: Vec<Vec<f32>>,
    context: &'a Context<'a>,
}

impl Judging {
    /// What is read.
    pub fn inputs(&self) -> Vec<Input> {
        let named = [("--clip", &self.clip), ("--dino", &self.dino), ("--identity", &self.identity)];
        named.into_iter().filter_map(|(flag, path)| Some(Input::new(flag, path.as_ref()?))).collect()
    }

    /// Steps between evaluations, if some are asked for.
    ///
    /// # Errors
    /// When they are fewer than none.
    pub fn checked(&self) -> Result<Option<i64>> {
        match self.evaluate_every {
            Some(every) if every < 0 => {
                Err(WrongUsage(format!("--evaluate-every {every}: must be 0 or more")).into())
            }
            every => Ok(every),
        }
    }

    /// The judge of `subject`, if one is asked for.
    ///
    /// # Errors
    /// When a network cannot be read, or none is named for a base that is not `nano`.
    pub fn judge<'a>(
        &self,
        subject: &Subject,
        about: &Description,
        context: &'a Context<'a>,
    ) -> Result<Option<Seen<'a>>> {
        let device = &context.device;
        if self.evaluate_every.is_none_or(|every| every <= 0) {
            return Ok(None);
        }
        let named = self.clip.is_some() && (self.dino.is_some() || self.identity.is_some());
        if !named && !is_nano(about) {
            let reason = "--evaluate-every: for this base, name who judges: --clip, and --dino or --identity";
            return Err(WrongUsage(reason.to_owned()).into());
        }
        let clip = judges::clip(self.clip.as_deref(), device)?;
        let looks = match &self.dino {
            Some(folder) => judges::dino(Some(folder), device)?,
            None => judges::identity(self.identity.as_deref(), device)?,
        };
        let pictures = subject.pictures.iter().map(|own| own.picture.image.clone());
        let frames = subject.clips.iter().flat_map(|clip| clip.frames.iter().cloned());
        let pictures: Vec<Image> = pictures.chain(frames).collect();
        let references = looks.embed(&pictures)?;
        Ok(Some(Seen { clip, looks, references, context }))
    }
}

impl Judge for Seen<'_> {
    fn text(&self, video: &[Image], prompt: &str) -> Result<f64, String> {
        let score = || -> understudy_evaluate::Result<f64> {
            Ok(mean_cosine(&self.clip.embed(video)?, &self.clip.embed_texts(&[prompt])?))
        };
        score().map_err(|error| error.to_string())
    }

    fn identity(&self, video: &[Image]) -> Result<f64, String> {
        let seen = self.looks.embed(video).map_err(|error| error.to_string())?;
        Ok(mean_cosine(&seen, &self.references))
    }

    fn hear(&self, evaluation: &Evaluation) {
        self.context.tell(&Event::Evaluation { evaluation: *evaluation });
    }
}
