//! The published configuration of a UNet.

use serde::{Deserialize, Serialize};

use crate::motion_module::MotionConfig;
use crate::per_block::PerBlock;

/// The published `config.json` of a UNet, as far as it is read; what is absent has diffusers' own values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SdUnetConfig {
    /// Latent channels in.
    pub in_channels: usize,
    /// Latent channels out.
    pub out_channels: usize,
    /// Channels of each level.
    pub block_out_channels: Vec<usize>,
    /// The kind of each down block.
    pub down_block_types: Vec<String>,
    /// The kind of the middle.
    pub mid_block_type: Option<String>,
    /// The kind of each up block, from the deepest.
    pub up_block_types: Vec<String>,
    /// Residual blocks of a down block; an up block has one more.
    pub layers_per_block: PerBlock,
    /// Transformer blocks of an attention.
    pub transformer_layers_per_block: PerBlock,
    /// The number of heads, unless `num_attention_heads` gives it: a mistake in the name that is kept for
    /// compatibility.
    pub attention_head_dim: PerBlock,
    /// The number of heads.
    pub num_attention_heads: Option<PerBlock>,
    /// Channels of the text.
    pub cross_attention_dim: PerBlock,
    /// Whether attentions begin and end with linear maps; convolutions of one pixel otherwise, which are the
    /// same but for the shape of their weights.
    pub use_linear_projection: bool,
    /// Groups of every normalization.
    pub norm_num_groups: usize,
    /// Epsilon of the residual blocks' normalizations.
    pub norm_eps: f32,
    /// Whether the time's cosines come before its sines.
    pub flip_sin_to_cos: bool,
    /// Subtracted from half of the time's channels where frequencies are spread.
    pub freq_shift: f32,
    /// Zeros around what is halved.
    pub downsample_padding: usize,
    /// Nonlinearity.
    pub act_fn: String,
    /// Whether an attention looks at the text alone.
    pub only_cross_attention: serde_json::Value,
    /// How time enters residual blocks.
    pub resnet_time_scale_shift: String,
    /// How time is embedded.
    pub time_embedding_type: String,
    /// What else is embedded.
    #[serde(flatten)]
    pub others: serde_json::Map<String, serde_json::Value>,
}

impl Default for SdUnetConfig {
    fn default() -> Self {
        let names = |names: [&str; 4]| names.map(str::to_owned).to_vec();
        let [cross, plain] =
            ["CrossAttn", ""].map(|kind| [format!("{kind}DownBlock2D"), format!("{kind}UpBlock2D")]);
        Self {
            in_channels: 4,
            out_channels: 4,
            block_out_channels: vec![320, 640, 1280, 1280],
            down_block_types: names([&cross[0], &cross[0], &cross[0], &plain[0]]),
            mid_block_type: Some(MID.to_owned()),
            up_block_types: names([&plain[1], &cross[1], &cross[1], &cross[1]]),
            layers_per_block: PerBlock::One(2),
            transformer_layers_per_block: PerBlock::One(1),
            attention_head_dim: PerBlock::One(8),
            num_attention_heads: None,
            cross_attention_dim: PerBlock::One(1280),
            use_linear_projection: false,
            norm_num_groups: 32,
            norm_eps: 1e-5,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            downsample_padding: 1,
            act_fn: "silu".to_owned(),
            only_cross_attention: false.into(),
            resnet_time_scale_shift: "default".to_owned(),
            time_embedding_type: "positional".to_owned(),
            others: serde_json::Map::new(),
        }
    }
}

const MID: &str = "UNetMidBlock2DCrossAttn";

/// Options of diffusers that are not implemented, with the value they must have where it is not null, false
/// or absent.
const OTHERS: [(&str, &str); 19] = [
    ("center_input_sample", "false"),
    ("mid_block_scale_factor", "1"),
    ("mid_block_only_cross_attention", "null"),
    ("reverse_transformer_layers_per_block", "null"),
    ("encoder_hid_dim", "null"),
    ("encoder_hid_dim_type", "null"),
    ("dual_cross_attention", "false"),
    ("class_embed_type", "null"),
    ("addition_embed_type", "null"),
    ("num_class_embeds", "null"),
    ("resnet_skip_time_act", "false"),
    ("resnet_out_scale_factor", "1"),
    ("time_embedding_dim", "null"),
    ("time_embedding_act_fn", "null"),
    ("timestep_post_act", "null"),
    ("time_cond_proj_dim", "null"),
    ("conv_in_kernel", "3"),
    ("conv_out_kernel", "3"),
    ("cross_attention_norm", "null"),
];

impl SdUnetConfig {
    /// Levels.
    pub fn depth(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Channels of level `level`.
    pub fn channels(&self, level: usize) -> usize {
        self.block_out_channels.get(level).copied().unwrap_or(1)
    }

    /// Channels of the time embedding.
    pub fn time_dim(&self) -> usize {
        4 * self.channels(0)
    }

    /// Residual blocks of down block `level`; an up block has one more.
    pub fn layers(&self, level: usize) -> usize {
        self.layers_per_block.of(level)
    }

    pub(super) fn transformer_layers(&self, level: usize) -> usize {
        self.transformer_layers_per_block.of(level)
    }

    pub(super) fn heads(&self, level: usize) -> usize {
        self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim).of(level)
    }

    pub(super) fn text_dim(&self, level: usize) -> usize {
        self.cross_attention_dim.of(level)
    }

    /// What in this configuration is not implemented, if anything.
    pub fn unsupported(&self) -> Option<String> {
        let depth = self.depth();
        if depth == 0 || self.down_block_types.len() != depth || self.up_block_types.len() != depth {
            return Some(
                "block_out_channels, down_block_types and up_block_types must be of one length".into(),
            );
        }
        let known = |name: &String, kinds: [&str; 2]| kinds.contains(&name.as_str());
        let down =
            self.down_block_types.iter().find(|name| !known(name, ["CrossAttnDownBlock2D", "DownBlock2D"]));
        let up = self.up_block_types.iter().find(|name| !known(name, ["CrossAttnUpBlock2D", "UpBlock2D"]));
        if let Some(name) = down.or(up) {
            return Some(format!("block type {name:?} is not known"));
        }
        if self.mid_block_type.as_deref() != Some(MID) {
            return Some(format!("mid_block_type: {:?} is not known", self.mid_block_type));
        }
        self.unsupported_extents().or_else(|| self.unsupported_option())
    }

    /// Why these motion modules do not go into this UNet, if there is a reason.
    pub fn unsupported_motion(&self, motion: &MotionConfig) -> Option<String> {
        if motion.block_out_channels != self.block_out_channels {
            let (own, its) = (&self.block_out_channels, &motion.block_out_channels);
            return Some(format!(
                "block_out_channels of the motion modules are {its:?}, of the UNet {own:?}"
            ));
        }
        let layers = |level: &usize| motion.layers(*level) == self.layers(*level);
        if let Some(level) = (0..self.depth()).find(|level| !layers(level)) {
            let (own, its) = (self.layers(level), motion.layers(level));
            return Some(format!(
                "motion_layers_per_block: {its} at level {level}, where the UNet has {own}"
            ));
        }
        motion.unsupported()
    }

    fn unsupported_extents(&self) -> Option<String> {
        let depth = self.depth();
        let lists = [
            ("layers_per_block", &self.layers_per_block),
            ("transformer_layers_per_block", &self.transformer_layers_per_block),
            ("attention_head_dim", self.num_attention_heads.as_ref().unwrap_or(&self.attention_head_dim)),
            ("cross_attention_dim", &self.cross_attention_dim),
        ];
        if let Some((name, _)) = lists.iter().find(|(_, list)| !list.fits(depth)) {
            return Some(format!("{name} must be one positive number, or one for each block"));
        }
        let divides = |level: usize| {
            let channels = self.channels(level);
            let divisors = [self.norm_num_groups, self.heads(level)];
            divisors.iter().all(|divisor| *divisor > 0 && channels > 0 && channels.is_multiple_of(*divisor))
        };
        let wrong = (0..depth).find(|level| !divides(*level))?;
        Some(format!(
            "{} channels in {} groups, {} heads",
            self.channels(wrong),
            self.norm_num_groups,
            self.heads(wrong)
        ))
    }

    fn unsupported_option(&self) -> Option<String> {
        let words = [
            ("act_fn", self.act_fn.as_str(), &["silu", "swish"][..]),
            ("resnet_time_scale_shift", &self.resnet_time_scale_shift, &["default"]),
            ("time_embedding_type", &self.time_embedding_type, &["positional"]),
        ];
        if let Some((name, value, _)) = words.iter().find(|(_, value, known)| !known.contains(value)) {
            return Some(format!("{name}: {value:?} is not known"));
        }
        let wants = match &self.only_cross_attention {
            serde_json::Value::Array(blocks) => blocks.iter().any(|block| *block != false),
            one => *one != false,
        };
        if wants {
            return Some("only_cross_attention is not supported".into());
        }
        let differs = |(name, expected): &&(&str, &str)| {
            let Some(value) = self.others.get(*name) else { return false };
            let number = value.as_f64().zip(expected.parse().ok()).is_some_and(|(a, b): (f64, f64)| a == b);
            !(value.is_null() || *value == false || number)
        };
        let (name, _) = OTHERS.iter().find(differs)?;
        Some(format!("{name}: {} is not supported", self.others[*name]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_implemented_is_named() {
        assert_eq!(SdUnetConfig::default().unsupported(), None);
        for (json, named) in [
            (
                r#"{"down_block_types": ["AttnDownBlock2D", "DownBlock2D", "DownBlock2D", "DownBlock2D"]}"#,
                "AttnDownBlock2D",
            ),
            (r#"{"mid_block_type": null}"#, "mid_block_type"),
            (r#"{"addition_embed_type": "text_time"}"#, "addition_embed_type"),
            (r#"{"only_cross_attention": [true, false, false, false]}"#, "only_cross_attention"),
            (r#"{"block_out_channels": [320]}"#, "one length"),
            (r#"{"attention_head_dim": [5, 10]}"#, "attention_head_dim"),
            (r#"{"norm_num_groups": 7}"#, "7 groups"),
            (r#"{"conv_in_kernel": 1}"#, "conv_in_kernel"),
            (r#"{"act_fn": "gelu"}"#, "act_fn"),
        ] {
            let config: SdUnetConfig = serde_json::from_str(json).expect("a configuration");
            let reason = config.unsupported().unwrap_or_default();
            assert!(reason.contains(named), "{json}: {reason:?}");
        }
    }
}
