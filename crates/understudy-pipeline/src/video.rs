//! Videos to normalized latents and back, and the sizes that fit.

use burn::tensor::Tensor;
use understudy_models::tiling::Tiles;
use understudy_models::wan_vae::WanVae;

use crate::base::{Base, BaseConfig};
use crate::error::{Error, Result};

/// The latents `(channels, frames, height, width)` of a video of `[frames, height, width]`.
///
/// # Errors
/// When a size does not divide into latents and patches, naming the nearest that do, or when a side has more
/// tokens than the denoiser has positions.
pub fn latent_shape(config: &BaseConfig, [frames, height, width]: [usize; 3]) -> Result<[usize; 4]> {
    let (vae, transformer) = (&config.vae, &config.transformer);
    let [patch_frames, patch_height, patch_width] = transformer.patch_size;
    let spatial = vae.spatial_factor();
    let positions = transformer.rope_max_seq_len;
    Ok([
        vae.z_dim,
        latent_frames(frames, vae.temporal_factor(), patch_frames, positions)?,
        latent_side("height", height, spatial, patch_height, positions)?,
        latent_side("width", width, spatial, patch_width, positions)?,
    ])
}

/// The first frame stands alone, and every latent frame after it holds `factor`.
fn latent_frames(frames: usize, factor: usize, patch: usize, positions: usize) -> Result<usize> {
    let video = |patches: usize| (patches * patch - 1) * factor + 1;
    // The most patches there can be in `frames`.
    let fitting = frames.checked_sub(1).map_or(0, |rest| (rest / factor + 1) / patch);
    if (1..=positions).contains(&fitting) && video(fitting) == frames {
        return Ok(fitting * patch);
    }
    let whole = match patch {
        1 => String::new(),
        _ => format!(", in whole patches of {patch} latent frames"),
    };
    let rule = format!("1 more than a multiple of {factor}{whole}");
    Err(unfit("frames", frames, rule, (fitting, positions), video))
}

fn latent_side(
    what: &'static str,
    pixels: usize,
    factor: usize,
    patch: usize,
    positions: usize,
) -> Result<usize> {
    let multiple = factor * patch;
    let fitting = pixels / multiple;
    if (1..=positions).contains(&fitting) && pixels.is_multiple_of(multiple) {
        return Ok(pixels / factor);
    }
    let side = |patches: usize| patches * multiple;
    Err(unfit(what, pixels, format!("a multiple of {multiple}"), (fitting, positions), side))
}

/// The error of a length that holds `fitting` patches and something, where a base has so many positions; `length` is what so
/// many patches make.
fn unfit(
    what: &'static str,
    value: usize,
    rule: String,
    (fitting, positions): (usize, usize),
    length: impl Fn(usize) -> usize,
) -> Error {
    let rule = match fitting < positions {
        true => rule,
        false => {
            let most = length(positions);
            format!("{rule}, and at most {most}, as this base has positions for {positions}")
        }
    };
    let below = fitting.min(positions);
    let above = fitting.saturating_add(1);
    Error::Size {
        what,
        value,
        rule,
        below: (below > 0).then(|| length(below)),
        above: (above <= positions).then(|| length(above)),
    }
}

/// The normalized latents `(batch, channels, frames, height, width)` a denoiser is trained on, of
/// `video (batch, 3, frames, height, width)` in [-1, 1]: the mean the autoencoder gives, encoded a few frames
/// at a time.
///
/// # Errors
/// When the video's size does not fit the base (see [`latent_shape`]), or its encoder cannot be read any more.
pub fn encode_video(base: &Base, video: Tensor<5>) -> Result<Tensor<5>> {
    let [_, _, frames, height, width] = video.dims();
    latent_shape(&base.config, [frames, height, width])?;
    let latents = base.vae.normalize(base.vae.encode_streamed(video).mean);
    base.check_read()?;
    Ok(latents)
}

/// The video `(batch, 3, frames, height, width)` in [0, 1] of normalized latents
/// `(batch, channels, frames, height, width)`, decoded one latent frame at a time, and in `tiles` if the picture is
/// larger than one.
pub fn decode_video(vae: &WanVae, latents: Tensor<5>, tiles: Option<Tiles>) -> Tensor<5> {
    let [_, _, _, rows, columns] = latents.dims();
    let pixels = [rows, columns].map(|side| side * vae.config().spatial_factor());
    let latents = vae.denormalize(latents);
    let video = match tiles.filter(|tiles| tiles.divide(pixels)) {
        Some(tiles) => vae.decode_tiled(latents, tiles),
        None => vae.decode_streamed(latents),
    };
    (video / 2.0 + 0.5).clamp(0.0, 1.0)
}
