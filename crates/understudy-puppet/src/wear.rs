//! Hats and other things worn.

use crate::character::{Frame, Joints, Puppet};
use crate::color::{Rgb, shade};
use crate::draw::{Canvas, Shape, placed, tint};
use crate::identity::{AccessoryKind, Class};
use crate::pose::Pose;

/// The accessory, seen from the front. A cape is behind the body and drawn by [`draw_cape`], glasses
/// are under the eyes and drawn by [`draw_glasses`].
pub(crate) fn draw_front(canvas: &mut Canvas, puppet: &Puppet, joints: &Joints, pose: &Pose) {
    let Some(accessory) = puppet.identity.accessory else {
        return;
    };
    let color = accessory.color.rgb();
    let (x, y) = joints.head;
    match accessory.kind {
        AccessoryKind::Bow => {
            canvas.within(
                placed(x + 12.0, y - 0.86 * puppet.frame.head_half_height, 1.0, 1.0, 0.04),
                |canvas| {
                    bow(canvas, color);
                },
            );
        }
        AccessoryKind::Scarf => {
            canvas.part(Shape::Limb((8.0, joints.neck + 5.0), (10.0, joints.neck + 20.0), 4.4), shade(color));
            scarf(canvas, color, &puppet.frame, joints);
        }
        AccessoryKind::Tie => {
            let top = joints.neck + 4.0;
            let blade = [(-3.0, top), (3.0, top), (5.0, top + 12.0), (0.0, top + 17.0), (-5.0, top + 12.0)];
            canvas.part(Shape::Polygon(&blade), color);
            canvas.part(Shape::Box(0.0, top + 1.0, 4.6, 3.2, 1.5), shade(color));
        }
        AccessoryKind::Cape => scarf(canvas, color, &puppet.frame, joints),
        AccessoryKind::Glasses => {}
        kind if is_under_eyes(puppet, kind) => {}
        _ => draw_hat(canvas, puppet, joints, accessory.kind, color, pose.gaze),
    }
}

/// A frog's hat, which its eyes stand in front of.
pub(crate) fn draw_under(canvas: &mut Canvas, puppet: &Puppet, joints: &Joints) {
    let Some(accessory) = puppet.identity.accessory else {
        return;
    };
    if is_under_eyes(puppet, accessory.kind) {
        let (x, y) = joints.head;
        let raised = Joints { head: (x, y - 9.0), ..*joints };
        draw_hat(canvas, puppet, &raised, accessory.kind, accessory.color.rgb(), 0.0);
    }
}

fn is_under_eyes(puppet: &Puppet, kind: AccessoryKind) -> bool {
    use AccessoryKind::{Beanie, Cap, Crown, PartyHat, TopHat};
    puppet.identity.class == Class::Frog && matches!(kind, TopHat | Cap | PartyHat | Crown | Beanie)
}

/// The accessory, seen from behind.
pub(crate) fn draw_back(canvas: &mut Canvas, puppet: &Puppet, joints: &Joints) {
    let Some(accessory) = puppet.identity.accessory else {
        return;
    };
    let color = accessory.color.rgb();
    match accessory.kind {
        AccessoryKind::Glasses | AccessoryKind::Tie | AccessoryKind::Bow => {}
        AccessoryKind::Scarf => scarf(canvas, color, &puppet.frame, joints),
        AccessoryKind::Cape => draw_cape(canvas, color, &puppet.frame, joints),
        kind if is_under_eyes(puppet, kind) => {}
        kind => draw_hat(canvas, puppet, joints, kind, color, 0.0),
    }
}

/// A cape from the shoulders to the knees.
pub(crate) fn draw_cape(canvas: &mut Canvas, color: Rgb, frame: &Frame, joints: &Joints) {
    let (top, bottom) = (joints.neck + 3.0, -5.0);
    let (narrow, wide) = (frame.torso_half_width, frame.torso_half_width + 15.0);
    let corners = [(-narrow, top), (narrow, top), (wide, bottom), (0.0, bottom + 3.0), (-wide, bottom)];
    canvas.part(Shape::Polygon(&corners), color);
}

fn scarf(canvas: &mut Canvas, color: Rgb, frame: &Frame, joints: &Joints) {
    canvas.part(Shape::Box(0.0, joints.neck + 3.0, frame.torso_half_width + 0.5, 4.6, 4.4), color);
}

/// The rims and lenses of glasses about eyes at (x, y) and (-x, y).
pub(crate) fn draw_glasses(canvas: &mut Canvas, color: Rgb, (x, y): (f32, f32)) {
    for x in [-x, x] {
        canvas.part(Shape::Ellipse(x, y, 10.4, 10.0), color);
        canvas.detail(Shape::Ellipse(x, y, 7.0, 6.6), [226, 240, 250]);
    }
    canvas.detail(Shape::Limb((2.0 - x, y - 1.0), (x - 2.0, y - 1.0), 1.8), color);
}

fn bow(canvas: &mut Canvas, color: Rgb) {
    for side in [-1.0, 1.0] {
        canvas.part(Shape::Polygon(&[(0.0, 0.0), (side * 13.0, -8.5), (side * 13.0, 8.5)]), color);
    }
    canvas.detail(Shape::Ellipse(0.0, 0.0, 4.0, 4.0), shade(color));
}

fn draw_hat(
    canvas: &mut Canvas,
    puppet: &Puppet,
    joints: &Joints,
    kind: AccessoryKind,
    color: Rgb,
    gaze: f32,
) {
    let (x, y) = joints.head;
    let rx = puppet.frame.head_half_width;
    canvas.within(placed(x, y - 0.72 * puppet.frame.head_half_height, 1.0, 1.0, 0.0), |canvas| match kind {
        AccessoryKind::TopHat => {
            canvas.part(Shape::Box(0.0, -12.0, 13.0, 11.5, 1.5), color);
            canvas.detail(Shape::Box(0.0, -4.5, 13.0, 2.6, 0.0), shade(color));
            canvas.part(Shape::Box(0.0, 0.0, 22.0, 2.8, 2.0), color);
        }
        AccessoryKind::Cap => {
            let visor = if gaze < -0.3 { -13.0 } else { 13.0 };
            canvas.part(Shape::Box(visor, 0.5, 14.0, 2.6, 2.4), shade(color));
            canvas.part(Shape::Box(0.0, -5.0, 0.84 * rx, 8.0, 7.5), color);
            canvas.detail(Shape::Ellipse(0.0, -12.5, 2.6, 2.0), tint(color));
        }
        AccessoryKind::PartyHat => {
            canvas.part(Shape::Polygon(&[(-13.0, 1.0), (0.0, -25.0), (13.0, 1.0)]), color);
            canvas.detail(Shape::Limb((-8.5, -3.5), (4.0, -13.0), 1.8), tint(color));
            canvas.part(Shape::Ellipse(0.0, -25.0, 4.4, 4.4), tint(color));
        }
        AccessoryKind::Crown => {
            let points = [
                (-16.0, 2.0),
                (-17.0, -15.0),
                (-8.5, -6.0),
                (0.0, -18.0),
                (8.5, -6.0),
                (17.0, -15.0),
                (16.0, 2.0),
            ];
            canvas.part(Shape::Polygon(&points), color);
            canvas.detail(Shape::Box(0.0, -0.5, 15.5, 2.0, 0.0), shade(color));
        }
        AccessoryKind::Beanie => {
            canvas.part(Shape::Ellipse(0.0, -17.0, 5.5, 5.5), tint(color));
            canvas.part(Shape::Box(0.0, -6.0, 0.86 * rx, 10.0, 9.5), color);
            canvas.detail(Shape::Box(0.0, 1.0, 0.92 * rx, 3.6, 2.0), tint(color));
        }
        // Headphones are the only kind left that is worn on the top of the head.
        _ => {
            let ear = 0.66 * puppet.frame.head_half_height;
            canvas.part(Shape::Box(0.0, -6.0, 0.92 * rx, 2.6, 2.0), color);
            for side in [-1.0, 1.0] {
                canvas.part(Shape::Limb((side * 0.9 * rx, -6.0), (side * (rx + 1.0), ear - 4.0), 2.4), color);
                canvas.part(Shape::Box(side * (rx + 1.0), ear, 5.0, 8.0, 4.0), color);
            }
        }
    });
}
