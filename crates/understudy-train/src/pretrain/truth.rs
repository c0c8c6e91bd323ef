//! What the world knows of every place of a clip's latents: which part of which character it shows, what that
//! character looks like, and how it stands.

use std::ops::Range;

use rayon::prelude::*;
use understudy_engine::random::Random;
use understudy_models::wan_vae::WanVaeConfig;
use understudy_puppet::{Actor, Class, Color, Feature, POSTURE, Part, Posture, Scenario, Shown, Size, World};

use crate::error::TrainError;
use crate::pretrain::latents::Kind;

/// What a pixel may show of one character: its parts, and their features in the place of a part.
pub(crate) const KINDS: usize = Part::ALL.len() + Feature::ALL.len();
/// Characters that are told apart.
pub(crate) const ACTORS: usize = 2;
/// What a pixel may show: nothing of a character, or a kind of one of them.
pub(crate) const SHOWN: usize = 1 + ACTORS * KINDS;
/// Numbers of values of what a character looks like: class, and colours of body, pattern and small parts.
pub(crate) const LOOKS: [usize; 4] = [Class::COUNT, Color::COUNT, Color::COUNT, Color::COUNT];
/// Numbers of a token's postures: that of the first and of the last frame it stands for.
pub(crate) const POSTURES: usize = 2 * POSTURE;

/// How latents lie over frames and pixels, and tokens over latents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    size: Size,
    temporal: usize,
    spatial: usize,
    patch: [usize; 3],
    world: World,
}

/// The truth about several clips, one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Truth {
    /// The share of its pixels that show each of [`SHOWN`], of every place: `(clips, tokens, places of a
    /// token, SHOWN)`.
    pub(crate) shares: Vec<f32>,
    /// What the character that a token mostly shows looks like: `(clips, tokens)`; `None` where none is to be
    /// seen.
    pub(crate) looks: Vec<Option<[usize; LOOKS.len()]>>,
    /// Its postures, `(clips, tokens, POSTURES)`; zero where there is none.
    pub(crate) postures: Vec<f32>,
    /// What is seen at every latent, `(clips, frames, rows, columns)`.
    pub(crate) seen: Vec<Seen>,
}

/// What a latent shows anything of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Seen {
    /// No character.
    Nothing,
    /// A character, but no head.
    Body,
    /// A head, or what is on it.
    Head,
}

impl Seen {
    /// What places of these shares of [`SHOWN`] show.
    fn of(shares: &[f32]) -> Self {
        let head =
            |kinds: &[f32]| kinds[kind(Part::Head, None)] + kinds[kind(Part::Head, Some(Feature::Eye))] > 0.0;
        if shares[1..].chunks_exact(KINDS).any(head) {
            Self::Head
        } else if shares[1..].iter().any(|share| *share > 0.0) {
            Self::Body
        } else {
            Self::Nothing
        }
    }
}

/// One clip's latents.
struct View<'a> {
    scenario: &'a Scenario,
    /// The frames of every latent.
    frames: Vec<Range<usize>>,
}

impl Layout {
    /// For clips of `size` encoded by an autoencoder of `config`, and a denoiser of patches of `patch`.
    ///
    /// # Errors
    /// When the world cannot render that size.
    pub(crate) fn new(
        [frames, height, width]: [usize; 3],
        config: &WanVaeConfig,
        patch: [usize; 3],
    ) -> Result<Self, TrainError> {
        let size = Size::new(frames, height, width);
        let world = World::new(size).map_err(|error| TrainError::Other(error.to_string()))?;
        let (temporal, spatial) = (config.temporal_factor(), config.spatial_factor());
        Ok(Self { size, temporal, spatial, patch, world })
    }

    /// Places of a token.
    pub(crate) fn places(&self) -> usize {
        self.patch.iter().product()
    }

    /// Latent rows and columns.
    fn grid(&self) -> [usize; 2] {
        [self.size.height / self.spatial, self.size.width / self.spatial]
    }

    /// The truth about `scenarios`, whose numbers are `indices`, as clips or as the stills that are taken of
    /// them.
    pub(crate) fn truth(&self, kind: Kind, scenarios: &[Scenario], indices: &[u64]) -> Truth {
        let view = |(scenario, &index): (&Scenario, &u64)| {
            let frames = match kind {
                Kind::Clips => (0..kind.latent_frames(self.size.frames, self.temporal))
                    .map(|latent| if latent == 0 { 0..1 } else { self.later(latent) })
                    .collect(),
                Kind::Stills => {
                    let frame = still(index, self.size.frames);
                    std::iter::once(frame..frame + 1).collect()
                }
            };
            self.of_clip(&View { scenario, frames })
        };
        let all: Vec<(&Scenario, &u64)> = scenarios.iter().zip(indices).collect();
        let all: Vec<Truth> = all.into_par_iter().map(view).collect();
        let mut truth = Truth::default();
        for own in all {
            truth.shares.extend(own.shares);
            truth.looks.extend(own.looks);
            truth.postures.extend(own.postures);
            truth.seen.extend(own.seen);
        }
        truth
    }

    /// The frames of a latent after the first.
    fn later(&self, latent: usize) -> Range<usize> {
        self.temporal * (latent - 1) + 1..self.temporal * latent + 1
    }

    fn of_clip(&self, view: &View) -> Truth {
        let counted: Vec<Vec<f32>> = view.frames.iter().map(|frames| self.counted(view, frames)).collect();
        let [rows, columns] = self.grid();
        let [deep, tall, wide] = self.patch;
        let seen = counted.iter().flat_map(|latent| latent.chunks_exact(SHOWN).map(Seen::of)).collect();
        let mut truth = Truth { seen, ..Truth::default() };
        for token in 0..counted.len() / deep * (rows / tall) * (columns / wide) {
            let (column, row) = (token % (columns / wide), token / (columns / wide) % (rows / tall));
            let first = token / (columns / wide) / (rows / tall) * deep;
            let mut seen = [0.0; ACTORS];
            for place in 0..self.places() {
                let (x, y) = (column * wide + place % wide, row * tall + place / wide % tall);
                let latent = first + place / wide / tall;
                let shares = &counted[latent][(y * columns + x) * SHOWN..][..SHOWN];
                for (seen, shares) in seen.iter_mut().zip(shares[1..].chunks_exact(KINDS)) {
                    *seen += shares.iter().sum::<f32>() / self.places() as f32;
                }
                truth.shares.extend(shares);
            }
            let frames = view.frames[first].start..view.frames[first + deep - 1].end;
            self.push_actor(&mut truth, &view.scenario.actors, seen, frames);
        }
        truth
    }

    /// Adds what the actor that is `seen` most looks like and how it stands, if enough of it is there.
    fn push_actor(&self, truth: &mut Truth, actors: &[Actor], seen: [f32; ACTORS], frames: Range<usize>) {
        const LEAST: f32 = 0.1;
        let most = usize::from(seen[1] > seen[0]);
        let Some(actor) = actors.get(most).filter(|_| seen[most] >= LEAST) else {
            truth.looks.push(None);
            truth.postures.extend([0.0; POSTURES]);
            return;
        };
        let own = &actor.identity;
        truth.looks.push(Some([own.class.index(), own.body.index(), own.second.index(), own.accent.index()]));
        let posture = |frame: usize| -> Posture { actor.posture(frame, self.size.frames) };
        truth.postures.extend([posture(frames.start), posture(frames.end - 1)].concat());
    }

    /// The shares of what every place of one latent shows over its `frames`, `(rows, columns, SHOWN)`.
    fn counted(&self, view: &View, frames: &Range<usize>) -> Vec<f32> {
        let [rows, columns] = self.grid();
        let mut counted = vec![0.0; rows * columns * SHOWN];
        let one = 1.0 / (frames.len() * self.spatial * self.spatial) as f32;
        for frame in frames.clone() {
            for (at, shown) in self.world.shown(view.scenario, frame).into_iter().enumerate() {
                let (x, y) = (at % self.size.width / self.spatial, at / self.size.width / self.spatial);
                counted[(y * columns + x) * SHOWN + number(shown)] += one;
            }
        }
        counted
    }
}

/// Which frame of the training clip `index` its still is.
pub(crate) fn still(index: u64, frames: usize) -> usize {
    Random::stream(0, "still", index).below(frames as u64) as usize
}

/// The number of what a pixel shows, among [`SHOWN`].
fn number(shown: Option<Shown>) -> usize {
    match shown {
        Some(Shown { actor, part, feature }) if usize::from(actor) < ACTORS => {
            1 + usize::from(actor) * KINDS + kind(part, feature)
        }
        _ => 0,
    }
}

/// The number of a part or a feature, among [`KINDS`].
pub(crate) fn kind(part: Part, feature: Option<Feature>) -> usize {
    match feature {
        None => part as usize - 1,
        Some(feature) => Part::ALL.len() + feature as usize - 1,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::pretrain::clips::Clips;

    fn layout() -> Layout {
        let config = serde_json::json!({
            "base_dim": 4, "z_dim": 2, "dim_mult": [1, 1, 1], "num_res_blocks": 1,
            "temperal_downsample": [true, true], "latents_mean": [0, 0], "latents_std": [1, 1],
        });
        Layout::new([17, 64, 64], &serde_json::from_value(config).unwrap(), [1, 2, 2]).unwrap()
    }

    #[test]
    fn every_place_shows_what_its_pixels_do() {
        let layout = layout();
        let scenario = Clips::training(17);
        assert_eq!(scenario.actors.len(), 2);
        let truth = layout.truth(Kind::Clips, std::slice::from_ref(&scenario), &[17]);
        let tokens = 5 * 8 * 8;
        assert_eq!(truth.shares.len(), tokens * 4 * SHOWN);
        assert_eq!((truth.looks.len(), truth.postures.len()), (tokens, tokens * POSTURES));
        assert!(truth.shares.chunks_exact(SHOWN).all(|own| (own.iter().sum::<f32>() - 1.0).abs() < 1e-4));

        // Latent 2 stands for frames 5 to 8; the place in its row 9, column 6 is the third of token (4, 3).
        let place = ((2 * 8 + 4) * 8 + 3) * 4 + 2;
        let mut counted = [0.0; SHOWN];
        for frame in 5..9 {
            let shown = layout.world.shown(&scenario, frame);
            for pixel in 0..16 {
                let (x, y) = (6 * 4 + pixel % 4, 9 * 4 + pixel / 4);
                counted[number(shown[y * 64 + x])] += 1.0 / 64.0;
            }
        }
        let found = &truth.shares[place * SHOWN..][..SHOWN];
        assert!(found.iter().zip(counted).all(|(a, b)| (a - b).abs() < 1e-5), "{found:?}\n{counted:?}");
        let seen = truth.seen[(2 * 16 + 9) * 16 + 6];
        assert_eq!(seen == Seen::Nothing, counted[0] == 1.0);
    }

    #[test]
    fn both_characters_are_told_apart_where_they_are() {
        let truth = layout().truth(Kind::Clips, &[Clips::training(17)], &[17]);
        let scenario = Clips::training(17);
        for actor in &scenario.actors {
            let own = &actor.identity;
            let looks = [own.class.index(), own.body.index(), own.second.index(), own.accent.index()];
            assert!(truth.looks.iter().flatten().any(|other| *other == looks));
        }
        let known = truth.looks.iter().flatten().count();
        assert!((20..200).contains(&known), "{known}");
        let still = |at: usize| truth.postures[at * POSTURES..][..POSTURES].iter().all(|value| *value == 0.0);
        assert!(truth.looks.iter().enumerate().all(|(at, own)| own.is_some() || still(at)));
    }

    #[test]
    fn a_still_shows_its_frame() {
        let layout = layout();
        let scenario = Clips::training(5);
        let truth = layout.truth(Kind::Stills, std::slice::from_ref(&scenario), &[5]);
        assert_eq!(truth.seen.len(), 16 * 16);
        let shown = layout.world.shown(&scenario, still(5, 17));
        let nothing = shown.iter().filter(|own| own.is_none()).count() as f32 / shown.len() as f32;
        let share = truth.shares.chunks_exact(SHOWN).map(|own| own[0]).sum::<f32>() / 256.0;
        assert!((share - nothing).abs() < 1e-4);
    }
}
