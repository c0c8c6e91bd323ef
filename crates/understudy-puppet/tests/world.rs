//! What users of the world rely on.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeSet, HashMap, HashSet};

use understudy_puppet::{
    Action, Class, Detail, Error, Feature, Identity, Light, MAX_WORDS, Motion, Part, Quirk, Scenario, Scene,
    Size, Split, World, vocabulary,
};

fn fnv(text: &str) -> u64 {
    text.bytes()
        .fold(0xCBF2_9CE4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3))
}

fn world() -> World {
    World::new(Size::default()).unwrap()
}

#[test]
fn scenarios_are_the_same_on_every_machine() {
    let hash = |split| {
        let scenarios: Vec<_> = (0..200).map(|index| Scenario::from_index(split, index)).collect();
        fnv(&serde_json::to_string(&scenarios).unwrap())
    };
    let captions: String =
        (0..200).map(|index| Scenario::from_index(Split::Train, index).caption()).collect();
    assert_eq!([hash(Split::Train), hash(Split::HeldOut), fnv(&captions)], GOLDEN_SCENARIOS);
}

const GOLDEN_SCENARIOS: [u64; 3] =
    [9_891_485_359_696_829_555, 11_009_743_570_166_810_865, 4_513_956_684_791_037_327];

/// Per clip the mean of each channel and the share of masked pixels, in thousandths. Rasterizers may differ
/// in the last bit between instruction sets; means hardly do.
#[test]
fn pixels_stay_as_they_are() {
    let found: Vec<[f64; 4]> = (0..GOLDEN_PIXELS.len() as u64)
        .map(|index| {
            let clip = world().render(&Scenario::from_index(Split::Train, index));
            let channel = |c: usize| {
                let sum: u64 = clip.frames.iter().skip(c).step_by(3).map(|&value| u64::from(value)).sum();
                sum as f64 * 1000.0 / 255.0 / (clip.frames.len() / 3) as f64
            };
            let masked = clip.masks[0].iter().filter(|&&value| value != 0).count() as f64 * 1000.0;
            [channel(0), channel(1), channel(2), masked / clip.masks[0].len() as f64]
        })
        .collect();
    let close = |(found, golden): (&f64, &f64)| (found - golden).abs() <= 1.0;
    let same = found.as_flattened().iter().zip(GOLDEN_PIXELS.as_flattened()).all(close);
    assert!(same, "{found:.1?} is not {GOLDEN_PIXELS:.1?}");
}

const GOLDEN_PIXELS: [[f64; 4]; 4] = [
    [138.9, 128.0, 186.9, 139.9],
    [380.4, 338.7, 467.4, 198.4],
    [684.7, 697.4, 682.2, 228.9],
    [705.0, 659.6, 709.8, 244.1],
];

#[test]
fn rendering_again_gives_the_same_bytes() {
    for index in 0..6 {
        let scenario = world().scenario(Split::HeldOut, index);
        assert_eq!(scenario, Scenario::from_index(Split::HeldOut, index));
        let text = serde_json::to_string(&scenario).unwrap();
        let read: Scenario = serde_json::from_str(&text).unwrap();
        let rendered = std::thread::spawn(move || world().render(&read)).join().unwrap();
        assert!(rendered == world().render(&scenario));
    }
}

#[test]
fn there_are_a_billion_identities() {
    const { assert!(Identity::DISTINCT >= 1_000_000_000) };
    let (codes, identities): (HashSet<_>, HashSet<_>) =
        (0..50_000).map(|index| Identity::from_index(Split::Train, index)).map(|it| (it.code(), it)).unzip();
    assert_eq!(codes.len(), identities.len());
    assert!(identities.len() >= 49_990, "{} distinct of 50000", identities.len());
}

#[test]
fn splits_never_share_an_identity_or_a_motion() {
    let identities = |split| (0..100_000).map(move |index| Identity::from_index(split, index));
    let train: HashSet<_> = identities(Split::Train).map(|it| it.code()).collect();
    assert!(identities(Split::HeldOut).all(|it| it.split() == Split::HeldOut && !train.contains(&it.code())));

    let programs = |split| (0..20_000).map(move |index| Motion::from_index(split, index).code());
    let train: HashSet<_> = programs(Split::Train).collect();
    let held_out: HashSet<_> = programs(Split::HeldOut).collect();
    assert!(train.is_disjoint(&held_out));
    assert!((train.len() + held_out.len()) as u64 <= Motion::DISTINCT);
    assert!(held_out.len() as u64 > Motion::DISTINCT / 20, "only {} held-out programs", held_out.len());
}

#[test]
fn scenarios_keep_to_their_split() {
    for split in Split::ALL {
        for actor in (0..5_000).flat_map(|index| Scenario::from_index(split, index).actors) {
            assert_eq!(actor.identity.split(), split);
            assert_eq!(actor.motion.split(), Some(split));
        }
    }
}

#[test]
fn idiosyncratic_motions_belong_to_no_split() {
    let motions: Vec<_> = (0..500).map(Motion::idiosyncratic).collect();
    assert!(motions.iter().all(|motion| motion.split().is_none() && motion.code() >= Motion::DISTINCT));
    let quirks: HashSet<_> = motions.iter().filter_map(|motion| motion.quirk).collect();
    assert_eq!(quirks.len(), Quirk::COUNT);
    // Nor do they look like the action that they change.
    for &motion in &motions[..Quirk::COUNT] {
        let clip = |motion| {
            let hero = Identity::of_class(Class::Bear, Split::Train, 1);
            world().render(&Scenario::solo(hero, motion, Scene::Room, 2))
        };
        let (odd, plain) = (clip(motion), clip(Motion { quirk: None, ..motion }));
        let different = odd.masks[0].iter().zip(&plain.masks[0]).filter(|(a, b)| a != b).count();
        assert!(different > 17 * 40, "{:?} differs by {different} pixels", motion.quirk);
    }
}

#[test]
fn every_class_action_and_scene_occurs() {
    let scenarios: Vec<_> = (0..2_000).map(|index| Scenario::from_index(Split::Train, index)).collect();
    let mut actions: HashMap<Action, usize> = HashMap::new();
    let mut classes: HashMap<Class, usize> = HashMap::new();
    for actor in scenarios.iter().flat_map(|scenario| &scenario.actors) {
        *actions.entry(actor.motion.action).or_default() += 1;
        *classes.entry(actor.identity.class()).or_default() += 1;
    }
    assert!(Action::ALL.iter().all(|action| actions[action] > 90), "{actions:?}");
    assert!(Class::ALL.iter().all(|class| classes[class] > 180), "{classes:?}");
    let scenes: HashSet<_> = scenarios.iter().map(|scenario| scenario.scene).collect();
    assert_eq!(scenes.len(), Scene::COUNT);
    let pairs = scenarios.iter().filter(|scenario| scenario.actors.len() == 2).count();
    assert!((200..400).contains(&pairs), "{pairs} of 2000 have two actors");
}

#[test]
fn captions_keep_to_the_vocabulary_and_the_length() {
    let vocabulary: BTreeSet<_> = vocabulary().into_iter().collect();
    let mut said = BTreeSet::new();
    for index in 0..20_000 {
        let split = if index % 2 == 0 { Split::Train } else { Split::HeldOut };
        let scenario = Scenario::from_index(split, index);
        for caption in [scenario.caption(), scenario.caption_with(index, Detail::Full)] {
            let words: Vec<_> = caption.split(' ').map(str::to_owned).collect();
            assert!(words.len() <= MAX_WORDS, "{caption}");
            assert!(words.iter().all(|word| vocabulary.contains(word)), "{caption}");
            said.extend(words);
        }
    }
    assert_eq!(said, vocabulary, "words that no caption says");
}

#[test]
fn a_subject_phrase_replaces_the_description() {
    let cat = Identity::of_class(Class::Cat, Split::HeldOut, 3);
    let scenario = Scenario::solo(cat, Motion::new(Action::Jump), Scene::Beach, 9).with_light(Light::Sunset);
    for seed in 0..20 {
        let caption = scenario.caption_with_subject("<s> cat", seed, Detail::Full);
        assert!(caption.starts_with("<s> cat "), "{caption}");
        assert!(caption.contains("beach") && !caption.contains(cat.body.word()), "{caption}");
    }
    assert_eq!(cat.describe(Detail::Brief), "cat");
    assert!(cat.describe(Detail::Full).contains(cat.body.word()));
}

#[test]
fn masks_cover_the_characters_and_nothing_else() {
    for index in 0..60 {
        let scenario = world().scenario(Split::Train, index);
        let clip = world().render(&scenario);
        let mut empty = scenario.clone();
        // Objects on the ground stay where they are.
        for actor in &mut empty.actors {
            actor.height = 0;
        }
        let empty = world().render(&empty);
        for (actor, mask) in clip.masks.iter().enumerate() {
            assert!(mask.iter().all(|&value| value == 0 || value == 255));
            for (frame, mask) in mask.chunks_exact(64 * 64).enumerate() {
                let bounds = clip.boxes[actor][frame].unwrap();
                let area = mask.iter().filter(|&&value| value != 0).count();
                assert!(area > 60, "clip {index} frame {frame}: {area} pixels");
                assert!(area <= (bounds.right - bounds.left) * (bounds.bottom - bounds.top));
            }
        }
        if scenario.actors.iter().any(|actor| actor.object.is_some_and(|object| !object.kind.is_carried())) {
            continue;
        }
        for at in 0..17 * 64 * 64 {
            let covered = clip.masks.iter().filter(|mask| mask[at] != 0).count();
            assert!(covered <= 1, "masks overlap");
        }
        // Away from edges, what no mask covers is the empty scene.
        let differ = (0..17 * 64 * 64)
            .filter(|&at| clip.masks.iter().all(|mask| mask[at] == 0))
            .filter(|&at| (0..3).any(|c| clip.frames[at * 3 + c].abs_diff(empty.frames[at * 3 + c]) > 140))
            .count();
        assert!(differ < 17 * 8, "clip {index}: {differ} pixels outside the masks");
    }
}

#[test]
fn motion_is_visible_in_every_action() {
    for action in Action::ALL {
        let hero = Identity::of_class(Class::Cat, Split::Train, 5);
        let clip = world().render(&Scenario::solo(hero, Motion::new(action), Scene::Street, 4));
        let frame = |index: usize| &clip.frames[index * 64 * 64 * 3..(index + 1) * 64 * 64 * 3];
        let changed = (1..17)
            .map(|index| {
                frame(index).iter().zip(frame(index - 1)).filter(|(a, b)| a.abs_diff(**b) > 40).count() / 3
            })
            .max()
            .unwrap();
        assert!(changed > 40, "{action}: at most {changed} pixels change between frames");
    }
}

#[test]
fn every_size_is_rendered() {
    for size in [(1, 64, 64), (5, 48, 80), (9, 128, 96), (2, 16, 16), (3, 33, 71), (33, 64, 64)] {
        let (frames, height, width) = size;
        let world = World::new(Size::new(frames, height, width)).unwrap();
        for index in 0..8 {
            let clip = world.render(&world.scenario(Split::Train, index));
            assert_eq!(clip.frames.len(), frames * height * width * 3);
            for mask in &clip.masks {
                assert_eq!(mask.len(), frames * height * width);
                assert!(mask.iter().any(|&value| value != 0), "{size:?}, clip {index}");
            }
        }
    }
}

#[test]
fn impossible_sizes_are_errors() {
    assert!(matches!(World::new(Size::new(0, 64, 64)), Err(Error::FrameCount { frames: 0, .. })));
    assert!(matches!(World::new(Size::new(17, 8, 64)), Err(Error::FrameSize { height: 8, .. })));
    assert!(matches!(World::new(Size::new(17, 64, usize::MAX)), Err(Error::FrameSize { .. })));
}

#[test]
fn portraits_vary_but_keep_the_subject() {
    let subject = Identity::from_index(Split::HeldOut, 11);
    let portraits: Vec<_> = (0..12).map(|seed| Scenario::portrait(subject, seed)).collect();
    assert!(
        portraits.iter().all(|portrait| portrait.actors.len() == 1 && portrait.actors[0].identity == subject)
    );
    let scenes: HashSet<_> = portraits.iter().map(|portrait| portrait.scene).collect();
    let poses: HashSet<_> = portraits.iter().map(|portrait| portrait.actors[0].motion).collect();
    assert!(scenes.len() >= 5 && poses.len() >= 10);
}

#[test]
fn parts_cover_what_masks_do_and_one_frame_is_that_of_the_clip() {
    let world = World::new(Size::new(3, 64, 64)).unwrap();
    for index in 0..12 {
        let identity = Identity::from_index(Split::HeldOut, index);
        let scenario = Scenario::performance(identity, Motion::idiosyncratic(index), index);
        let clip = world.render(&scenario);
        let area = 64 * 64;
        assert_eq!(world.render_frame(&scenario, 1), clip.frames[area * 3..2 * area * 3]);
        let parts = world.parts(&scenario, 1);
        let mask = &clip.masks[0][area..2 * area];
        // Edges are smooth in one and not in the other.
        let differ = parts.iter().zip(mask).filter(|(part, mask)| (**part > 0) != (**mask > 0)).count();
        let inside = mask.iter().filter(|mask| **mask > 0).count();
        assert!(differ * 10 < inside, "{index}: {differ} of {inside}");
        for part in [Part::Legs, Part::Torso, Part::Head] {
            assert!(parts.contains(&(part as u8)), "{index}: {part:?}");
        }
        // The head is above the legs.
        let rows = |part: Part| -> usize {
            let rows: Vec<usize> =
                (0..area).filter(|at| parts[*at] == part as u8).map(|at| at / 64).collect();
            rows.iter().sum::<usize>() / rows.len()
        };
        assert!(rows(Part::Head) < rows(Part::Legs), "{index}");
    }
}

#[test]
fn what_is_shown_refines_parts() {
    let world = World::new(Size::new(3, 64, 64)).unwrap();
    let mut features = HashSet::new();
    for index in 0..24 {
        let scenario = Scenario::from_index(Split::Train, index);
        let shown = world.shown(&scenario, 1);
        let parts = world.parts(&scenario, 1);
        assert!(shown.iter().zip(&parts).all(|(shown, part)| shown.map_or(0, |own| own.part as u8) == *part));
        for own in shown.into_iter().flatten() {
            assert!(usize::from(own.actor) < scenario.actors.len());
            assert!(own.feature != Some(Feature::Eye) || own.part == Part::Head, "{index}");
            features.insert(own.feature.map(|feature| feature as u8));
        }
    }
    assert_eq!(features.len(), 4, "eyes, what is worn, what is held, and the parts themselves");
}

#[test]
fn two_characters_can_be_asked_for() {
    let world = World::new(Size::new(1, 64, 64)).unwrap();
    for index in 0..20 {
        let duo = Scenario::duo(Split::Train, index);
        assert_eq!(duo.actors.len(), 2);
        let usual = Scenario::from_index(Split::Train, index);
        assert_eq!(duo.actors[0].identity, usual.actors[0].identity);
        assert!(usual.actors.len() < 2 || usual == duo);
        let shown = world.shown(&duo, 0);
        assert!((0..2).all(|actor| shown.iter().flatten().any(|own| own.actor == actor)), "{index}");
    }
}
