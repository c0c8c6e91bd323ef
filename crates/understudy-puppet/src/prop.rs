//! Objects that characters hold, wear, or stand beside.

use crate::character::{Frame, Joints};
use crate::color::{Color, Rgb, shade};
use crate::draw::{Canvas, Shape, placed, tint};
use crate::scene::{Object, ObjectKind};

const WOOD: Rgb = [112, 76, 44];

/// An object in the left hand.
pub(crate) fn draw_held(canvas: &mut Canvas, object: Object, joints: &Joints) {
    let (x, y) = joints.hands[0];
    let color = object.color.rgb();
    canvas.within(placed(x, y, 1.0, 1.0, 0.0), |canvas| match object.kind {
        ObjectKind::Umbrella => {
            canvas.part(Shape::Limb((0.0, 4.0), (-5.0, -48.0), 1.5), WOOD);
            let canopy = [(-31.0, -42.0), (-24.0, -56.0), (-6.0, -64.0), (12.0, -57.0), (20.0, -43.0)];
            canvas.part(Shape::Polygon(&canopy), color);
            canvas.detail(Shape::Polygon(&[(-14.0, -42.0), (-6.0, -63.0), (3.0, -42.5)]), tint(color));
        }
        ObjectKind::Guitar => {
            canvas.part(Shape::Limb((-1.0, 0.0), (-9.0, -34.0), 2.4), WOOD);
            canvas.part(Shape::Ellipse(-1.0, 4.0, 8.5, 7.5), color);
            canvas.part(Shape::Ellipse(1.5, 14.0, 11.0, 9.5), color);
            canvas.detail(Shape::Ellipse(0.5, 9.0, 4.0, 4.0), [24, 18, 18]);
        }
        ObjectKind::Balloon => {
            canvas.detail(Shape::Limb((0.0, 0.0), (-6.0, -30.0), 0.9), Color::White.rgb());
            canvas.part(Shape::Ellipse(-7.0, -43.0, 12.5, 14.5), color);
            canvas.detail(Shape::Ellipse(-11.0, -48.0, 3.0, 4.0), tint(color));
        }
        ObjectKind::Book => {
            canvas.part(Shape::Box(-2.0, 0.0, 11.0, 9.0, 1.0), color);
            canvas.detail(Shape::Box(-2.0, 0.0, 8.5, 6.5, 0.5), [250, 246, 232]);
            canvas.detail(Shape::Limb((-2.0, -6.5), (-2.0, 6.5), 1.2), shade(color));
        }
        ObjectKind::Kite => {
            canvas.detail(Shape::Limb((0.0, 0.0), (-10.0, -40.0), 0.9), Color::White.rgb());
            let diamond = [(-12.0, -70.0), (1.0, -55.0), (-10.0, -34.0), (-25.0, -53.0)];
            canvas.part(Shape::Polygon(&diamond), color);
            canvas.detail(Shape::Limb((-12.0, -68.0), (-10.5, -37.0), 1.3), tint(color));
            canvas.detail(Shape::Limb((-22.0, -53.0), (-2.0, -55.0), 1.3), tint(color));
        }
        ObjectKind::Backpack | ObjectKind::Ball | ObjectKind::Box => {}
    });
}

/// A backpack; its sides show behind the body.
pub(crate) fn draw_backpack(canvas: &mut Canvas, object: Object, frame: &Frame, joints: &Joints) {
    let color = object.color.rgb();
    canvas.part(Shape::Box(0.0, joints.chest - 2.0, frame.torso_half_width + 9.0, 18.0, 8.0), color);
    canvas.detail(Shape::Box(0.0, joints.chest + 6.0, frame.torso_half_width + 6.0, 6.0, 3.0), shade(color));
}

/// An object on the ground, its lowest point at the origin, in hundredths of its character's height.
pub(crate) fn draw_standing(canvas: &mut Canvas, object: Object) {
    let color = object.color.rgb();
    match object.kind {
        ObjectKind::Box => {
            canvas.part(Shape::Box(0.0, -13.0, 15.0, 13.0, 1.0), color);
            canvas.detail(Shape::Box(0.0, -13.0, 3.0, 13.0, 0.0), tint(color));
            canvas.detail(Shape::Box(0.0, -23.0, 15.0, 3.0, 0.5), shade(color));
        }
        _ => {
            canvas.part(Shape::Ellipse(0.0, -13.0, 13.0, 13.0), color);
            canvas.detail(Shape::Box(0.0, -13.0, 12.2, 3.2, 1.0), tint(color));
            canvas.detail(Shape::Ellipse(-4.5, -18.0, 3.0, 3.0), Color::White.rgb());
        }
    }
}
