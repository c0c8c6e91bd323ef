//! Rendering scenarios to clips.

use tiny_skia::Transform;

use crate::backdrop::Backdrop;
use crate::character::{Feature, Part, Puppet};
use crate::draw::{Canvas, labels, placed};
use crate::error::Error;
use crate::identity::Split;
use crate::pose::Pose;
use crate::prop;
use crate::scenario::{Actor, Scenario};
use crate::scene::{Camera, Grade};

/// The extent of a clip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// The number of frames.
    pub frames: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Pixels from left to right.
    pub width: usize,
}

impl Size {
    /// The least side of a frame, in pixels.
    pub const MIN_SIDE: usize = 16;
    /// The greatest side of a frame, in pixels.
    pub const MAX_SIDE: usize = 2048;
    /// The greatest number of frames.
    pub const MAX_FRAMES: usize = 1024;

    /// A size of `frames` frames of `height` by `width` pixels.
    pub const fn new(frames: usize, height: usize, width: usize) -> Self {
        Self { frames, height, width }
    }

    /// Pixels per 64th of the short side, the unit of scenes.
    pub(crate) fn unit(&self) -> f32 {
        self.height.min(self.width) as f32 / 64.0
    }
}

impl Default for Size {
    /// 17 frames of 64x64 pixels.
    fn default() -> Self {
        Self::new(17, 64, 64)
    }
}

/// The pixels that an actor covers in one frame: `left..right` and `top..bottom`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBox {
    /// First column.
    pub left: usize,
    /// First row.
    pub top: usize,
    /// Column after the last.
    pub right: usize,
    /// Row after the last.
    pub bottom: usize,
}

/// What a pixel shows of a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Which of the scenario's actors it is.
    pub actor: u8,
    /// The part.
    pub part: Part,
    /// What it is of the part, where it is not simply the part itself.
    pub feature: Option<Feature>,
}

impl Shown {
    fn of_label(actor: usize, label: u8) -> Option<Self> {
        let [part, feature] = labels(label).map(|number| usize::from(number).checked_sub(1));
        let part = *Part::ALL.get(part?)?;
        Some(Self { actor: actor as u8, part, feature: feature.and_then(|at| Feature::ALL.get(at).copied()) })
    }
}

/// A rendered clip with its annotations.
#[derive(Clone, Debug, PartialEq)]
pub struct Clip {
    /// The extent of `frames` and of each mask.
    pub size: Size,
    /// RGB bytes of shape (frames, height, width, 3).
    pub frames: Vec<u8>,
    /// For each actor its visible pixels, what it carries included: 255 or 0, shape (frames, height, width).
    pub masks: Vec<Vec<u8>>,
    /// For each actor and frame the bounds of its mask; `None` where nothing of it is visible.
    pub boxes: Vec<Vec<Option<PixelBox>>>,
    /// The caption, as [`Scenario::caption`] words it.
    pub caption: String,
    /// What was rendered.
    pub scenario: Scenario,
}

/// A renderer for one clip size. It holds no other state: clips may be rendered from any thread in any order.
///
/// ```
/// use understudy_puppet::{Size, Split, World};
///
/// let world = World::new(Size::new(17, 64, 64))?;
/// let clip = world.render(&world.scenario(Split::Train, 0));
/// assert_eq!(clip.frames.len(), 17 * 64 * 64 * 3);
/// # Ok::<(), understudy_puppet::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct World {
    size: Size,
}

impl World {
    /// A world that renders clips of `size`.
    ///
    /// # Errors
    ///
    /// [`Error::FrameSize`] or [`Error::FrameCount`] if the size is outside the supported range.
    pub fn new(size: Size) -> Result<Self, Error> {
        let Size { frames, height, width } = size;
        let (min, max) = (Size::MIN_SIDE, Size::MAX_SIDE);
        if !(min..=max).contains(&height) || !(min..=max).contains(&width) {
            return Err(Error::FrameSize { height, width, min, max });
        }
        if !(1..=Size::MAX_FRAMES).contains(&frames) {
            return Err(Error::FrameCount { frames, max: Size::MAX_FRAMES });
        }
        Ok(Self { size })
    }

    /// The extent of the clips.
    pub const fn size(&self) -> Size {
        self.size
    }

    /// The `index`-th scenario of a split; see [`Scenario::from_index`]. It does not depend on the size.
    pub fn scenario(&self, split: Split, index: u64) -> Scenario {
        Scenario::from_index(split, index)
    }

    /// Which [`Part`](crate::Part) of the characters each pixel of one frame shows, shape (height, width); 0
    /// where none.
    pub fn parts(&self, scenario: &Scenario, index: usize) -> Vec<u8> {
        let part = |shown: Option<Shown>| shown.map_or(0, |shown| shown.part as u8);
        self.shown(scenario, index).into_iter().map(part).collect()
    }

    /// What of which character each pixel of one frame shows, shape (height, width).
    pub fn shown(&self, scenario: &Scenario, index: usize) -> Vec<Option<Shown>> {
        let Size { height, width, .. } = self.size;
        let mut all = vec![None; height * width];
        let view = View::at(scenario.camera, index, self.size);
        for (place, actor) in scenario.actors.iter().enumerate() {
            let mut player = Player::new(actor, scenario, self.size);
            let grade = Grade::character(scenario.light, scenario.style);
            player.layer = Canvas::of_labels(width, height, grade);
            player.paint(&view, index, self.size);
            for (shown, pixel) in all.iter_mut().zip(player.layer.pixels().chunks_exact(4)) {
                if pixel[3] == 255 {
                    *shown = Shown::of_label(place, pixel[0]);
                }
            }
        }
        all
    }

    /// Draws one frame of a scenario: RGB bytes of shape (height, width, 3).
    pub fn render_frame(&self, scenario: &Scenario, index: usize) -> Vec<u8> {
        let Size { height, width, .. } = self.size;
        let mut frame = vec![0; height * width * 3];
        let view = View::at(scenario.camera, index, self.size);
        Backdrop::paint(scenario, self.size).copy_to(&mut frame, &view);
        for actor in &scenario.actors {
            let mut player = Player::new(actor, scenario, self.size);
            player.paint(&view, index, self.size);
            composite(&mut frame, player.layer.pixels());
        }
        frame
    }

    /// Draws a scenario.
    pub fn render(&self, scenario: &Scenario) -> Clip {
        let Size { frames, height, width } = self.size;
        let area = height * width;
        let mut backdrop = Backdrop::paint(scenario, self.size);
        let mut troupe: Vec<_> =
            scenario.actors.iter().map(|actor| Player::new(actor, scenario, self.size)).collect();
        let mut clip = Clip {
            size: self.size,
            frames: vec![0; frames * area * 3],
            masks: vec![vec![0; frames * area]; troupe.len()],
            boxes: vec![Vec::with_capacity(frames); troupe.len()],
            caption: scenario.caption(),
            scenario: scenario.clone(),
        };
        for (index, frame) in clip.frames.chunks_exact_mut(area * 3).enumerate() {
            let view = View::at(scenario.camera, index, self.size);
            backdrop.copy_to(frame, &view);
            for player in &mut troupe {
                player.paint(&view, index, self.size);
                composite(frame, player.layer.pixels());
            }
            for (place, masks) in clip.masks.iter_mut().enumerate() {
                let mask = &mut masks[index * area..(index + 1) * area];
                visible(mask, &troupe[place..]);
                clip.boxes[place].push(bounds(mask, width));
            }
        }
        clip
    }
}

/// Where the camera looks in one frame.
pub(crate) struct View {
    /// Magnification about the anchor.
    pub(crate) zoom: f32,
    /// The fixed point of zooms, in pixels.
    pub(crate) anchor: (f32, f32),
    /// How far the camera has moved to the right, in pixels.
    pub(crate) pan: f32,
}

impl View {
    /// The farthest that a pan moves to each side, in units.
    pub(crate) const REACH: f32 = 7.0;
    const ZOOM: f32 = 0.2;

    fn at(camera: Camera, frame: usize, size: Size) -> Self {
        let progress = if size.frames > 1 { frame as f32 / (size.frames - 1) as f32 } else { 0.5 };
        let reach = Self::REACH * size.unit();
        let (zoom, pan) = match camera {
            Camera::Static => (1.0, 0.0),
            Camera::PanLeft => (1.0, reach * (1.0 - 2.0 * progress)),
            Camera::PanRight => (1.0, reach * (2.0 * progress - 1.0)),
            Camera::ZoomIn => (1.0 + Self::ZOOM * progress, 0.0),
            Camera::ZoomOut => (1.0 + Self::ZOOM * (1.0 - progress), 0.0),
        };
        Self { zoom, anchor: (0.5 * size.width as f32, 0.8 * size.height as f32), pan }
    }

    pub(crate) fn is_static(&self) -> bool {
        self.zoom == 1.0 && self.pan == 0.0
    }

    fn transform(&self) -> Transform {
        let (x, y) = self.anchor;
        Transform::from_row(self.zoom, 0.0, 0.0, self.zoom, x - self.zoom * (x + self.pan), y - self.zoom * y)
    }
}

/// An actor with its layer, which holds its pixels alone.
struct Player<'a> {
    actor: &'a Actor,
    puppet: Puppet,
    layer: Canvas,
    /// Pixels a hundredth of the puppet's height.
    scale: f32,
    /// Where it stands, in pixels.
    feet: (f32, f32),
}

impl<'a> Player<'a> {
    fn new(actor: &'a Actor, scenario: &Scenario, size: Size) -> Self {
        let grade = Grade::character(scenario.light, scenario.style);
        let scale = f32::from(actor.height) / 1000.0 * size.unit() * 0.64;
        Self {
            actor,
            puppet: Puppet::new(&actor.identity, actor.object, grade, scale),
            layer: Canvas::new(size.width, size.height, grade),
            scale,
            feet: feet(actor, size),
        }
    }

    fn paint(&mut self, view: &View, frame: usize, size: Size) {
        let pose = Pose::at(&self.actor.motion, frame, size.frames);
        // Smaller characters take shorter ways.
        let travel = pose.travel * size.unit() * f32::from(self.actor.height) / 710.0;
        self.layer.clear();
        let feet = (self.feet.0 + travel, self.feet.1);
        self.puppet.draw(&mut self.layer, view.transform(), feet, self.scale, &pose);
    }
}

/// Where an actor stands, in pixels.
pub(crate) fn feet(actor: &Actor, size: Size) -> (f32, f32) {
    const ABOVE_BOTTOM: f32 = 4.5;
    let x = f32::from(actor.x) / 1000.0 * size.width as f32;
    (x, size.height as f32 - ABOVE_BOTTOM * size.unit())
}

/// Objects on the ground are part of the backdrop.
pub(crate) fn paint_standing_objects(canvas: &mut Canvas, scenario: &Scenario, size: Size, margin: f32) {
    for actor in &scenario.actors {
        let Some(object) = actor.object.filter(|object| !object.kind.is_carried()) else {
            continue;
        };
        let scale = f32::from(actor.height) / 1000.0 * size.unit() * 0.64;
        let (x, y) = feet(actor, size);
        // On the side with more room.
        let side = if actor.x > 500 { -1.0 } else { 1.0 };
        canvas.set_transform(placed(x + margin + side * 38.0 * scale, y, scale, scale, 0.0));
        canvas.set_ink_width(2.0);
        prop::draw_standing(canvas, object);
    }
}

/// Lays a premultiplied RGBA layer over an RGB frame.
fn composite(frame: &mut [u8], layer: &[u8]) {
    for (pixel, source) in frame.chunks_exact_mut(3).zip(layer.chunks_exact(4)) {
        let &[red, green, blue, alpha] = source else {
            continue;
        };
        if alpha == 0 {
            continue;
        }
        let rest = 255 - u32::from(alpha);
        for (below, above) in pixel.iter_mut().zip([red, green, blue]) {
            *below = above.saturating_add(((u32::from(*below) * rest + 127) / 255) as u8);
        }
    }
}

/// The mask of the first of `players`, those after it in front: pixels that it covers by at least half, and
/// no other.
fn visible(mask: &mut [u8], players: &[Player]) {
    let Some((player, others)) = players.split_first() else {
        return;
    };
    for (value, pixel) in mask.iter_mut().zip(player.layer.pixels().chunks_exact(4)) {
        *value = if pixel[3] >= 128 { 255 } else { 0 };
    }
    for other in others {
        for (value, pixel) in mask.iter_mut().zip(other.layer.pixels().chunks_exact(4)) {
            if pixel[3] >= 128 {
                *value = 0;
            }
        }
    }
}

fn bounds(mask: &[u8], width: usize) -> Option<PixelBox> {
    let mut found: Option<PixelBox> = None;
    for (y, row) in mask.chunks_exact(width).enumerate() {
        let Some(left) = row.iter().position(|&value| value != 0) else {
            continue;
        };
        let right = row.iter().rposition(|&value| value != 0).unwrap_or(left) + 1;
        let area = found.get_or_insert(PixelBox { left, top: y, right, bottom: y });
        area.left = area.left.min(left);
        area.right = area.right.max(right);
        area.bottom = y + 1;
    }
    found
}
