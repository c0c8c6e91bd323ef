//! Which of Wan's denoisers a file holds, told from its tensors in any naming, and what a network is that is
//! none of Wan's.
//!
//! Only those that take a text and nothing else can be run. What the others take beside it has tensors of its
//! own, or more channels than those of the latents.

use super::shapes::Shapes;

/// What a denoiser takes beside the text.
struct Extra {
    /// What such a denoiser is called.
    name: &'static str,
    /// What it takes.
    takes: &'static str,
    /// How the names of tensors begin that only it has, in a block of it or outside, in any naming.
    tensors: &'static [&'static str],
}

const fn extra(name: &'static str, takes: &'static str, tensors: &'static [&'static str]) -> Extra {
    Extra { name, takes, tensors }
}

const VACE: &str = "VACE";
const FIRST_AND_LAST: &str = "FLF2V";
const IMAGE: &str = "I2V";
const CONTROL: &str = "Fun Control";

/// Those that are told by tensors of their own; the first that has one is it.
const EXTRAS: [Extra; 16] = [
    extra(VACE, "control frames and masks", &["vace_patch_embedding.", "vace_blocks."]),
    extra("Animate", "poses and faces", &["face_adapter.", "pose_patch_embedding.", "motion_encoder.enc."]),
    extra("S2V", "speech", &["casual_audio_encoder.", "audio_injector.", "trainable_cond_mask."]),
    extra("HuMo", "pictures and speech", &["audio_proj.audio_proj_glob_", "audio_cross_attn_wrapper."]),
    extra("MultiTalk or InfiniteTalk", "a picture and speech", &["audio_proj.", "audio_cross_attn."]),
    extra("FantasyTalking", "a picture and speech", &["proj_model.", "cross_attn.processor."]),
    extra("SCAIL", "a picture and poses", &["patch_embedding_pose.", "patch_embedding_mask."]),
    extra(
        "WanDancer",
        "a picture and music",
        &["music_encoder.", "music_injector.", "patch_embedding_global."],
    ),
    extra("UniAnimate", "a picture and poses", &["dwpose_embedding.", "randomref_embedding_pose."]),
    extra("Fun Camera Control", "a path of the camera", &["control_adapter."]),
    extra("ReCamMaster", "a video and a path of the camera", &["cam_encoder.", "projector."]),
    extra(CONTROL, "control frames and a picture", &["ref_conv."]),
    extra("SkyReels V2 diffusion forcing", "a frame rate", &["fps_embedding.", "fps_projection."]),
    extra("FastWan", "sparse attention", &["to_gate_compress."]),
    extra(
        FIRST_AND_LAST,
        "the first and the last picture",
        &["img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"],
    ),
    extra(
        IMAGE,
        "a picture",
        &[
            "img_emb.",
            "condition_embedder.image_embedder.",
            "cross_attn.k_img.",
            "cross_attn.v_img.",
            "cross_attn.norm_k_img.",
            "attn2.add_k_proj.",
            "attn2.add_v_proj.",
            "attn2.norm_added_k.",
        ],
    ),
];

/// A kind of Wan's denoiser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// Its published name, or what can be said of one that nobody published.
    pub(crate) name: Option<String>,
    /// Why it cannot be run, if it cannot.
    pub(crate) not_supported: Option<String>,
}

/// Widths, blocks and the names of the published sizes.
const SIZES: [(usize, usize, &str); 3] = [(1536, 30, "1.3B"), (5120, 40, "14B"), (3072, 30, "5B")];

impl Kind {
    /// The kind of a denoiser with tensors of these shapes, by diffusers' names where they are known.
    pub(crate) fn of(shapes: &Shapes) -> Self {
        let channels = Channels::of(shapes);
        let size = SIZES.into_iter().find(|&(width, blocks, _)| {
            channels.as_ref().is_some_and(|own| own.width == width) && shapes.blocks() == blocks
        });
        let size = size.map(|(.., name)| name);
        let extra = EXTRAS.iter().find(|extra| shapes.by_name().keys().any(|name| extra.has(name)));
        let image = shapes.by_name().keys().any(|name| EXTRAS[EXTRAS.len() - 1].has(name));
        match (extra, channels) {
            (Some(extra), channels) => Self::with(extra, channels.map(|own| own.taken), image, size),
            (None, Some(channels)) => Self::without(&channels, size),
            (None, None) => Self { name: None, not_supported: None },
        }
    }

    /// One that has tensors of `extra`, takes so many `channels`, and has those of a picture or not.
    fn with(extra: &Extra, channels: Option<usize>, image: bool, size: Option<&str>) -> Self {
        let (name, takes) = match (extra.name, channels, image, size) {
            (IMAGE, Some(48), ..) => (CONTROL, "control frames and a picture"),
            (IMAGE, Some(36), true, Some("1.3B")) => ("Fun InP or SkyReels V2 I2V", extra.takes),
            _ => (extra.name, extra.takes),
        };
        // Those of Wan 2.2 have no tensors of a picture.
        let newer = match (extra.name, channels) {
            ("Animate" | "S2V", _) => true,
            (CONTROL | "Fun Camera Control", Some(channels)) => !image && channels > 16,
            _ => false,
        };
        let version = if newer { "2.2" } else { "2.1" };
        // What it has beside the usual blocks counts in its name.
        let size = if name == "HuMo" { size.map(|_| "17B") } else { size };
        let size = size.map(|size| format!(" {size}")).unwrap_or_default();
        let name = format!("Wan {version} {name}{size}");
        let not_supported =
            Some(format!("it takes {takes} beside the text; only text-to-video is supported"));
        Self { name: Some(name), not_supported }
    }

    /// One without tensors of its own.
    fn without(channels: &Channels, size: Option<&str>) -> Self {
        let Channels { taken, given, .. } = *channels;
        let name = match (size, taken, given) {
            (Some("1.3B"), 16, 16) => "Wan 2.1 T2V 1.3B",
            // Both denoisers of Wan 2.2's text-to-video have the same shapes.
            (Some("14B"), 16, 16) => "Wan 2.1 T2V 14B, or a half of Wan 2.2 T2V A14B",
            (Some("14B"), 36, 16) => "a half of Wan 2.2 I2V A14B (or of Fun InP)",
            (Some("14B"), 52, 16) => "a half of Wan 2.2 Fun Control A14B",
            (Some("5B"), 48, 48) => "Wan 2.2 TI2V 5B",
            (Some("5B"), 96, 48) => "Lucy Edit, of Wan 2.2 TI2V 5B",
            (Some("5B"), 100, 48) => "Wan 2.2 Fun Control 5B",
            _ => "",
        };
        let beside = match taken.checked_sub(given) {
            None | Some(0) => None,
            Some(more) => Some(format!(
                "it takes {more} channels beside the {given} of the latents, those of a picture or a video, and only \
                 text-to-video is supported"
            )),
        };
        let newer = (size == Some("5B") && given == 48).then(|| {
            "it needs Wan 2.2's autoencoder of 48 channels, which is not supported; Wan 2.1's is".to_owned()
        });
        Self { name: (!name.is_empty()).then(|| name.to_owned()), not_supported: beside.or(newer) }
    }

    /// What it is and why it cannot be run, if it cannot.
    pub(crate) fn refusal(&self) -> Option<String> {
        let reason = self.not_supported.as_ref()?;
        Some(match &self.name {
            Some(name) => format!("it is {name}: {reason}"),
            None => reason.clone(),
        })
    }
}

impl Extra {
    /// Whether a tensor of this `name` is one of it.
    fn has(&self, name: &str) -> bool {
        let inner = name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')).map(|(_, rest)| rest);
        let own = inner.unwrap_or(name);
        self.tensors.iter().any(|tensor| own.starts_with(tensor))
    }
}

/// The width of a denoiser, and the channels it takes and gives.
struct Channels {
    width: usize,
    taken: usize,
    given: usize,
}

impl Channels {
    fn of(shapes: &Shapes) -> Option<Self> {
        let shape = |name: &str| shapes.by_name().get(name).map(Vec::as_slice);
        let &[width, taken, frames, rows, columns] = shape("patch_embedding.weight")? else { return None };
        let patch = frames * rows * columns;
        let given = match shape("proj_out.weight") {
            Some(&[outputs, _]) if patch > 0 => outputs / patch,
            _ => taken,
        };
        Some(Self { width, taken, given })
    }
}

#[cfg(test)]
mod tests {
    use super::super::original;
    use super::*;
    use crate::wrapped;

    /// A denoiser of so many channels, width and blocks, with further tensors, in Wan's own names behind a
    /// prefix.
    fn kind(prefix: &str, [taken, given, width, blocks]: [usize; 4], further: &[&str]) -> Kind {
        let mut shapes = vec![
            ("patch_embedding.weight".to_owned(), vec![width, taken, 1, 2, 2]),
            ("head.head.weight".to_owned(), vec![4 * given, width]),
        ];
        for block in 0..blocks {
            shapes.push((format!("blocks.{block}.ffn.2.weight"), vec![width, 2 * width]));
        }
        shapes.extend(further.iter().map(|name| ((*name).to_owned(), vec![width])));
        let named = |(name, shape): (String, Vec<usize>)| {
            let name = wrapped::bare(&format!("{prefix}{name}"));
            (original::denoiser(&name).unwrap_or(name), shape)
        };
        Kind::of(&shapes.into_iter().map(named).collect())
    }

    #[test]
    fn the_kinds_that_people_have_are_told_apart() {
        const IMAGE: &[&str] = &["img_emb.proj.1.weight", "blocks.0.cross_attn.k_img.weight"];
        const DIFFUSERS: &[&str] = &["condition_embedder.image_embedder.norm1.weight"];
        const BOTH: &[&str] = &["img_emb.proj.1.weight", "img_emb.emb_pos"];
        const REFERENCE: &[&str] = &["ref_conv.weight", "img_emb.proj.1.weight"];
        const CAMERA: &[&str] = &["control_adapter.conv.weight", "img_emb.proj.1.weight"];
        let (small, large, middle) = ([1536, 30], [5120, 40], [3072, 30]);
        type Case<'a> = ([usize; 2], [usize; 2], &'a [&'a str], &'a str, bool);
        let cases: [Case; 25] = [
            ([16, 16], small, &[], "Wan 2.1 T2V 1.3B", true),
            ([16, 16], large, &[], "Wan 2.1 T2V 14B", true),
            ([36, 16], large, IMAGE, "Wan 2.1 I2V 14B", false),
            ([36, 16], large, DIFFUSERS, "Wan 2.1 I2V 14B", false),
            ([36, 16], large, BOTH, "Wan 2.1 FLF2V 14B", false),
            ([36, 16], small, IMAGE, "Wan 2.1 Fun InP or SkyReels V2 I2V 1.3B", false),
            ([48, 16], small, IMAGE, "Wan 2.1 Fun Control 1.3B", false),
            ([48, 16], large, REFERENCE, "Wan 2.1 Fun Control 14B", false),
            ([32, 16], small, CAMERA, "Wan 2.1 Fun Camera Control 1.3B", false),
            ([16, 16], small, &["vace_blocks.0.before_proj.weight"], "Wan 2.1 VACE 1.3B", false),
            ([16, 16], large, &["vace_patch_embedding.weight"], "Wan 2.1 VACE 14B", false),
            ([36, 16], large, &[], "a half of Wan 2.2 I2V A14B", false),
            ([52, 16], large, &["ref_conv.weight"], "Wan 2.2 Fun Control 14B", false),
            ([36, 16], large, &["control_adapter.conv.weight"], "Wan 2.2 Fun Camera Control 14B", false),
            ([48, 48], middle, &[], "Wan 2.2 TI2V 5B", false),
            ([100, 48], middle, &[], "Wan 2.2 Fun Control 5B", false),
            ([36, 16], large, &["face_adapter.fuser_blocks.0.k_norm.weight"], "Wan 2.2 Animate 14B", false),
            ([16, 16], large, &["casual_audio_encoder.weights"], "Wan 2.2 S2V 14B", false),
            ([36, 16], large, &["audio_proj.audio_proj_glob_1.layer.bias"], "Wan 2.1 HuMo 17B", false),
            ([36, 16], large, &["audio_proj.proj1.weight", "img_emb.proj.1.weight"], "MultiTalk", false),
            ([20, 16], large, &["patch_embedding_pose.weight"], "Wan 2.1 SCAIL 14B", false),
            ([16, 16], small, &["fps_embedding.weight"], "SkyReels V2 diffusion forcing 1.3B", false),
            ([16, 16], small, &["blocks.0.cam_encoder.weight"], "Wan 2.1 ReCamMaster 1.3B", false),
            ([16, 16], small, &["blocks.0.to_gate_compress.weight"], "Wan 2.1 FastWan 1.3B", false),
            // Of no published size.
            ([12, 8], [32, 2], IMAGE, "Wan 2.1 I2V", false),
        ];
        for ([taken, given], [width, blocks], further, name, supported) in cases {
            for prefix in ["", "model.diffusion_model.", "diffusion_model.", "model."] {
                let found = kind(prefix, [taken, given, width, blocks], further);
                let own = found.name.clone().unwrap_or_default();
                assert!(own.contains(name), "{name}: {own}");
                assert_eq!(found.not_supported.is_none(), supported, "{name}");
            }
        }
        let unknown = kind("", [12, 8, 32, 2], &[]);
        assert_eq!(unknown.name, None);
        assert!(unknown.refusal().is_some_and(|reason| reason.contains("4 channels")));
        assert_eq!(kind("", [8, 8, 32, 2], &[]).refusal(), None);
    }
}
