//! Animated WebP through libwebp.

use webp_animation::{ColorMode, Encoder, EncoderOptions, EncodingConfig};

use crate::Video;

/// Encodes an endless lossy animation at `quality` (0 worst, 100 best).
pub(crate) fn encode(video: &Video, quality: f32) -> Result<Vec<u8>, String> {
    let side = |n: usize| match u32::try_from(n) {
        Ok(n) if n <= 16_383 => Ok(n),
        _ => Err(format!("a WebP has at most 16383 pixels a side, not {n}")),
    };
    let options = EncoderOptions {
        color_mode: ColorMode::Rgb,
        encoding_config: Some(EncodingConfig::new_lossy(quality)),
        ..EncoderOptions::default()
    };
    let mut encoder = Encoder::new_with_options((side(video.width())?, side(video.height())?), options)
        .map_err(|e| e.to_string())?;
    let time = |index: usize| (index as f64 * 1000.0 / video.fps).round() as i32;
    for (index, frame) in video.frames.iter().enumerate() {
        encoder.add_frame(&frame.rgb, time(index)).map_err(|e| e.to_string())?;
    }
    let data = encoder.finalize(time(video.frames.len())).map_err(|e| e.to_string())?;
    Ok(data.to_vec())
}
