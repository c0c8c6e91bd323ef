//! The body of a puppet: from an identity and a posture to painted shapes.
//!
//! Coordinates are hundredths of the puppet's height, feet at the origin, y downwards; a bare head ends at
//! about -86, ears and hats above that.

use tiny_skia::Transform;

use crate::color::{Color, Rgb, shade};
use crate::draw::{Canvas, Shape, Texture, placed, star};
use crate::head;
use crate::identity::{AccessoryKind, Build, Class, Emblem, EmblemShape, Face, HeadShape, Identity, Pattern};
use crate::pose::{Pose, cosine, sine};
use crate::prop;
use crate::scene::{Grade, Object, ObjectKind};
use crate::wear;

/// A part of a character, as maps of parts number them; 0 is what is not the character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// Legs and feet.
    Legs = 1,
    /// The torso, with what is on it.
    Torso = 2,
    /// Arms, with what they hold.
    Arms = 3,
    /// The head, with what is on it.
    Head = 4,
}

/// What a part is at a pixel, where it is not simply itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Feature {
    /// An eye.
    Eye = 1,
    /// Something worn: the accessory.
    Worn = 2,
    /// An object that is held, or carried on the back.
    Held = 3,
}

impl Part {
    /// All parts, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Legs, Self::Torso, Self::Arms, Self::Head];
}

impl Feature {
    /// All features, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Eye, Self::Worn, Self::Held];
}

/// Width of outlines.
const INK: f32 = 2.0;

/// The colours of a puppet's parts.
#[derive(Clone, Copy)]
pub(crate) struct Paints {
    pub(crate) body: Rgb,
    pub(crate) second: Rgb,
    pub(crate) accent: Rgb,
    /// The head: the body's colour, or a person's skin.
    pub(crate) skin: Rgb,
}

/// The sizes of a puppet's parts.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    pub(crate) leg: f32,
    pub(crate) torso_half_width: f32,
    pub(crate) torso_half_height: f32,
    pub(crate) head_half_width: f32,
    pub(crate) head_half_height: f32,
}

/// Where the parts are in one posture.
#[derive(Clone, Copy)]
pub(crate) struct Joints {
    pub(crate) hip: f32,
    pub(crate) chest: f32,
    pub(crate) neck: f32,
    pub(crate) head: (f32, f32),
    pub(crate) hands: [(f32, f32); 2],
}

/// Arms that are raised above the shoulder are painted over the head, the others under it.
#[derive(Clone, Copy, PartialEq)]
enum Arm {
    Lowered,
    Raised,
}

/// A puppet ready to be posed: what is the same in all frames of a clip.
pub(crate) struct Puppet {
    pub(crate) identity: Identity,
    object: Option<Object>,
    pub(crate) paints: Paints,
    pub(crate) frame: Frame,
    torso: Texture,
}

impl Puppet {
    /// `scale`: pixels a unit, which sets the resolution of the painted body.
    pub(crate) fn new(identity: &Identity, object: Option<Object>, grade: Grade, scale: f32) -> Self {
        let paints = Paints::of(identity);
        let frame = Frame::of(identity);
        let torso = paint_torso(identity, &paints, &frame, grade, scale);
        let object = object.filter(|object| object.kind.is_carried());
        Self { identity: *identity, object, paints, frame, torso }
    }

    /// Paints the puppet with its feet at (x, y) pixels, `scale` pixels a unit.
    pub(crate) fn draw(
        &self,
        canvas: &mut Canvas,
        view: Transform,
        (x, y): (f32, f32),
        scale: f32,
        pose: &Pose,
    ) {
        const MIDDLE: f32 = -44.0;
        let squeezed = if pose.turn.abs() < 0.15 { 0.15 } else { pose.turn.abs() };
        let transform = view
            .pre_concat(placed(x, y, scale, scale, pose.lean))
            .pre_concat(placed(pose.shift, MIDDLE - pose.lift, 1.0, 1.0, pose.roll))
            .pre_concat(placed(0.0, 0.0, squeezed, 1.0, 0.0))
            .pre_translate(0.0, -MIDDLE);
        canvas.set_transform(transform);
        canvas.set_ink_width(INK);
        let joints = Joints::of(&self.frame, pose);
        if pose.turn >= 0.0 { self.front(canvas, pose, &joints) } else { self.back(canvas, pose, &joints) }
    }

    fn front(&self, canvas: &mut Canvas, pose: &Pose, joints: &Joints) {
        canvas.name(Part::Torso);
        self.behind(canvas, joints);
        self.tail(canvas, joints, pose);
        canvas.name(Part::Legs);
        self.legs(canvas, pose, joints);
        canvas.name(Part::Torso);
        self.chest(canvas, joints);
        if let Some(emblem) = self.identity.emblem {
            // A tie leaves it room below.
            let tied = self.identity.accessory.is_some_and(|it| it.kind == AccessoryKind::Tie);
            draw_emblem(canvas, emblem, joints.chest + if tied { 5.0 } else { 0.0 });
        }
        canvas.name(Part::Arms);
        self.arms(canvas, joints, Arm::Lowered);
        canvas.name(Part::Torso);
        canvas.as_feature(Feature::Worn, |canvas| wear::draw_under(canvas, self, joints));
        canvas.name(Part::Head);
        head::draw_front(canvas, self, joints, pose);
        canvas.as_feature(Feature::Worn, |canvas| wear::draw_front(canvas, self, joints, pose));
        canvas.name(Part::Arms);
        self.arms(canvas, joints, Arm::Raised);
        if let Some(object) = self.object {
            canvas.as_feature(Feature::Held, |canvas| prop::draw_held(canvas, object, joints));
        }
    }

    fn back(&self, canvas: &mut Canvas, pose: &Pose, joints: &Joints) {
        canvas.name(Part::Arms);
        if let Some(object) = self.object.filter(|object| object.kind != ObjectKind::Backpack) {
            canvas.as_feature(Feature::Held, |canvas| prop::draw_held(canvas, object, joints));
        }
        self.arms(canvas, joints, Arm::Lowered);
        self.arms(canvas, joints, Arm::Raised);
        canvas.name(Part::Legs);
        self.legs(canvas, pose, joints);
        canvas.name(Part::Torso);
        self.chest(canvas, joints);
        self.tail(canvas, joints, pose);
        canvas.name(Part::Head);
        head::draw_back(canvas, self, joints);
        canvas.as_feature(Feature::Worn, |canvas| {
            wear::draw_under(canvas, self, joints);
            wear::draw_back(canvas, self, joints);
        });
        if let Some(object) = self.object.filter(|object| object.kind == ObjectKind::Backpack) {
            canvas.as_feature(Feature::Held, |canvas| {
                prop::draw_backpack(canvas, object, &self.frame, joints);
            });
        }
    }

    /// What is worn on the back, seen from the front.
    fn behind(&self, canvas: &mut Canvas, joints: &Joints) {
        if let Some(object) = self.object.filter(|object| object.kind == ObjectKind::Backpack) {
            canvas.as_feature(Feature::Held, |canvas| {
                prop::draw_backpack(canvas, object, &self.frame, joints);
            });
        }
        if let Some(cape) = self.identity.accessory.filter(|it| it.kind == AccessoryKind::Cape) {
            canvas.as_feature(Feature::Worn, |canvas| {
                wear::draw_cape(canvas, cape.color.rgb(), &self.frame, joints);
            });
        }
    }

    fn tail(&self, canvas: &mut Canvas, joints: &Joints, pose: &Pose) {
        let side = if pose.gaze > 0.3 { -1.0 } else { 1.0 };
        let root = (side * (self.frame.torso_half_width - 4.0), joints.hip - 6.0);
        let tip = |dx: f32, dy: f32| (root.0 + side * dx, root.1 + dy);
        match self.identity.class {
            Class::Cat => {
                canvas.part(Shape::Limb(tip(12.0, -2.0), tip(15.0, -20.0), 3.0), self.paints.body);
                canvas.part(Shape::Limb(root, tip(12.0, -2.0), 3.0), self.paints.body);
                canvas.detail(
                    Shape::Ellipse(tip(15.0, -20.0).0, tip(15.0, -20.0).1, 3.2, 3.2),
                    self.paints.second,
                );
            }
            Class::Dog => canvas.part(Shape::Limb(root, tip(11.0, -12.0), 3.5), self.paints.body),
            Class::Rabbit => {
                let (x, y) = tip(6.0, 0.0);
                canvas.part(Shape::Ellipse(x, y, 6.0, 6.0), self.paints.second);
            }
            _ => {}
        }
    }

    fn legs(&self, canvas: &mut Canvas, pose: &Pose, joints: &Joints) {
        let spread = self.frame.torso_half_width * 0.5;
        let thin = matches!(self.identity.class, Class::Bird);
        let (leg, foot) = match self.identity.class {
            Class::Bird => (self.paints.accent, self.paints.accent),
            Class::Robot => (Color::Gray.rgb(), self.paints.second),
            Class::Person => (shade(self.paints.body), self.paints.second),
            _ => (self.paints.body, self.paints.second),
        };
        for (i, side) in [-1.0, 1.0].into_iter().enumerate() {
            let hip = (side * spread, joints.hip - 3.0);
            let reach = self.frame.leg + 3.0;
            let x = side * (spread + 0.5 * pose.crouch) + reach * sine(pose.legs[i]);
            let y = -4.0 - pose.feet[i] - reach * (1.0 - cosine(pose.legs[i]));
            canvas.part(Shape::Limb(hip, (x, y), if thin { 2.2 } else { 5.0 }), leg);
            let toe = x + 3.0 * pose.gaze + side * (1.0 - pose.gaze.abs());
            canvas.part(Shape::Ellipse(toe, y, 7.0, 4.0), foot);
        }
    }

    fn chest(&self, canvas: &mut Canvas, joints: &Joints) {
        let shape = torso_shape(&self.identity, &self.frame);
        canvas.within(Transform::from_translate(0.0, joints.chest), |canvas| {
            canvas.textured(shape, &self.torso)
        });
    }

    fn arms(&self, canvas: &mut Canvas, joints: &Joints, which: Arm) {
        let (arm, hand, width) = match self.identity.class {
            Class::Person => (self.paints.body, self.paints.skin, 4.2),
            Class::Robot => (Color::Gray.rgb(), self.paints.second, 3.2),
            Class::Bird => (shade(self.paints.body), self.paints.second, 6.5),
            _ => (self.paints.body, self.paints.second, 4.6),
        };
        for (side, hand_at) in [-1.0, 1.0].into_iter().zip(joints.hands) {
            let shoulder = (side * (self.frame.torso_half_width - 2.5), joints.neck + 8.0);
            let raised = if hand_at.1 < shoulder.1 { Arm::Raised } else { Arm::Lowered };
            if raised != which {
                continue;
            }
            canvas.part(Shape::Limb(shoulder, hand_at, width), arm);
            canvas.detail(Shape::Ellipse(hand_at.0, hand_at.1, width * 0.95, width * 0.95), hand);
        }
    }
}

impl Paints {
    fn of(identity: &Identity) -> Self {
        let body = identity.body.rgb();
        let skin = match (identity.class, identity.face) {
            (Class::Person, Face::Plain) => [255, 220, 190],
            (Class::Person, Face::Muzzle) => [236, 180, 136],
            (Class::Person, Face::Mask) => [176, 118, 76],
            (Class::Person, Face::Blaze) => [112, 72, 50],
            _ => body,
        };
        Self { body, second: identity.second.rgb(), accent: identity.accent.rgb(), skin }
    }
}

impl Frame {
    fn of(identity: &Identity) -> Self {
        let (torso_half_width, leg, torso_half_height) = match identity.build {
            Build::Slim => (14.0, 20.0, 16.0),
            Build::Regular => (17.5, 16.0, 17.0),
            Build::Stout => (22.5, 12.0, 18.0),
        };
        let (head_half_width, head_half_height) = match identity.head {
            HeadShape::Round => (22.5, 22.0),
            HeadShape::Wide => (27.0, 19.0),
            HeadShape::Tall => (19.0, 25.0),
            HeadShape::Square => (21.5, 20.0),
            HeadShape::Pear => (23.5, 22.0),
        };
        Self { leg, torso_half_width, torso_half_height, head_half_width, head_half_height }
    }
}

impl Joints {
    fn of(frame: &Frame, pose: &Pose) -> Self {
        const ARM: f32 = 23.0;
        let hip = -frame.leg + pose.crouch.min(frame.leg - 1.0);
        let chest = hip - frame.torso_half_height + 3.0;
        let neck = chest - frame.torso_half_height;
        let head = (pose.head_shift + 2.0 * pose.gaze, neck - 0.74 * frame.head_half_height + 9.0 * pose.nod);
        let hands = [(-1.0, pose.arms[0]), (1.0, pose.arms[1])].map(|(side, angle)| {
            let shoulder = side * (frame.torso_half_width - 2.5);
            // Raised arms stretch, to be seen beside a big head.
            let reach = ARM + 10.0 * (-cosine(angle)).max(0.0);
            (shoulder + side * reach * sine(angle), neck + 8.0 + reach * cosine(angle))
        });
        Self { hip, chest, neck, head, hands }
    }
}

fn torso_shape(identity: &Identity, frame: &Frame) -> Shape<'static> {
    let (hw, hh) = (frame.torso_half_width, frame.torso_half_height);
    match identity.class {
        Class::Robot => Shape::Box(0.0, 0.0, hw, hh, 3.0),
        Class::Person | Class::Dog => Shape::Box(0.0, 0.0, hw, hh, 9.0),
        Class::Bird | Class::Bear => Shape::Ellipse(0.0, 0.0, hw + 2.0, hh + 1.0),
        _ => Shape::Box(0.0, 0.0, hw, hh, 13.0),
    }
}

/// The body and its pattern, painted once; the chest's centre is the origin.
fn paint_torso(identity: &Identity, paints: &Paints, frame: &Frame, grade: Grade, scale: f32) -> Texture {
    let (hw, hh) = (frame.torso_half_width + 4.0, frame.torso_half_height + 4.0);
    let second = paints.second;
    Texture::paint((-hw, -hh, 2.0 * hw, 2.0 * hh), scale * 1.25, grade, |canvas| {
        canvas.detail(Shape::Box(0.0, 0.0, hw + 4.0, hh + 4.0, 0.0), paints.body);
        match identity.pattern {
            Pattern::Plain => {}
            Pattern::Stripes => {
                for y in [-13.0, 0.0, 13.0] {
                    canvas.detail(Shape::Box(0.0, y, hw + 4.0, 3.2, 0.0), second);
                }
            }
            Pattern::Spots => {
                for (x, y) in
                    [(-9.0, -11.0), (8.0, -6.0), (-10.0, 4.0), (3.0, 10.0), (15.0, 8.0), (-18.0, 12.0)]
                {
                    canvas.detail(Shape::Ellipse(x, y, 4.2, 4.2), second);
                }
            }
            Pattern::Patch => {
                let (rx, ry) = (0.64 * frame.torso_half_width, 0.72 * frame.torso_half_height);
                canvas.detail(Shape::Ellipse(0.0, 3.5, rx, ry), second);
            }
            Pattern::Checks => {
                for (row, column) in (-3..3).flat_map(|row| (-3..3).map(move |column| (row, column))) {
                    if (row + column) % 2 == 0 {
                        let (x, y) = (8.0 * column as f32 + 4.0, 8.0 * row as f32 + 4.0);
                        canvas.detail(Shape::Box(x, y, 4.0, 4.0, 0.0), second);
                    }
                }
            }
            Pattern::Sash => canvas.detail(Shape::Limb((-hw, -hh), (hw, hh), 5.0), second),
            Pattern::Halves => canvas.detail(Shape::Box(hw, 0.0, hw, hh + 4.0, 0.0), second),
        }
    })
}

fn draw_emblem(canvas: &mut Canvas, emblem: Emblem, chest: f32) {
    let (y, color) = (chest - 1.0, emblem.color.rgb());
    match emblem.shape {
        EmblemShape::Star => canvas.part(Shape::Polygon(&star(0.0, y, 12.0)), color),
        EmblemShape::Circle => canvas.part(Shape::Ellipse(0.0, y, 8.5, 8.5), color),
        EmblemShape::Square => canvas.part(Shape::Box(0.0, y, 8.0, 8.0, 0.5), color),
        EmblemShape::Triangle => {
            canvas.part(Shape::Polygon(&[(0.0, y - 11.0), (11.0, y + 8.0), (-11.0, y + 8.0)]), color);
        }
        EmblemShape::Heart => {
            canvas.part(Shape::Ellipse(-4.6, y - 3.0, 5.4, 5.4), color);
            canvas.part(Shape::Ellipse(4.6, y - 3.0, 5.4, 5.4), color);
            canvas.detail(
                Shape::Polygon(&[(-9.6, y - 0.6), (0.0, y - 4.0), (9.6, y - 0.6), (0.0, y + 11.0)]),
                color,
            );
        }
        EmblemShape::Cross => {
            canvas.part(Shape::Box(0.0, y, 3.4, 10.0, 0.5), color);
            canvas.detail(Shape::Box(0.0, y, 10.0, 3.4, 0.5), color);
        }
    }
}
