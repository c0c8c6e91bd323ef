//! What adapters are made for that are of Wan and not for Wan 2.1's text-to-video.

/// By a part of their keys; the first that is found is meant.
pub(super) const RELATIVES: [(&str, &str); 11] = [
    ("transformer_2.", "the low-noise half of Wan 2.2 A14B, which this program has no base for"),
    ("vace_", "VACE"),
    ("control_adapter", "Wan Fun with camera control"),
    ("ref_conv", "Wan Fun with references"),
    ("face_adapter", "Wan 2.2 Animate"),
    ("face_encoder", "Wan 2.2 Animate"),
    ("motion_encoder", "Wan 2.2 Animate"),
    ("pose_patch_embedding", "Wan 2.2 Animate"),
    ("audio_injector", "Wan 2.2 S2V"),
    ("casual_audio_encoder", "Wan 2.2 S2V"),
    ("trainable_cond_mask", "Wan 2.2 S2V"),
];

/// What is to be said of a file that was made for Wan 2.2, as its header or its name says: its A14B has two
/// denoisers of the shapes of Wan 2.1's.
pub(super) fn made_for(file: &str, bases: &[(&str, &str)]) -> Option<String> {
    let is_newer = |text: &str| {
        let text = text.to_lowercase();
        ["2.2", "wan22", "wan2_2"].iter().any(|version| text.contains(version))
    };
    let half = ["high", "low"].into_iter().find(|half| {
        ["_noise", "-noise", "noise", " noise"].iter().any(|end| file.contains(&format!("{half}{end}")))
    });
    let made = match (bases.first().filter(|(_, value)| is_newer(value)), half) {
        (Some((field, value)), _) => format!("its header says {field} {value:?}: it was made for Wan 2.2"),
        (None, Some(half)) => format!("its name says {half} noise: it is a half of a pair for Wan 2.2 A14B"),
        (None, None) => return None,
    };
    Some(format!("{made}, of which there is no base here; on Wan 2.1 it does not do what it was trained for"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_for_wan_2_2_are_known_by_header_or_name() {
        let told =
            |name: &str, value: &str| made_for(name, &[("ss_base_model_version", value)]).unwrap_or_default();
        assert!(told("a.safetensors", "wan2.2-t2v-a14b").contains("ss_base_model_version"));
        assert!(told("cat_highnoise.safetensors", "").contains("high noise"));
        assert!(told("cat-low_noise_lora.safetensors", "").contains("low noise"));
        assert_eq!(told("slow.safetensors", "wan2.1-t2v-14b"), "");
    }
}
