//! Everything that decides a clip: who does what, where, and how it is shown.

use serde::{Deserialize, Serialize};

use crate::color::Color;
use crate::identity::{Identity, Split};
use crate::motion::{Action, Motion};
use crate::pose::{Pose, Posture};
use crate::rng::{Rng, Stream};
use crate::scene::{Camera, Light, Object, ObjectKind, Scene, Style};

/// A character in a clip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Who it is.
    pub identity: Identity,
    /// What it does.
    pub motion: Motion,
    /// What it holds or stands beside, if anything.
    pub object: Option<Object>,
    /// The middle of its path, in thousandths of the frame's width.
    pub x: u16,
    /// Its height without hat and ears, plus an eighth, in thousandths of the frame's short side.
    pub height: u16,
}

/// A clip before it is drawn. The same scenario renders to the same pixels at a given size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scenario {
    /// Draws the details of the backdrop and the wording of [`Scenario::caption`].
    pub seed: u64,
    /// The characters, those in front last.
    pub actors: Vec<Actor>,
    /// The place.
    pub scene: Scene,
    /// The light.
    pub light: Light,
    /// What the camera does.
    pub camera: Camera,
    /// The manner of drawing.
    pub style: Style,
}

impl Scenario {
    /// The `index`-th scenario of a split: identities and motion programs are of that split; places, lights,
    /// cameras, styles and objects are shared by both.
    pub fn from_index(split: Split, index: u64) -> Self {
        Self::drawn(split, index, None)
    }

    /// A scenario drawn like [`Scenario::from_index`], but with two characters.
    pub fn duo(split: Split, index: u64) -> Self {
        Self::drawn(split, index, Some(2))
    }

    fn drawn(split: Split, index: u64, count: Option<usize>) -> Self {
        let mut rng = Rng::new(Stream::Scenario, split.index() as u64, index);
        let seed = rng.word();
        let usual = if rng.chance(85) { 1 } else { 2 };
        let count = count.unwrap_or(usual);
        let actors: Vec<_> = (0..count)
            .map(|place| {
                let identity = Identity::from_index(split, rng.word());
                let motion = Motion::from_index(split, rng.word());
                let mut actor = Actor::placed(&mut rng, identity, motion, place, count);
                actor.object = rng.chance(25).then(|| Object::any(&mut rng));
                actor
            })
            .collect();
        let travels = actors.iter().any(|actor| actor.motion.action.direction() != 0);
        Self {
            seed,
            actors,
            scene: rng.pick(&Scene::ALL),
            light: any_light(&mut rng),
            camera: any_camera(&mut rng, travels),
            style: any_style(&mut rng),
        }
    }

    /// One character in a place: by day, static camera, flat style, empty hands. The seed draws where it
    /// stands and the details of the place.
    pub fn solo(identity: Identity, motion: Motion, scene: Scene, seed: u64) -> Self {
        Self::ensemble(&[(identity, motion)], scene, seed)
    }

    /// Characters from left to right in a place, shown as by [`Scenario::solo`].
    pub fn ensemble(cast: &[(Identity, Motion)], scene: Scene, seed: u64) -> Self {
        let mut rng = Rng::new(Stream::Explicit, 0, seed);
        let actors = cast
            .iter()
            .enumerate()
            .map(|(place, &(identity, motion))| Actor::placed(&mut rng, identity, motion, place, cast.len()))
            .collect();
        Self { seed, actors, scene, light: Light::Day, camera: Camera::Static, style: Style::Flat }
    }

    /// One character performing a motion in a place, light and style drawn by the seed, under a static
    /// camera.
    pub fn performance(identity: Identity, motion: Motion, seed: u64) -> Self {
        let mut rng = Rng::new(Stream::Explicit, 1, seed);
        let scene = rng.pick(&Scene::ALL);
        Self::solo(identity, motion, scene, seed)
            .with_light(any_light(&mut rng))
            .with_style(any_style(&mut rng))
    }

    /// One of the varied reference pictures of a character, meant to be rendered as a single frame: place,
    /// pose, light and position change with the seed; the face is in view.
    pub fn portrait(identity: Identity, seed: u64) -> Self {
        const POSES: [Action; 8] = [
            Action::Wave,
            Action::Nod,
            Action::WalkLeft,
            Action::WalkRight,
            Action::Dance,
            Action::Cheer,
            Action::ShakeHead,
            Action::Jump,
        ];
        let mut rng = Rng::new(Stream::Portrait, 0, seed);
        let motion = Motion::of_action(rng.pick(&POSES), Split::Train, rng.word());
        let light =
            rng.weighted(&[(Light::Day, 4), (Light::Sunset, 1), (Light::Overcast, 1), (Light::Dusk, 1)]);
        Self::solo(identity, motion, rng.pick(&Scene::ALL), rng.word()).with_light(light)
    }

    /// The same with another light.
    pub fn with_light(self, light: Light) -> Self {
        Self { light, ..self }
    }

    /// The same with another camera.
    pub fn with_camera(self, camera: Camera) -> Self {
        Self { camera, ..self }
    }

    /// The same in another style.
    pub fn with_style(self, style: Style) -> Self {
        Self { style, ..self }
    }

    /// The same with an object for the first character.
    pub fn with_object(mut self, object: Object) -> Self {
        if let Some(actor) = self.actors.first_mut() {
            actor.object = Some(object);
        }
        self
    }
}

impl Actor {
    /// What can be seen of its posture in `frame` of a clip of `frames` under a camera that stands still; the
    /// frame is as wide as it is high.
    pub fn posture(&self, frame: usize, frames: usize) -> Posture {
        let pose = Pose::at(&self.motion, frame, frames);
        let height = f32::from(self.height);
        let x = 64.0 * f32::from(self.x) / 1000.0 + pose.travel * height / 710.0;
        pose.posture(x, 0.64 * height / 1000.0)
    }

    /// The posture of standing still in its place.
    pub fn resting(&self) -> Posture {
        Pose::default().posture(64.0 * f32::from(self.x) / 1000.0, 0.64 * f32::from(self.height) / 1000.0)
    }

    /// Chooses where the `place`-th of `count` characters stands, and how tall it is.
    fn placed(rng: &mut Rng, identity: Identity, motion: Motion, place: usize, count: usize) -> Self {
        let (low, high) = if count == 1 { (650, 730) } else { (500, 560) };
        let height = rng.between(low, high) as u16;
        let room = match (count, motion.action.direction()) {
            (1, 0) => 160,
            (1, _) => 60,
            _ => 30,
        };
        let middle = (1000 * (2 * place + 1) / (2 * count.max(1))) as u32;
        let x = (middle + rng.between(0, 2 * room)).saturating_sub(room) as u16;
        Self { identity, motion, object: None, x, height }
    }
}

impl Object {
    fn any(rng: &mut Rng) -> Self {
        Self { kind: rng.pick(&ObjectKind::ALL), color: rng.pick(&Color::ALL) }
    }
}

fn any_light(rng: &mut Rng) -> Light {
    rng.weighted(&[
        (Light::Day, 50),
        (Light::Sunset, 14),
        (Light::Dusk, 12),
        (Light::Night, 12),
        (Light::Overcast, 12),
    ])
}

/// Pans are kept from characters that travel, where they would hide or double the motion.
fn any_camera(rng: &mut Rng, travels: bool) -> Camera {
    if rng.chance(70) {
        Camera::Static
    } else if travels {
        rng.pick(&[Camera::ZoomIn, Camera::ZoomOut])
    } else {
        rng.pick(&[Camera::PanLeft, Camera::PanRight, Camera::ZoomIn, Camera::ZoomOut])
    }
}

fn any_style(rng: &mut Rng) -> Style {
    rng.weighted(&[
        (Style::Flat, 56),
        (Style::Outlined, 20),
        (Style::Pastel, 9),
        (Style::Sketch, 7),
        (Style::Dark, 8),
    ])
}
