//! The layers behind the characters, and what the camera sees of them.

use tiny_skia::Transform;

use crate::draw::Canvas;
use crate::place::Place;
use crate::rng::{Rng, Stream};
use crate::scenario::Scenario;
use crate::scene::Grade;
use crate::world::{Size, View, paint_standing_objects};

/// The painted layers of a clip's scene, wider than the frame by a margin on both sides.
pub(crate) struct Backdrop {
    far: Canvas,
    near: Canvas,
    margin: usize,
    size: Size,
    /// The frame that a static camera sees, once it has been composed.
    still: Option<Vec<u8>>,
}

impl Backdrop {
    pub(crate) fn paint(scenario: &Scenario, size: Size) -> Self {
        let unit = size.unit();
        let margin = (View::REACH * unit).ceil() as usize + 1;
        let grade = Grade::backdrop(scenario.light, scenario.style);
        let canvas = || Canvas::new(size.width + 2 * margin, size.height, grade);
        let (mut far, mut near) = (canvas(), canvas());
        let place = Place::new(scenario.light, size, margin);
        let mut rng = Rng::new(Stream::Backdrop, scenario.scene.index() as u64, scenario.seed);
        for canvas in [&mut far, &mut near] {
            canvas.set_transform(Transform::from_row(unit, 0.0, 0.0, unit, margin as f32, 0.0));
            canvas.set_ink_width(0.7);
        }
        place.paint(scenario.scene, &mut far, &mut near, &mut rng);
        paint_standing_objects(&mut near, scenario, size, margin as f32);
        Self { far, near, margin, size, still: None }
    }

    /// Writes what the camera sees to an RGB frame.
    pub(crate) fn copy_to(&mut self, frame: &mut [u8], view: &View) {
        if !view.is_static() {
            self.sample(frame, view);
            return;
        }
        if self.still.is_none() {
            let mut still = vec![0; frame.len()];
            self.sample(&mut still, view);
            self.still = Some(still);
        }
        if let Some(still) = &self.still {
            frame.copy_from_slice(still);
        }
    }

    fn sample(&self, frame: &mut [u8], view: &View) {
        let Size { width, height, .. } = self.size;
        let (ax, ay) = view.anchor;
        for y in 0..height {
            let source_y = ay + (y as f32 - ay) / view.zoom;
            for x in 0..width {
                let source_x = ax + (x as f32 - ax) / view.zoom + self.margin as f32;
                // The far layer moves half as much as the near one.
                let far = bilinear(&self.far, height, source_x + 0.5 * view.pan, source_y);
                let near = bilinear(&self.near, height, source_x + view.pan, source_y);
                let rest = 255 - near[3];
                for c in 0..3 {
                    frame[(y * width + x) * 3 + c] = (near[c] + (far[c] * rest + 127) / 255).min(255) as u8;
                }
            }
        }
    }
}

/// The premultiplied RGBA value of a canvas between pixels, in 8-bit fixed point; edges repeat.
fn bilinear(canvas: &Canvas, height: usize, x: f32, y: f32) -> [u32; 4] {
    let width = canvas.width();
    let fixed = |at: f32, side: usize| {
        let at = (at.max(0.0) * 256.0) as usize;
        let low = (at >> 8).min(side - 1);
        (low, (low + 1).min(side - 1), (at & 255) as u32)
    };
    let ((x0, x1, fx), (y0, y1, fy)) = (fixed(x, width), fixed(y, height));
    let pixels = canvas.pixels();
    let at = |x: usize, y: usize, c: usize| u32::from(pixels[(y * width + x) * 4 + c]);
    std::array::from_fn(|c| {
        if fx == 0 && fy == 0 {
            return at(x0, y0, c);
        }
        let top = at(x0, y0, c) * (256 - fx) + at(x1, y0, c) * fx;
        let bottom = at(x0, y1, c) * (256 - fx) + at(x1, y1, c) * fx;
        (top * (256 - fy) + bottom * fy + (1 << 15)) >> 16
    })
}
