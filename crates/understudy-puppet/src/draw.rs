//! Painting shapes on a small pixel buffer.

use tiny_skia::{
    Color as SkColor, FillRule, FilterQuality, GradientStop, LinearGradient, Paint, Path, PathBuilder,
    Pattern, PixmapMut, PixmapRef, Point, Rect, SpreadMode, Transform,
};

use crate::character::{Feature, Part};
use crate::color::{Rgb, blend};
use crate::pose::{cosine, sine};
use crate::scene::Grade;

/// How far a cubic's control points lie along the tangents to make a quarter circle of radius 1.
const QUARTER: f32 = 0.552_284_8;

/// An outline in the current coordinates, y downwards.
#[derive(Clone, Copy)]
pub(crate) enum Shape<'a> {
    /// Centre and radii.
    Ellipse(f32, f32, f32, f32),
    /// Centre, half width, half height, corner radius.
    Box(f32, f32, f32, f32, f32),
    /// Two ends and the half width.
    Limb((f32, f32), (f32, f32), f32),
    /// Corners of a polygon that is star-shaped about the mean of its corners.
    Polygon(&'a [(f32, f32)]),
}

impl Shape<'_> {
    /// The outline, moved outwards by `margin`.
    fn path(&self, margin: f32) -> Option<Path> {
        let mut path = PathBuilder::new();
        match *self {
            Shape::Ellipse(x, y, rx, ry) => rounded(&mut path, x, y, (rx + margin, ry + margin), None),
            Shape::Box(x, y, hw, hh, corner) => {
                rounded(&mut path, x, y, (hw + margin, hh + margin), Some(corner + margin));
            }
            Shape::Limb(from, to, radius) => limb(&mut path, from, to, radius + margin),
            Shape::Polygon(corners) => polygon(&mut path, corners, margin),
        }
        path.finish()
    }
}

/// An ellipse, or a box with round corners, within the given half width and height.
fn rounded(path: &mut PathBuilder, x: f32, y: f32, (hw, hh): (f32, f32), corner: Option<f32>) {
    let (rx, ry) = corner.map_or((hw, hh), |corner| (corner.min(hw), corner.min(hh)));
    let (kx, ky) = (rx * (1.0 - QUARTER), ry * (1.0 - QUARTER));
    path.move_to(x - hw + rx, y - hh);
    path.line_to(x + hw - rx, y - hh);
    path.cubic_to(x + hw - kx, y - hh, x + hw, y - hh + ky, x + hw, y - hh + ry);
    path.line_to(x + hw, y + hh - ry);
    path.cubic_to(x + hw, y + hh - ky, x + hw - kx, y + hh, x + hw - rx, y + hh);
    path.line_to(x - hw + rx, y + hh);
    path.cubic_to(x - hw + kx, y + hh, x - hw, y + hh - ky, x - hw, y + hh - ry);
    path.line_to(x - hw, y - hh + ry);
    path.cubic_to(x - hw, y - hh + ky, x - hw + kx, y - hh, x - hw + rx, y - hh);
    path.close();
}

/// A stroke with round ends.
fn limb(path: &mut PathBuilder, (x0, y0): (f32, f32), (x1, y1): (f32, f32), radius: f32) {
    let length = ((x1 - x0) * (x1 - x0) + (y1 - y0) * (y1 - y0)).sqrt();
    let (ux, uy) = if length > 1e-3 { ((x1 - x0) / length, (y1 - y0) / length) } else { (0.0, 1.0) };
    // Half-circles are approximated by one cubic each: exact at both ends and at the tip.
    let (ax, ay) = (ux * radius * 4.0 / 3.0, uy * radius * 4.0 / 3.0);
    let (nx, ny) = (-uy * radius, ux * radius);
    path.move_to(x0 + nx, y0 + ny);
    path.cubic_to(x0 + nx - ax, y0 + ny - ay, x0 - nx - ax, y0 - ny - ay, x0 - nx, y0 - ny);
    path.line_to(x1 - nx, y1 - ny);
    path.cubic_to(x1 - nx + ax, y1 - ny + ay, x1 + nx + ax, y1 + ny + ay, x1 + nx, y1 + ny);
    path.close();
}

fn polygon(path: &mut PathBuilder, corners: &[(f32, f32)], margin: f32) {
    let count = corners.len().max(1) as f32;
    let (sum_x, sum_y) = corners.iter().fold((0.0, 0.0), |sum, corner| (sum.0 + corner.0, sum.1 + corner.1));
    let (cx, cy) = (sum_x / count, sum_y / count);
    for (i, &(x, y)) in corners.iter().enumerate() {
        let distance = ((x - cx) * (x - cx) + (y - cy) * (y - cy)).sqrt().max(1e-3);
        let scale = 1.0 + margin * 1.4 / distance;
        let (x, y) = (cx + (x - cx) * scale, cy + (y - cy) * scale);
        if i == 0 { path.move_to(x, y) } else { path.line_to(x, y) }
    }
    path.close();
}

/// Corners of a five-pointed star about (x, y).
pub(crate) fn star(x: f32, y: f32, radius: f32) -> [(f32, f32); 10] {
    std::array::from_fn(|i| {
        let reach = if i % 2 == 0 { radius } else { radius * 0.45 };
        let turns = i as f32 / 10.0;
        (x + reach * sine(turns), y - reach * cosine(turns))
    })
}

/// A transform that scales by (sx, sy), then rotates clockwise by `turns`, then moves to (x, y).
pub(crate) fn placed(x: f32, y: f32, sx: f32, sy: f32, turns: f32) -> Transform {
    let (sin, cos) = (sine(turns), cosine(turns));
    Transform::from_row(sx * cos, sx * sin, -sy * sin, sy * cos, x, y)
}

/// An RGBA buffer (premultiplied) with the state of a painter.
pub(crate) struct Canvas {
    data: Vec<u8>,
    width: u32,
    height: u32,
    transform: Transform,
    grade: Grade,
    /// Width of outlines in the current coordinates; 0 for none.
    ink_width: f32,
    /// What everything is painted with in place of its colour, for maps of parts.
    label: Option<Label>,
}

/// What is being painted, for maps of parts.
#[derive(Clone, Copy)]
struct Label {
    part: u8,
    feature: u8,
}

impl Label {
    /// Both in one byte: the part below, the feature above.
    fn byte(self) -> u8 {
        self.part | self.feature << 4
    }
}

/// The part and the feature, by their numbers, of a pixel of a map of parts.
pub(crate) fn labels(pixel: u8) -> [u8; 2] {
    [pixel & 15, pixel >> 4]
}

impl Canvas {
    /// A transparent canvas.
    pub(crate) fn new(width: usize, height: usize, grade: Grade) -> Self {
        Self {
            data: vec![0; width * height * 4],
            width: width as u32,
            height: height as u32,
            transform: Transform::identity(),
            grade,
            ink_width: 0.0,
            label: None,
        }
    }

    /// From now on paints the label of `part`, opaque and without smooth edges, where it is a map of parts;
    /// otherwise does nothing.
    pub(crate) fn name(&mut self, part: Part) {
        if let Some(label) = &mut self.label {
            label.part = part as u8;
        }
    }

    /// What `paint` paints is `feature` of its part, where this is a map of parts.
    pub(crate) fn as_feature(&mut self, feature: Feature, paint: impl FnOnce(&mut Self)) {
        if let Some(label) = &mut self.label {
            label.feature = feature as u8;
        }
        paint(self);
        if let Some(label) = &mut self.label {
            label.feature = 0;
        }
    }

    /// A transparent canvas that is painted with labels in place of colours.
    pub(crate) fn of_labels(width: usize, height: usize, grade: Grade) -> Self {
        Self { label: Some(Label { part: 0, feature: 0 }), ..Self::new(width, height, grade) }
    }

    pub(crate) fn clear(&mut self) {
        self.data.fill(0);
    }

    /// Premultiplied RGBA, row by row.
    pub(crate) fn pixels(&self) -> &[u8] {
        &self.data
    }

    pub(crate) fn width(&self) -> usize {
        self.width as usize
    }

    pub(crate) fn set_transform(&mut self, transform: Transform) {
        self.transform = transform;
    }

    /// Sets the width of outlines, drawn only if the style has any.
    pub(crate) fn set_ink_width(&mut self, width: f32) {
        self.ink_width = if self.grade.ink().is_some() { width } else { 0.0 };
    }

    /// Paints with a transform applied before the current one.
    pub(crate) fn within(&mut self, transform: Transform, paint: impl FnOnce(&mut Self)) {
        let outer = self.transform;
        self.transform = outer.pre_concat(transform);
        paint(self);
        self.transform = outer;
    }

    /// A filled shape, outlined if the style has outlines.
    pub(crate) fn part(&mut self, shape: Shape, color: Rgb) {
        self.outline(&shape);
        self.detail(shape, color);
    }

    /// A filled shape without an outline.
    pub(crate) fn detail(&mut self, shape: Shape, color: Rgb) {
        let color = self.grade.apply(color);
        self.fill_path(shape.path(0.0), &solid(color, 255));
    }

    /// A translucent shape; `alpha` 0 to 255.
    pub(crate) fn glow(&mut self, shape: Shape, color: Rgb, alpha: u8) {
        let color = self.grade.apply(color);
        self.fill_path(shape.path(0.0), &solid(color, alpha));
    }

    /// A shape in a colour that light does not change, such as the sun.
    pub(crate) fn lamp(&mut self, shape: Shape, color: Rgb) {
        let color = self.grade.unlit().apply(color);
        self.fill_path(shape.path(0.0), &solid(color, 255));
    }

    /// A shape filled from a texture, outlined if the style has outlines.
    pub(crate) fn textured(&mut self, shape: Shape, texture: &Texture) {
        self.outline(&shape);
        let canvas = &texture.canvas;
        let Some(pixels) = PixmapRef::from_bytes(&canvas.data, canvas.width, canvas.height) else {
            return;
        };
        let shader = Pattern::new(pixels, SpreadMode::Pad, FilterQuality::Bilinear, 1.0, texture.to_local);
        let paint = Paint { shader, anti_alias: true, ..Paint::default() };
        self.fill_path(shape.path(0.0), &paint);
    }

    /// The whole canvas in a vertical gradient over `reach` pixels, in colours that light does not change.
    pub(crate) fn sky(&mut self, top: Rgb, bottom: Rgb, reach: f32) {
        let [top, bottom] = [top, bottom].map(|color| sk(self.grade.unlit().apply(color), 255));
        let stops = vec![GradientStop::new(0.0, top), GradientStop::new(1.0, bottom)];
        let ends = (Point::from_xy(0.0, 0.0), Point::from_xy(0.0, reach));
        let Some(shader) = LinearGradient::new(ends.0, ends.1, stops, SpreadMode::Pad, Transform::identity())
        else {
            return;
        };
        let paint = Paint { shader, anti_alias: false, ..Paint::default() };
        let bounds = Rect::from_xywh(0.0, 0.0, self.width as f32, self.height as f32);
        let Some(mut pixmap) = PixmapMut::from_bytes(&mut self.data, self.width, self.height) else {
            return;
        };
        if let Some(bounds) = bounds {
            pixmap.fill_rect(bounds, &paint, Transform::identity(), None);
        }
    }

    fn outline(&mut self, shape: &Shape) {
        if self.ink_width > 0.0
            && let Some(ink) = self.grade.ink()
        {
            self.fill_path(shape.path(self.ink_width), &solid(ink, 255));
        }
    }

    fn fill_path(&mut self, path: Option<Path>, paint: &Paint) {
        // A path without area is nothing to paint.
        let Some(path) = path else { return };
        let Some(mut pixmap) = PixmapMut::from_bytes(&mut self.data, self.width, self.height) else {
            return;
        };
        let label = self.label.map(|label| Paint { anti_alias: false, ..solid([label.byte(); 3], 255) });
        let paint = label.as_ref().unwrap_or(paint);
        pixmap.fill_path(&path, paint, FillRule::Winding, self.transform, None);
    }
}

/// A small picture that is painted once and then fills shapes.
pub(crate) struct Texture {
    canvas: Canvas,
    to_local: Transform,
}

impl Texture {
    /// Paints the rectangle of local coordinates (left, top, width, height) at `scale` pixels a unit.
    pub(crate) fn paint(
        (left, top, width, height): (f32, f32, f32, f32),
        scale: f32,
        grade: Grade,
        paint: impl FnOnce(&mut Canvas),
    ) -> Self {
        let side = |units: f32| ((units * scale).ceil() as usize).clamp(1, 2048);
        let mut canvas = Canvas::new(side(width), side(height), grade);
        canvas.transform = Transform::from_row(scale, 0.0, 0.0, scale, -left * scale, -top * scale);
        paint(&mut canvas);
        Self { canvas, to_local: Transform::from_row(1.0 / scale, 0.0, 0.0, 1.0 / scale, left, top) }
    }
}

fn sk([red, green, blue]: Rgb, alpha: u8) -> SkColor {
    SkColor::from_rgba8(red, green, blue, alpha)
}

fn solid<'a>(color: Rgb, alpha: u8) -> Paint<'a> {
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(sk(color, alpha));
    paint
}

/// A lighter tint for highlights.
pub(crate) fn tint(color: Rgb) -> Rgb {
    blend(color, [255, 255, 255], 96)
}
