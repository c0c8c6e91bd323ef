//! Whether a clip can teach a motion.

use understudy_media::{Image, Video};

use crate::error::{Error, Result};

/// Mean difference of consecutive frames, of 255, below which nothing moves.
const STILL: f64 = 0.15;
/// A cut differs so many times as much as the median pair of frames, and at least so much.
const CUT: f64 = 8.0;
const LEAST_CUT: f64 = 24.0;

/// That there are clips, that something moves in them, and that none changes its shot.
///
/// # Errors
/// Says what is wrong, and where.
pub(crate) fn check_clips(clips: &[Video]) -> Result<()> {
    let fault = |reason: String| Error::Subject { field: "subject", reason };
    if clips.is_empty() {
        let reason = "has no clip to learn a motion from; give a video, at least as long as clip_frames";
        return Err(fault(reason.to_owned()));
    }
    // The clips are one video in pieces: a cut may also be between two of them.
    let frames: Vec<&Image> = clips.iter().flat_map(|clip| &clip.frames).collect();
    let all: Vec<f64> = frames.windows(2).map(|pair| pair[0].difference(pair[1])).collect();
    if all.iter().all(|own| *own < STILL) {
        let reason = "does not move; give a clip with motion, or learn its looks with --method lora";
        return Err(fault(reason.to_owned()));
    }
    let usual = median(&all);
    match all.iter().position(|own| *own > LEAST_CUT && *own > CUT * usual) {
        Some(at) => Err(fault(format!("changes its shot at frame {}; cut the clip there", at + 1))),
        None => Ok(()),
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn clip(colors: impl IntoIterator<Item = u8>) -> Video {
        Video::new(colors.into_iter().map(|color| Image::filled(8, 8, [color; 3])).collect(), 8.0).unwrap()
    }

    #[test]
    fn clips_must_move_in_one_shot() {
        let said = |clips: &[Video]| check_clips(clips).unwrap_err().to_string();
        check_clips(&[clip((0..9).map(|at| 10 * at))]).unwrap();
        // A frame that stands still among others that do not is no fault.
        check_clips(&[clip([0, 10, 10, 20]), clip([30, 40])]).unwrap();
        assert!(said(&[]).contains("no clip"));
        assert!(said(&[clip([7; 9])]).contains("does not move"));
        assert!(said(&[clip([0, 2, 4, 6]), clip([8, 10, 200, 202])]).contains("frame 6"));
        assert!(said(&[clip([0, 2, 4, 6]), clip([200, 202, 204])]).contains("frame 4"));
    }
}
