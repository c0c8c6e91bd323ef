//! The names that trainers and editors give to masks: what they are called after, and the folders they lie
//! in.

/// Words for a mask (`masklabel` is OneTrainer's, `matte` and `alpha` are of editors, `seg` of networks), and
/// whether names of ordinary pictures have them, too; the likeliest first.
const WORDS: [(&[u8], bool); 12] = [
    (b"mask", true),
    (b"masklabel", false),
    (b"masks", true),
    (b"masklabels", false),
    (b"seg", true),
    (b"segm", true),
    (b"segmentation", true),
    (b"segs", true),
    (b"matte", true),
    (b"mattes", true),
    (b"alpha", true),
    (b"alphas", true),
];
/// What stands between a name and such a word.
const BETWEEN: [u8; 4] = *b"._- ";
/// Folders of masks, apart from those that are called by a word for one.
const FOLDERS: [&[u8]; 4] = [b"conditioning", b"conditioning_data", b"conditioning_data_dir", b"seg_masks"];
/// Words for a picture that stand before its number where `mask` does before its mask's.
const PICTURES: [&[u8]; 8] = [b"image", b"img", b"picture", b"pic", b"photo", b"frame", b"rgb", b"color"];

/// What a mask belongs to, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// What that is called, without its extension or with it.
    pub name: Vec<u8>,
    /// How likely the name is that of a mask: the less the likelier.
    pub rank: usize,
    /// Whether the name of the mask could be that of an ordinary picture: then it is a mask only where its
    /// picture is there.
    pub common: bool,
}

/// What a file or folder of this name, in one spelling and without its extension, is a mask of; the likeliest
/// first, nothing where it is not called as a mask: `NAME_mask`, `NAME_mask_0`, `mask_NAME`, `mask_0001` of
/// `image_0001`.
pub(crate) fn owners(stem: &[u8]) -> Vec<Owner> {
    if let Some(owner) = ending(stem) {
        return vec![owner];
    }
    // Several masks of one picture are numbered.
    if let Some(owner) = without_number(stem).and_then(ending) {
        return vec![Owner { rank: WORDS.len() + owner.rank, common: true, ..owner }];
    }
    let begins = |(rank, (word, _)): (usize, &(&[u8], bool))| {
        let (between, rest) = stem.strip_prefix(*word)?.split_first()?;
        BETWEEN.contains(between).then_some((2 * WORDS.len() + rank, *between, rest))
    };
    let Some((rank, between, rest)) = WORDS.iter().enumerate().find_map(begins) else { return Vec::new() };
    let owner = |name: Vec<u8>| Owner { name, rank, common: true };
    if rest.is_empty() {
        return Vec::new();
    }
    let numbered = rest.iter().all(u8::is_ascii_digit);
    let others = PICTURES.iter().filter(|_| numbered).map(|word| [word, &[between][..], rest].concat());
    [rest.to_vec()].into_iter().chain(others).map(owner).collect()
}

/// What is before a word for a mask that a name ends in.
fn ending(stem: &[u8]) -> Option<Owner> {
    WORDS.iter().enumerate().find_map(|(rank, (word, common))| {
        let (between, name) = stem.strip_suffix(*word)?.split_last()?;
        let sure = !common || *between == b'.' && word.starts_with(b"mask");
        let found = BETWEEN.contains(between) && !name.is_empty();
        found.then(|| Owner { name: name.to_vec(), rank, common: !sure })
    })
}

/// Whether a folder of this name, in one spelling, holds masks that are called as their pictures are.
pub(crate) fn is_mask_folder(name: &[u8]) -> bool {
    let start = name.iter().position(|byte| !BETWEEN.contains(byte)).unwrap_or(name.len());
    let end = name.iter().rposition(|byte| !BETWEEN.contains(byte)).map_or(start, |last| last + 1);
    let plain = &name[start..end];
    FOLDERS.contains(&plain) || WORDS.iter().any(|(word, _)| *word == plain)
}

/// `NAME` of `NAME_12` and `NAME12`; nothing where there is no number at the end.
fn without_number(stem: &[u8]) -> Option<&[u8]> {
    let end = stem.iter().rposition(|byte| !byte.is_ascii_digit())? + 1;
    let name = stem[..end].strip_suffix(b"_").or(stem[..end].strip_suffix(b"-")).unwrap_or(&stem[..end]);
    (end < stem.len()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_called_after_what_it_is_of() {
        let of = |stem: &str| {
            let names = owners(stem.as_bytes()).into_iter();
            names.map(|own| String::from_utf8_lossy(&own.name).into_owned()).collect::<Vec<_>>()
        };
        for stem in [
            "a_mask",
            "a-masklabel",
            "a mask",
            "a.mask",
            "a_masks",
            "a_seg",
            "a-matte",
            "a_alpha",
            "a_mask_0",
            "a_mask-12",
            "a_mask3",
            "mask_a",
            "seg-a",
        ] {
            assert_eq!(of(stem), ["a"], "{stem}");
        }
        assert_eq!(of("mask_0001")[..3], ["0001", "image_0001", "img_0001"]);
        for stem in ["mask", "_mask", "amask", "masked_man", "alphabet", "a_12", "12", "", "mask_"] {
            assert_eq!(of(stem), [""; 0], "{stem}");
        }
        assert!(
            owners(b"a_seg")[0].common && !owners(b"a.mask")[0].common && !owners(b"a-masklabel")[0].common
        );
    }

    #[test]
    fn folders_of_masks_are_known() {
        for name in ["masks", "_masks", "mask", "alpha", "matte", "seg", "segmentation", "conditioning"] {
            assert!(is_mask_folder(name.as_bytes()), "{name}");
        }
        for name in ["more", "masked", "", "_", "a_masks"] {
            assert!(!is_mask_folder(name.as_bytes()), "{name}");
        }
    }
}
