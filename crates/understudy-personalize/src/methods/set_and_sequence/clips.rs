//! Whether a clip can teach a motion.

use understudy_media::{Image, Video};

use crate::error::{Error, Result};

/// How many levels of 255 some part of the picture must become lighter or darker by, on the mean over the
/// part, where anything moves: noise of a sensor stays below, since a part has many pixels.
const STILL: f64 = 2.0;
/// Parts along each side of a picture.
const PARTS: usize = 8;
/// A cut differs so many times as much as the median pair of frames, and at least so much.
const CUT: f64 = 8.0;
const LEAST_CUT: f64 = 24.0;

/// That something moves in clips, and that none changes its shot.
///
/// # Errors
/// Says what is wrong, and where.
pub(crate) fn check_clips(clips: &[Video]) -> Result<()> {
    let fault = |reason: String| Error::Subject { field: "subject", reason };
    // The clips are one video in pieces: a cut may also be between two of them.
    let frames: Vec<&Image> = clips.iter().flat_map(|clip| &clip.frames).collect();
    let all: Vec<f64> = frames.windows(2).map(|pair| pair[0].difference(pair[1])).collect();
    if change(&frames) < STILL {
        let reason = "does not move; give a clip with motion, or learn its looks with --method lora";
        return Err(fault(reason.to_owned()));
    }
    let usual = median(&all);
    match all.iter().position(|own| *own > LEAST_CUT && *own > CUT * usual) {
        Some(at) => Err(fault(format!("changes its shot at frame {}; cut the clip there", at + 1))),
        None => Ok(()),
    }
}

/// The most that the mean of any part of the picture changes by over all frames.
fn change(frames: &[&Image]) -> f64 {
    let mut ranges = [(f64::INFINITY, f64::NEG_INFINITY); PARTS * PARTS];
    for frame in frames {
        for (range, mean) in ranges.iter_mut().zip(parts(frame)) {
            *range = (range.0.min(mean), range.1.max(mean));
        }
    }
    ranges.iter().map(|(least, most)| most - least).fold(0.0, f64::max)
}

/// The mean level of each part of a picture.
fn parts(image: &Image) -> [f64; PARTS * PARTS] {
    let mut sums = [(0.0, 0.0); PARTS * PARTS];
    for (at, pixel) in image.rgb.chunks_exact(3).enumerate() {
        let (x, y) = (at % image.width * PARTS / image.width, at / image.width * PARTS / image.height);
        let (sum, count) = &mut sums[y * PARTS + x];
        *sum += pixel.iter().map(|sample| f64::from(*sample)).sum::<f64>() / 3.0;
        *count += 1.0;
    }
    sums.map(|(sum, count)| if count > 0.0 { sum / count } else { 0.0 })
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
        assert!(said(&[clip([7; 9])]).contains("does not move"));
        // A sensor's noise is no motion; a few pixels that move are.
        let noise =
            |at: usize, x: usize, y: usize| (((x * 7 + y * 13 + at * 29) * 2_654_435_761) >> 7) as u8 % 9;
        let frame = |at: usize, dot: usize| {
            Image::from_fn(64, 64, |x, y| {
                if x.abs_diff(dot) < 2 && y < 4 { [250; 3] } else { [100 + noise(at, x, y); 3] }
            })
        };
        let video =
            |dot: fn(usize) -> usize| Video::new((0..9).map(|at| frame(at, dot(at))).collect(), 8.0).unwrap();
        assert!(said(&[video(|_| 20)]).contains("does not move"));
        check_clips(&[video(|at| 20 + at)]).unwrap();
        assert!(said(&[clip([0, 2, 4, 6]), clip([8, 10, 200, 202])]).contains("frame 6"));
        assert!(said(&[clip([0, 2, 4, 6]), clip([200, 202, 204])]).contains("frame 4"));
    }
}
