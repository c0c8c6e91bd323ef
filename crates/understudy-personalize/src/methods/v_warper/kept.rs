//! What an adapter keeps of the subject's pictures.

use understudy_engine::host::values;
use understudy_media::{Picture, Range};

use super::warp::Reference;
use crate::error::Result;
use crate::job::Job;
use crate::stages::data::{Input, held_still, loss_weights};
use crate::stages::settings::Learning;
use crate::subject::SubjectPicture;

/// The subject's pictures as the adapter keeps them: each as it is, held still for as many frames as it is
/// trained, with its mask.
///
/// # Errors
/// When there is none, or one cannot be cut to the training size.
pub(super) fn references(job: &Job, learning: &Learning) -> Result<Vec<Reference>> {
    let reference = |picture: &SubjectPicture| -> Result<Reference> {
        let Picture { image, mask } = picture.picture.cover_crop(learning.size)?;
        let frames = if learning.augmentation.held > 0 { learning.augmentation.held_frames } else { 1 };
        let shape = [frames, learning.size[0], learning.size[1]];
        let planar = held_still(&image.to_planar(Range::Signed), frames);
        let input = Input { planar, shape, masks: Vec::new(), prompts: Vec::new() };
        let latents = job.base.encode(input.video(job.base))?;
        let mask = mask.map(|mask| values(loss_weights(&[mask], &latents.clone().narrow(2, 0, 1), 0.0)));
        Ok(Reference { latents, mask })
    };
    job.subject.pictures.iter().map(reference).collect()
}
