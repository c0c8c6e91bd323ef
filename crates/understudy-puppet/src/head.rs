//! The head of a puppet: outline, ears or hair, markings, face.

use crate::character::{Feature, Joints, Puppet};
use crate::color::{Color, Rgb, luma, shade};
use crate::draw::{Canvas, Shape, placed, tint};
use crate::identity::{AccessoryKind, Class, Crest, Eyes, Face, HeadShape};
use crate::pose::Pose;
use crate::wear;

const BLACK: Rgb = [18, 16, 24];
const WHITE: Rgb = [255, 255, 255];

/// Head, ears and face, seen from the front.
pub(crate) fn draw_front(canvas: &mut Canvas, puppet: &Puppet, joints: &Joints, pose: &Pose) {
    let (x, y) = joints.head;
    canvas.within(placed(x, y, 1.0, 1.0, 0.0), |canvas| {
        if puppet.identity.class == Class::Person {
            hair_behind(canvas, puppet);
        } else {
            ears(canvas, puppet);
        }
        skull(canvas, puppet);
        // The face slides over the head, which reads as a turned head.
        let (gaze, nod) = (0.3 * puppet.frame.head_half_width * pose.gaze, 8.0 * pose.nod);
        canvas.within(placed(gaze, nod, 1.0, 1.0, 0.0), |canvas| face(canvas, puppet));
        if puppet.identity.class == Class::Person {
            hair_before(canvas, puppet);
        }
    });
}

/// Head and ears, seen from behind.
pub(crate) fn draw_back(canvas: &mut Canvas, puppet: &Puppet, joints: &Joints) {
    let (x, y) = joints.head;
    canvas.within(placed(x, y, 1.0, 1.0, 0.0), |canvas| {
        let frame = &puppet.frame;
        if puppet.identity.class == Class::Person {
            hair_behind(canvas, puppet);
            skull(canvas, puppet);
            hair_before(canvas, puppet);
            let (rx, ry) = (0.96 * frame.head_half_width, 0.8 * frame.head_half_height);
            canvas.detail(Shape::Ellipse(0.0, -0.15 * ry, rx, ry), puppet.paints.accent);
        } else {
            ears(canvas, puppet);
            skull(canvas, puppet);
        }
    });
}

fn skull(canvas: &mut Canvas, puppet: &Puppet) {
    let (rx, ry) = (puppet.frame.head_half_width, puppet.frame.head_half_height);
    let skin = puppet.paints.skin;
    match (puppet.identity.class, puppet.identity.head) {
        (Class::Robot, HeadShape::Round) => canvas.part(Shape::Box(0.0, 0.0, rx, ry, 12.0), skin),
        (Class::Robot, _) => canvas.part(Shape::Box(0.0, 0.0, rx, ry - 2.0, 4.0), skin),
        (_, HeadShape::Square) => canvas.part(Shape::Box(0.0, 0.0, rx, ry, 8.0), skin),
        (_, HeadShape::Pear) => {
            canvas.part(Shape::Ellipse(0.0, -0.25 * ry, 0.74 * rx, 0.75 * ry), skin);
            canvas.part(Shape::Ellipse(0.0, 0.28 * ry, rx * 1.04, 0.68 * ry), skin);
            canvas.detail(Shape::Ellipse(0.0, -0.2 * ry, 0.7 * rx, 0.7 * ry), skin);
        }
        _ => canvas.part(Shape::Ellipse(0.0, 0.0, rx, ry), skin),
    }
}

/// Scale, outward turn and side of the left and right ear.
fn ear_plan(crest: Crest) -> [(f32, f32, f32); 2] {
    match crest {
        Crest::Small => [(0.8, 0.0, -1.0), (0.8, 0.0, 1.0)],
        Crest::Large => [(1.25, 0.01, -1.0), (1.25, 0.01, 1.0)],
        Crest::Spread => [(1.1, 0.09, -1.0), (1.1, 0.09, 1.0)],
        Crest::Lopsided => [(1.2, 0.0, -1.0), (0.6, 0.04, 1.0)],
        Crest::Tufted => [(1.0, 0.03, -1.0), (1.0, 0.03, 1.0)],
    }
}

fn ears(canvas: &mut Canvas, puppet: &Puppet) {
    let (rx, ry) = (puppet.frame.head_half_width, puppet.frame.head_half_height);
    let paints = &puppet.paints;
    for (size, turn, side) in ear_plan(puppet.identity.crest) {
        let (x, y) = match puppet.identity.class {
            Class::Dog => (0.78 * rx, -0.5 * ry),
            Class::Frog => (0.55 * rx, -0.72 * ry),
            Class::Robot => (0.6 * rx, -ry + 3.0),
            Class::Bird => (0.16 * rx, -0.85 * ry),
            Class::Rabbit => (0.42 * rx, -0.75 * ry),
            _ => (0.62 * rx, -0.62 * ry),
        };
        canvas.within(placed(side * x, y, side * size, size, side * turn), |canvas| {
            match puppet.identity.class {
                Class::Cat => {
                    canvas.part(Shape::Polygon(&[(-9.0, 6.0), (5.0, -19.0), (10.0, 8.0)]), paints.body);
                    canvas.detail(Shape::Polygon(&[(-3.0, 3.0), (4.0, -11.0), (6.5, 4.0)]), paints.accent);
                }
                Class::Dog => canvas.part(Shape::Limb((2.0, 0.0), (9.0, 21.0), 7.0), shade(paints.second)),
                Class::Robot => {
                    canvas.part(Shape::Limb((0.0, 0.0), (3.0, -14.0), 1.8), Color::Gray.rgb());
                    canvas.part(Shape::Ellipse(3.0, -15.0, 4.5, 4.5), paints.accent);
                }
                Class::Bird => canvas.part(Shape::Limb((0.0, 4.0), (6.0, -11.0), 3.6), paints.accent),
                Class::Bear => {
                    canvas.part(Shape::Ellipse(3.0, -4.0, 9.5, 9.5), paints.body);
                    canvas.detail(Shape::Ellipse(3.0, -4.0, 5.0, 5.0), paints.accent);
                }
                Class::Rabbit => {
                    canvas.part(Shape::Limb((0.0, 0.0), (2.5, -25.0), 6.5), paints.body);
                    canvas.detail(Shape::Limb((0.4, -4.0), (2.3, -23.0), 3.2), paints.accent);
                }
                Class::Frog => canvas.part(Shape::Ellipse(0.0, 0.0, 10.0, 10.0), paints.body),
                Class::Person => {}
            }
        });
    }
    if puppet.identity.crest == Crest::Tufted {
        let tuft =
            [(-8.0, 6.0), (-9.0, -9.0), (-2.0, -3.0), (1.0, -13.0), (4.0, -3.0), (10.0, -8.0), (8.0, 6.0)];
        canvas.within(placed(0.0, -ry + 1.0, 1.0, 1.0, 0.0), |canvas| {
            canvas.part(Shape::Polygon(&tuft), paints.accent);
        });
    }
}

fn hair_behind(canvas: &mut Canvas, puppet: &Puppet) {
    let (rx, ry) = (puppet.frame.head_half_width, puppet.frame.head_half_height);
    let hair = puppet.paints.accent;
    match puppet.identity.crest {
        Crest::Large => canvas.part(Shape::Box(0.0, 6.0, rx + 5.0, ry + 5.0, 16.0), hair),
        Crest::Spread => {
            canvas.part(Shape::Ellipse(-rx - 4.0, -3.0, 8.5, 9.5), hair);
            canvas.part(Shape::Ellipse(rx + 4.0, -3.0, 8.5, 9.5), hair);
        }
        Crest::Tufted => {
            let y = -ry;
            let spikes = [
                (-10.0, y + 9.0),
                (-9.0, y - 8.0),
                (-4.0, y - 2.0),
                (0.0, y - 14.0),
                (4.0, y - 2.0),
                (9.0, y - 8.0),
                (10.0, y + 9.0),
            ];
            canvas.part(Shape::Polygon(&spikes), hair);
        }
        Crest::Small | Crest::Lopsided => {}
    }
}

fn hair_before(canvas: &mut Canvas, puppet: &Puppet) {
    let (rx, ry) = (puppet.frame.head_half_width, puppet.frame.head_half_height);
    let hair = puppet.paints.accent;
    match puppet.identity.crest {
        Crest::Tufted => canvas.detail(Shape::Limb((0.0, -ry), (0.0, -0.72 * ry), 5.0), hair),
        Crest::Lopsided => {
            let swoop = [
                (-rx - 1.0, 2.0),
                (-0.9 * rx, -0.8 * ry),
                (-0.2 * rx, -ry - 5.0),
                (0.8 * rx, -0.75 * ry),
                (0.2 * rx, -0.5 * ry),
            ];
            canvas.part(Shape::Polygon(&swoop), hair);
        }
        _ => {
            canvas.part(Shape::Box(0.0, -0.78 * ry, 0.9 * rx, 0.33 * ry, 0.3 * ry), hair);
            canvas.detail(Shape::Limb((-0.86 * rx, -0.6 * ry), (-0.9 * rx, -0.15 * ry), 2.8), hair);
            canvas.detail(Shape::Limb((0.86 * rx, -0.6 * ry), (0.9 * rx, -0.15 * ry), 2.8), hair);
        }
    }
}

fn face(canvas: &mut Canvas, puppet: &Puppet) {
    let identity = &puppet.identity;
    let paints = &puppet.paints;
    let rx = puppet.frame.head_half_width;
    if identity.class == Class::Robot {
        let screen = if identity.body == Color::Black { shade(Color::Gray.rgb()) } else { [30, 32, 52] };
        canvas.part(Shape::Box(0.0, 0.0, 0.72 * rx, 11.5, 4.0), screen);
    }
    marking(canvas, puppet);
    if let Some(glasses) = identity.accessory.filter(|it| it.kind == AccessoryKind::Glasses) {
        canvas.as_feature(Feature::Worn, |canvas| {
            wear::draw_glasses(canvas, glasses.color.rgb(), eye(puppet));
        });
    }
    canvas.as_feature(Feature::Eye, |canvas| eyes(canvas, puppet));
    match identity.class {
        Class::Person => canvas.detail(Shape::Ellipse(0.0, 11.0, 5.0, 1.9), [170, 40, 50]),
        Class::Cat => {
            canvas.detail(Shape::Polygon(&[(-3.6, 5.0), (3.6, 5.0), (0.0, 9.5)]), [236, 110, 140]);
            for (side, slope) in [(-1.0, 1.0), (1.0, 1.0), (-1.0, 6.0), (1.0, 6.0)] {
                let (near, far) = ((side * 8.0, 8.0), (side * 23.0, 5.0 + slope));
                canvas.detail(Shape::Limb(near, far, 0.8), whisker(paints.skin));
            }
        }
        Class::Dog | Class::Bear => {
            let muzzle = if identity.face == Face::Muzzle { paints.second } else { tint(paints.skin) };
            canvas.detail(Shape::Ellipse(0.0, 9.0, 11.0, 8.0), muzzle);
            canvas.detail(Shape::Ellipse(0.0, 5.5, 5.0, 3.6), BLACK);
            canvas.detail(Shape::Limb((-3.0, 13.0), (3.0, 13.0), 1.1), BLACK);
        }
        Class::Robot => canvas.detail(Shape::Box(0.0, 7.0, 8.0, 1.5, 0.5), paints.accent),
        Class::Bird => {
            let beak = if identity.accent == Color::Black { [250, 160, 30] } else { paints.accent };
            canvas.part(Shape::Polygon(&[(-8.5, 2.0), (8.5, 2.0), (0.0, 15.0)]), beak);
            canvas.detail(Shape::Limb((-6.0, 6.0), (6.0, 6.0), 0.8), shade(beak));
        }
        Class::Rabbit => {
            canvas.detail(Shape::Ellipse(0.0, 5.0, 3.6, 2.6), [236, 110, 140]);
            canvas.part(Shape::Box(0.0, 12.0, 4.2, 3.8, 1.0), WHITE);
            canvas.detail(Shape::Limb((0.0, 9.0), (0.0, 15.0), 0.6), BLACK);
        }
        Class::Frog => {
            canvas.detail(Shape::Limb((-0.6 * rx, 6.0), (0.0, 10.0), 1.5), BLACK);
            canvas.detail(Shape::Limb((0.6 * rx, 6.0), (0.0, 10.0), 1.5), BLACK);
        }
    }
}

/// Whiskers are drawn in the tone that shows against the head.
fn whisker(skin: Rgb) -> Rgb {
    if luma(skin) < 90 { WHITE } else { BLACK }
}

fn marking(canvas: &mut Canvas, puppet: &Puppet) {
    let (rx, ry) = (puppet.frame.head_half_width, puppet.frame.head_half_height);
    let second = puppet.paints.second;
    match (puppet.identity.class, puppet.identity.face) {
        // Their dark screen, and their skin, tell the attribute otherwise.
        (Class::Person, _) | (_, Face::Plain) => {}
        (Class::Robot, face) => {
            let y = if face == Face::Muzzle { 0.72 * ry } else { -0.74 * ry };
            let width = if face == Face::Mask { 0.25 * rx } else { 0.7 * rx };
            canvas.detail(Shape::Box(0.0, y, width, 1.8, 1.0), second);
        }
        (_, Face::Muzzle) => canvas.detail(Shape::Ellipse(0.0, 0.46 * ry, 0.68 * rx, 0.46 * ry), second),
        (_, Face::Mask) => canvas.detail(Shape::Box(0.0, -3.0, 0.84 * rx, 7.5, 7.0), second),
        (_, Face::Blaze) => canvas.detail(Shape::Box(0.0, -0.36 * ry, 3.6, 0.55 * ry, 3.0), second),
    }
}

/// The middle of the right eye; the left one mirrors it.
fn eye(puppet: &Puppet) -> (f32, f32) {
    match puppet.identity.class {
        Class::Frog => (0.55 * puppet.frame.head_half_width, -0.74 * puppet.frame.head_half_height),
        Class::Robot => (8.5, -2.5),
        Class::Bear | Class::Dog => (9.5, -5.0),
        _ => (9.0, -3.5),
    }
}

fn eyes(canvas: &mut Canvas, puppet: &Puppet) {
    let identity = &puppet.identity;
    let (x, y) = eye(puppet);
    let glasses = identity.accessory.filter(|it| it.kind == AccessoryKind::Glasses);
    // On a robot's screen and on dark fur, dots are bright, unless there are lenses below.
    let dot = match identity.class {
        _ if glasses.is_some() => BLACK,
        Class::Robot if luma(puppet.paints.accent) < 70 => [120, 255, 220],
        Class::Robot => tint(puppet.paints.accent),
        Class::Person => BLACK,
        _ if luma(puppet.paints.skin) < 90 => WHITE,
        _ => BLACK,
    };
    for x in [-x, x] {
        match identity.eyes {
            Eyes::Dots => canvas.detail(Shape::Ellipse(x, y, 4.4, 4.4), dot),
            Eyes::Big => {
                canvas.detail(Shape::Ellipse(x, y, 6.8, 7.2), WHITE);
                canvas.detail(Shape::Ellipse(x + 0.8, y + 0.8, 3.4, 3.8), BLACK);
            }
            Eyes::Sleepy => {
                canvas.detail(Shape::Ellipse(x, y, 6.0, 5.6), WHITE);
                canvas.detail(Shape::Ellipse(x, y + 2.0, 3.0, 3.0), BLACK);
                canvas.detail(Shape::Box(x, y - 3.6, 6.6, 3.0, 1.5), shade(puppet.paints.skin));
            }
            Eyes::Tall => {
                canvas.detail(Shape::Ellipse(x, y, 4.4, 8.0), WHITE);
                canvas.detail(Shape::Ellipse(x, y + 1.5, 2.8, 5.0), BLACK);
            }
            Eyes::Ringed => {
                canvas.detail(Shape::Ellipse(x, y, 7.4, 7.4), puppet.paints.accent);
                canvas.detail(Shape::Ellipse(x, y, 5.0, 5.0), WHITE);
                canvas.detail(Shape::Ellipse(x, y, 2.8, 2.8), BLACK);
            }
        }
    }
}
