//! What the numbers of a configuration may be: a file can say anything, and a network built from zeros, odd
//! halves or absurd sizes would fail far from its cause.

use std::ops::RangeInclusive;

use understudy_models::umt5::Umt5Config;
use understudy_models::wan_transformer::WanTransformerConfig;
use understudy_models::wan_vae::WanVaeConfig;

/// A field, and what it must be.
type Fault = (&'static str, String);
/// A field, its value and its range.
type Size = (&'static str, usize, RangeInclusive<usize>);

/// Widths of layers.
const WIDTH: RangeInclusive<usize> = 1..=1 << 16;
/// Numbers of layers.
const LAYERS: RangeInclusive<usize> = 1..=1000;

pub(crate) fn text_encoder(config: &Umt5Config) -> Result<(), Fault> {
    sizes(&[
        ("vocab_size", config.vocab_size, 1..=1 << 24),
        ("d_model", config.d_model, WIDTH),
        ("d_kv", config.d_kv, WIDTH),
        ("d_ff", config.d_ff, WIDTH),
        ("num_layers", config.num_layers, LAYERS),
        ("num_heads", config.num_heads, 1..=1024),
        ("relative_attention_num_buckets", config.relative_attention_num_buckets, 4..=4096),
    ])?;
    // Half of the buckets look back; half of those hold one distance each, and the others the rest.
    let exact = config.relative_attention_num_buckets / 4;
    sizes(&[(
        "relative_attention_max_distance",
        config.relative_attention_max_distance,
        exact + 1..=1 << 24,
    )])?;
    positive("layer_norm_epsilon", &[config.layer_norm_epsilon])
}

pub(crate) fn transformer(config: &WanTransformerConfig) -> Result<(), Fault> {
    let [frames, rows, columns] = config.patch_size;
    sizes(&[
        ("patch_size", frames.min(rows).min(columns), 1..=64),
        ("patch_size", frames.max(rows).max(columns), 1..=64),
        ("num_attention_heads", config.num_attention_heads, 1..=1024),
        ("attention_head_dim", config.attention_head_dim, 2..=4096),
        ("in_channels", config.in_channels, WIDTH),
        ("out_channels", config.out_channels, WIDTH),
        ("text_dim", config.text_dim, WIDTH),
        ("freq_dim", config.freq_dim, 2..=1 << 16),
        ("ffn_dim", config.ffn_dim, 1..=1 << 20),
        ("num_layers", config.num_layers, LAYERS),
        ("rope_max_seq_len", config.rope_max_seq_len, 1..=1 << 20),
    ])?;
    for (field, value) in [("attention_head_dim", config.attention_head_dim), ("freq_dim", config.freq_dim)] {
        if value % 2 == 1 {
            return Err((field, format!("even, not {value}")));
        }
    }
    positive("eps", &[config.eps])
}

pub(crate) fn autoencoder(config: &WanVaeConfig) -> Result<(), Fault> {
    let multiples = &config.dim_mult;
    sizes(&[
        ("base_dim", config.base_dim, 1..=4096),
        ("decoder_base_dim", config.decoder_base_dim.unwrap_or(1), 1..=4096),
        ("z_dim", config.z_dim, 1..=4096),
        ("num_res_blocks", config.num_res_blocks, 0..=100),
        ("dim_mult", multiples.iter().copied().min().unwrap_or(0), 1..=64),
        ("dim_mult", multiples.iter().copied().max().unwrap_or(0), 1..=64),
    ])?;
    if multiples.len() > 8 {
        return Err(("dim_mult", format!("a list of at most 8, not {}", multiples.len())));
    }
    if !config.latents_mean.iter().all(|mean| mean.is_finite()) {
        return Err(("latents_mean", "finite numbers".to_owned()));
    }
    positive("latents_std", &config.latents_std)
}

fn sizes(fields: &[Size]) -> Result<(), Fault> {
    match fields.iter().find(|(_, value, range)| !range.contains(value)) {
        None => Ok(()),
        Some((field, value, range)) => {
            Err((*field, format!("between {} and {}, not {value}", range.start(), range.end())))
        }
    }
}

fn positive(field: &'static str, values: &[f32]) -> Result<(), Fault> {
    match values.iter().find(|value| !(value.is_finite() && **value > 0.0)) {
        None => Ok(()),
        Some(value) => Err((field, format!("positive, not {value}"))),
    }
}
