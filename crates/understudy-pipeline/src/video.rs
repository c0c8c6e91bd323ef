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
    let latent = [
        latent_frames(frames, vae.temporal_factor(), patch_frames)?,
        latent_side("height", height, spatial, patch_height)?,
        latent_side("width", width, spatial, patch_width)?,
    ];
    let longest = transformer.rope_max_seq_len;
    for (what, value, patch) in [
        ("frames", latent[0], patch_frames),
        ("height", latent[1], patch_height),
        ("width", latent[2], patch_width),
    ] {
        if value / patch > longest {
            let reason =
                format!("makes {} tokens and this base has positions for {longest}; lower it", value / patch);
            return Err(Error::Request { field: what, reason });
        }
    }
    Ok([vae.z_dim, latent[0], latent[1], latent[2]])
}

/// The first frame stands alone, and every latent frame after it holds `factor`.
fn latent_frames(frames: usize, factor: usize, patch: usize) -> Result<usize> {
    let video = |latent: usize| (latent - 1) * factor + 1;
    // The most latents that whole patches allow below `frames`.
    let fitting = match frames {
        0 => 0,
        _ => ((frames - 1) / factor + 1) / patch * patch,
    };
    if fitting > 0 && video(fitting) == frames {
        return Ok(fitting);
    }
    Err(Error::Size {
        what: "frames",
        value: frames,
        rule: match patch {
            1 => format!("1 more than a multiple of {factor}"),
            _ => format!("1 more than a multiple of {factor}, in whole patches of {patch} latent frames"),
        },
        below: (fitting > 0).then(|| video(fitting)),
        above: Some(video(fitting + patch)),
    })
}

fn latent_side(what: &'static str, pixels: usize, factor: usize, patch: usize) -> Result<usize> {
    let multiple = factor * patch;
    if pixels > 0 && pixels.is_multiple_of(multiple) {
        return Ok(pixels / factor);
    }
    let below = pixels / multiple * multiple;
    Err(Error::Size {
        what,
        value: pixels,
        rule: format!("a multiple of {multiple}"),
        below: (below > 0).then_some(below),
        above: Some(below + multiple),
    })
}

/// The normalized latents `(batch, channels, frames, height, width)` a denoiser is trained on, of
/// `video (batch, 3, frames, height, width)` in [-1, 1]: the mean the autoencoder gives, encoded a few frames
/// at a time.
///
/// # Errors
/// When the video's size does not fit the base; see [`latent_shape`].
pub fn encode_video(base: &Base, video: Tensor<5>) -> Result<Tensor<5>> {
    let [_, _, frames, height, width] = video.dims();
    latent_shape(&base.config, [frames, height, width])?;
    Ok(base.vae.normalize(base.vae.encode_streamed(video).mean))
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
