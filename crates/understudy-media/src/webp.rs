//! Animated WebP through libwebp.

use webp_animation::{ColorMode, Encoder, EncoderOptions, EncodingConfig};

use crate::Video;

/// The format's largest side.
const MAX_SIDE: usize = 16_383;

/// Whether the format holds frames of this size.
pub(crate) fn check_size(width: usize, height: usize) -> Result<(), String> {
    match width.max(height) {
        side if side > MAX_SIDE => Err(format!("a WebP has at most {MAX_SIDE} pixels a side, not {side}")),
        _ => Ok(()),
    }
}

/// Encodes an endless lossy animation at `quality` (0 worst, 100 best).
pub(crate) fn encode(video: &Video, quality: f32) -> Result<Vec<u8>, String> {
    check_size(video.width(), video.height())?;
    let options = EncoderOptions {
        color_mode: ColorMode::Rgb,
        encoding_config: Some(EncodingConfig::new_lossy(quality)),
        ..EncoderOptions::default()
    };
    let mut encoder = Encoder::new_with_options((video.width() as u32, video.height() as u32), options)
        .map_err(|e| e.to_string())?;
    let time = |index: usize| (index as f64 * 1000.0 / video.fps).round() as i32;
    for (index, frame) in video.frames.iter().enumerate() {
        encoder.add_frame(&frame.rgb, time(index)).map_err(|e| e.to_string())?;
    }
    let data = encoder.finalize(time(video.frames.len())).map_err(|e| e.to_string())?;
    Ok(data.to_vec())
}
