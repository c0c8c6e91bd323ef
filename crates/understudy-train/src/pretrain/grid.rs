//! Pictures of samples, to be looked at while training goes on.

use std::path::Path;

use burn::tensor::Tensor;
use understudy_media::Image;

use understudy_engine::host;

use crate::error::TrainError;

/// Writes every `stride`-th frame of `videos (clips, 3, frames, rows, columns)` in [-1, 1] as a PNG, one clip
/// a row, every pixel `scale` times as large.
///
/// # Errors
/// When the picture cannot be written.
pub fn frames_grid(videos: Tensor<5>, stride: usize, scale: usize, path: &Path) -> Result<(), TrainError> {
    let [clips, _, frames, rows, columns] = videos.dims();
    let values = host::values(videos);
    let shown: Vec<usize> = (0..frames).step_by(stride).collect();
    let [width, height] = [shown.len() * columns * scale, clips * rows * scale];
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            let [clip, row] = [y / scale / rows, y / scale % rows];
            let [frame, column] = [shown[x / scale / columns], x / scale % columns];
            for channel in 0..3 {
                let at = (((clip * 3 + channel) * frames + frame) * rows + row) * columns + column;
                rgb.push(((values[at] + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8);
            }
        }
    }
    let other = |reason: String| TrainError::Other(reason);
    let image = Image::new(width, height, rgb).map_err(|error| other(error.to_string()))?;
    image.write_png(path).map_err(|error| other(error.to_string()))
}
