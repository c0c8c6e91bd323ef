//! Scenes: skies, landscapes and rooms.
//!
//! Coordinates are 64ths of the frame's short side.

use crate::color::{Rgb, blend};
use crate::draw::{Canvas, Shape, star};
use crate::rng::Rng;
use crate::scene::{Light, Scene};
use crate::world::Size;

/// The extent of a scene in units, margins included, and its light.
pub(crate) struct Place {
    light: Light,
    left: f32,
    right: f32,
    width: f32,
    bottom: f32,
    ground: f32,
    /// Height of the canvas in pixels.
    pixels: f32,
}

impl Place {
    /// The place that a frame of `size`, with `margin` pixels on both sides, shows.
    pub(crate) fn new(light: Light, size: Size, margin: usize) -> Self {
        let unit = size.unit();
        let bottom = size.height as f32 / unit;
        Self {
            light,
            left: -(margin as f32) / unit,
            right: (size.width + margin) as f32 / unit,
            width: size.width as f32 / unit,
            bottom,
            ground: bottom - 19.0,
            pixels: size.height as f32,
        }
    }

    /// Paints the far layer with the sky and the near layer with the ground.
    pub(crate) fn paint(&self, scene: Scene, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        match scene {
            Scene::Space | Scene::Room | Scene::Stage => {}
            _ => self.sky(far, rng),
        }
        match scene {
            Scene::Beach => self.beach(far, near, rng),
            Scene::Forest => self.forest(far, near, rng),
            Scene::City => self.city(far, near, rng),
            Scene::Space => self.space(far, near, rng),
            Scene::Snow => self.snow(far, near, rng),
            Scene::Sea => self.sea(far, near, rng),
            Scene::Desert => self.desert(far, near, rng),
            Scene::Room => self.room(far, near, rng),
            Scene::Meadow => self.meadow(far, near, rng),
            Scene::Stage => self.stage(far, near),
            Scene::Mountain => self.mountain(far, near, rng),
            Scene::Street => self.street(far, near, rng),
        }
    }

    /// A rectangle across the whole width from `top` to the bottom.
    fn floor(&self, canvas: &mut Canvas, top: f32, color: Rgb) {
        let (middle, half) = (0.5 * (self.left + self.right), 0.5 * (self.right - self.left) + 2.0);
        let height = self.bottom + 2.0 - top;
        canvas.detail(Shape::Box(middle, top + 0.5 * height, half, 0.5 * height, 0.0), color);
    }

    /// A horizontal band across the whole width.
    fn band(&self, canvas: &mut Canvas, y: f32, half: f32, color: Rgb) {
        canvas.detail(Shape::Limb((self.left - 4.0, y), (self.right + 4.0, y), half), color);
    }

    /// Calls `paint` at positions across the whole width, about `step` apart.
    fn row(&self, rng: &mut Rng, step: f32, mut paint: impl FnMut(&mut Rng, f32)) {
        let mut x = self.left - step * spread(rng, 0.0, 1.0);
        while x < self.right + step {
            paint(rng, x);
            x += step * spread(rng, 0.85, 1.15);
        }
    }

    fn sky(&self, canvas: &mut Canvas, rng: &mut Rng) {
        let (top, bottom) = match self.light {
            Light::Day => ([84, 170, 246], [198, 232, 252]),
            Light::Sunset => ([244, 112, 74], [255, 218, 132]),
            Light::Dusk => ([70, 56, 132], [232, 142, 160]),
            Light::Night => ([10, 14, 44], [40, 52, 104]),
            Light::Overcast => ([150, 160, 174], [208, 214, 220]),
        };
        let reach = self.pixels * self.ground / self.bottom;
        canvas.sky(top, bottom, reach);
        let x = spread(rng, 6.0, self.width - 6.0);
        match self.light {
            Light::Day => canvas.lamp(Shape::Ellipse(x, 8.0, 5.0, 5.0), [255, 236, 96]),
            Light::Sunset => canvas.lamp(Shape::Ellipse(x, self.ground - 8.0, 7.5, 7.5), [255, 240, 150]),
            Light::Dusk => {}
            Light::Night => {
                self.stars(canvas, rng, 14);
                canvas.lamp(Shape::Ellipse(x, 8.0, 4.6, 4.6), [250, 246, 214]);
                canvas.lamp(Shape::Ellipse(x + 2.2, 7.0, 3.9, 3.9), [16, 20, 54]);
            }
            Light::Overcast => self.clouds(canvas, rng, [232, 236, 240]),
        }
        if self.light == Light::Day && rng.chance(50) {
            self.clouds(canvas, rng, [255, 255, 255]);
        }
    }

    fn clouds(&self, canvas: &mut Canvas, rng: &mut Rng, color: Rgb) {
        self.row(rng, 34.0, |rng, x| {
            let y = spread(rng, 5.0, 14.0);
            canvas.lamp(Shape::Ellipse(x, y, 7.0, 2.8), color);
            canvas.lamp(Shape::Ellipse(x + 2.0, y - 2.0, 4.0, 3.0), color);
        });
    }

    fn stars(&self, canvas: &mut Canvas, rng: &mut Rng, count: usize) {
        for _ in 0..count {
            let (x, y) = (spread(rng, self.left, self.right), spread(rng, 1.0, self.ground - 8.0));
            canvas.lamp(Shape::Ellipse(x, y, 0.7, 0.7), [250, 248, 230]);
        }
    }

    fn hill(&self, canvas: &mut Canvas, x: f32, rise: f32, half: f32, color: Rgb) {
        canvas.detail(Shape::Ellipse(x, self.ground + 2.0, half, rise), color);
    }

    fn beach(&self, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        self.floor(far, self.ground - 9.0, [36, 140, 206]);
        self.band(far, self.ground - 5.5, 0.6, [120, 200, 236]);
        self.floor(near, self.ground, [250, 222, 146]);
        self.band(near, self.ground, 0.9, [252, 248, 236]);
        let x = if rng.chance(50) { spread(rng, 2.0, 10.0) } else { self.width - spread(rng, 2.0, 10.0) };
        near.part(Shape::Limb((x, self.ground + 4.0), (x + 3.0, self.ground - 22.0), 1.4), [140, 96, 56]);
        for (dx, dy) in [(-9.0, 2.0), (9.0, 2.0), (-6.0, -5.0), (6.0, -5.0)] {
            let crown = (x + 3.0, self.ground - 22.0);
            near.part(Shape::Limb(crown, (crown.0 + dx, crown.1 + dy), 1.6), [40, 150, 74]);
        }
    }

    fn fir(&self, canvas: &mut Canvas, x: f32, base: f32, height: f32, color: Rgb) {
        let half = 0.3 * height;
        canvas.detail(Shape::Box(x, base, 1.0, 3.0, 0.0), [96, 66, 44]);
        canvas.part(Shape::Polygon(&[(x - half, base), (x, base - height), (x + half, base)]), color);
    }

    fn forest(&self, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        self.row(rng, 9.0, |rng, x| {
            self.fir(far, x, self.ground + 2.0, spread(rng, 22.0, 30.0), [74, 134, 92]);
        });
        self.row(rng, 13.0, |rng, x| {
            self.fir(near, x, self.ground + 1.0, spread(rng, 18.0, 34.0), [24, 92, 56]);
        });
        self.floor(near, self.ground, [66, 112, 54]);
    }

    fn city(&self, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        self.row(rng, 9.0, |rng, x| {
            let height = spread(rng, 14.0, 34.0);
            far.part(Shape::Box(x, self.ground - 0.5 * height, 4.8, 0.5 * height, 0.0), [128, 136, 158]);
        });
        let lit =
            if matches!(self.light, Light::Night | Light::Dusk) { [255, 226, 120] } else { [176, 204, 226] };
        self.row(rng, 15.0, |rng, x| {
            let height = spread(rng, 12.0, 26.0);
            let top = self.ground - height;
            near.part(Shape::Box(x, self.ground - 0.5 * height, 5.2, 0.5 * height, 0.0), [82, 88, 112]);
            for row in 0..3 {
                for dx in [-2.4, 2.4] {
                    near.lamp(Shape::Box(x + dx, top + 3.0 + 4.0 * row as f32, 1.1, 1.2, 0.0), lit);
                }
            }
        });
        self.floor(near, self.ground, [118, 120, 128]);
        self.band(near, self.ground + 1.0, 0.8, [160, 162, 170]);
    }

    fn space(&self, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        let (top, bottom) = match self.light {
            Light::Sunset => ([40, 10, 40], [130, 44, 70]),
            Light::Dusk => ([30, 14, 66], [96, 44, 120]),
            Light::Overcast => ([28, 32, 44], [66, 74, 90]),
            _ => ([6, 6, 22], [30, 24, 70]),
        };
        far.sky(top, bottom, self.pixels);
        self.stars(far, rng, 34);
        let (x, y) = (spread(rng, 8.0, self.width - 8.0), spread(rng, 8.0, 16.0));
        far.lamp(Shape::Ellipse(x, y, 6.0, 6.0), [226, 150, 92]);
        far.lamp(Shape::Limb((x - 9.0, y + 2.0), (x + 9.0, y - 2.0), 0.9), [246, 220, 170]);
        far.lamp(Shape::Ellipse(self.width - x, y + 14.0, 2.6, 2.6), [110, 190, 220]);
        self.floor(near, self.ground + 2.0, [142, 138, 156]);
        self.row(rng, 16.0, |rng, x| {
            let y = self.ground + spread(rng, 5.0, 16.0);
            near.detail(Shape::Ellipse(x, y, 4.0, 1.5), [104, 100, 120]);
        });
    }

    fn snow(&self, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        self.row(rng, 30.0, |rng, x| self.hill(far, x, spread(rng, 8.0, 16.0), 24.0, [206, 222, 240]));
        self.row(rng, 22.0, |rng, x| {
            let height = spread(rng, 14.0, 22.0);
            self.fir(near, x, self.ground + 1.0, height, [52, 104, 96]);
            let tip = self.ground + 1.0 - height;
            near.detail(
                Shape::Polygon(&[(x - 2.6, tip + 8.0), (x, tip - 0.5), (x + 2.6, tip + 8.0)]),
                [246, 250, 255],
            );
        });
        self.floor(near, self.ground, [236, 242, 252]);
        for _ in 0..26 {
            let (x, y) = (spread(rng, self.left, self.right), spread(rng, 1.0, self.bottom));
            near.lamp(Shape::Ellipse(x, y, 0.9, 0.9), [255, 255, 255]);
        }
    }

    fn sea(&self, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        let horizon = self.ground - 12.0;
        self.floor(far, horizon, [30, 108, 190]);
        for step in 0..5 {
            let y = horizon + 3.0 + 5.5 * step as f32;
            self.row(rng, 14.0, |_, x| far.detail(Shape::Limb((x, y), (x + 5.0, y), 0.6), [104, 178, 232]));
        }
        let deck = self.bottom - 8.0;
        self.floor(near, deck + 1.0, [154, 104, 60]);
        self.band(near, deck + 1.0, 1.4, [196, 144, 88]);
        self.row(rng, 12.0, |_, x| {
            near.detail(Shape::Box(x, self.bottom - 3.0, 0.5, 4.5, 0.0), [112, 74, 42])
        });
    }

    fn desert(&self, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        self.row(rng, 40.0, |rng, x| self.hill(far, x, spread(rng, 8.0, 14.0), 30.0, [224, 160, 86]));
        self.floor(near, self.ground, [238, 184, 106]);
        self.row(rng, 34.0, |rng, x| {
            let (green, top) = ([54, 128, 70], self.ground - spread(rng, 11.0, 17.0));
            near.part(Shape::Limb((x, self.ground + 2.0), (x, top), 1.8), green);
            near.part(Shape::Limb((x, top + 8.0), (x + 5.0, top + 7.0), 1.3), green);
            near.part(Shape::Limb((x + 5.0, top + 7.0), (x + 5.0, top + 3.0), 1.3), green);
        });
    }

    fn room(&self, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        const WALLS: [Rgb; 4] = [[236, 214, 184], [190, 214, 204], [222, 192, 204], [196, 202, 228]];
        let wall = rng.pick(&WALLS);
        self.floor(far, -2.0, wall);
        let pane = match self.light {
            Light::Day => [150, 210, 250],
            Light::Sunset => [255, 170, 96],
            Light::Dusk => [150, 110, 170],
            Light::Night => [20, 26, 70],
            Light::Overcast => [190, 198, 206],
        };
        let x = spread(rng, 10.0, self.width - 10.0);
        far.part(Shape::Box(x, 17.0, 9.0, 9.0, 0.5), [250, 250, 246]);
        far.lamp(Shape::Box(x, 17.0, 7.4, 7.4, 0.0), pane);
        far.detail(Shape::Box(x, 17.0, 0.7, 8.0, 0.0), [250, 250, 246]);
        far.detail(Shape::Box(x, 17.0, 8.0, 0.7, 0.0), [250, 250, 246]);
        let frame = if x > 0.5 * self.width { x - 24.0 } else { x + 24.0 };
        far.part(Shape::Box(frame, 15.0, 6.0, 5.0, 0.0), [132, 84, 48]);
        far.detail(Shape::Box(frame, 15.0, 4.6, 3.6, 0.0), [104, 168, 120]);
        self.floor(near, self.ground + 2.0, [168, 116, 72]);
        self.band(near, self.ground + 2.0, 1.0, blend(wall, [255, 255, 255], 140));
    }

    fn meadow(&self, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        self.row(rng, 32.0, |rng, x| self.hill(far, x, spread(rng, 8.0, 16.0), 26.0, [132, 196, 108]));
        self.floor(near, self.ground, [98, 184, 76]);
        const PETALS: [Rgb; 4] = [[250, 240, 110], [246, 120, 150], [252, 252, 250], [170, 110, 230]];
        self.row(rng, 6.0, |rng, x| {
            let y = self.ground + spread(rng, 2.0, 17.0);
            near.detail(Shape::Ellipse(x, y, 1.2, 1.2), rng.pick(&PETALS));
        });
    }

    fn stage(&self, far: &mut Canvas, near: &mut Canvas) {
        self.floor(far, -2.0, [120, 20, 38]);
        let mut x = self.left;
        while x < self.right {
            far.detail(Shape::Box(x, 0.5 * self.bottom, 1.5, 0.5 * self.bottom, 0.0), [158, 30, 50]);
            x += 7.0;
        }
        let middle = 0.5 * self.width;
        let cone = [
            (middle - 4.0, -2.0),
            (middle + 4.0, -2.0),
            (middle + 22.0, self.bottom),
            (middle - 22.0, self.bottom),
        ];
        far.glow(Shape::Polygon(&cone), [255, 240, 190], 70);
        self.floor(near, self.ground + 4.0, [178, 124, 74]);
        near.detail(Shape::Ellipse(middle, self.bottom - 6.0, 23.0, 6.0), [232, 190, 128]);
        near.detail(Shape::Polygon(&star(middle - 28.0, 6.0, 3.0)), [250, 214, 90]);
        near.detail(Shape::Polygon(&star(middle + 28.0, 6.0, 3.0)), [250, 214, 90]);
    }

    fn mountain(&self, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        self.row(rng, 26.0, |rng, x| {
            let (base, height) = (self.ground + 2.0, spread(rng, 24.0, 36.0));
            let half = 0.62 * height;
            far.part(
                Shape::Polygon(&[(x - half, base), (x, base - height), (x + half, base)]),
                [112, 120, 148],
            );
            let cap = 0.3;
            let (dx, dy) = (half * cap, height * cap);
            let snow = [(x - dx, base - height + dy), (x, base - height), (x + dx, base - height + dy)];
            far.detail(Shape::Polygon(&snow), [246, 250, 255]);
        });
        self.floor(near, self.ground, [124, 132, 96]);
        self.row(rng, 15.0, |rng, x| {
            let y = self.ground + spread(rng, 2.0, 16.0);
            near.detail(Shape::Ellipse(x, y, 2.6, 1.5), [150, 150, 146]);
        });
    }

    fn street(&self, far: &mut Canvas, near: &mut Canvas, rng: &mut Rng) {
        const WALLS: [Rgb; 5] =
            [[222, 120, 96], [238, 206, 130], [126, 172, 200], [214, 166, 190], [160, 190, 140]];
        let lit =
            if matches!(self.light, Light::Night | Light::Dusk) { [255, 230, 130] } else { [236, 244, 250] };
        self.row(rng, 17.0, |rng, x| {
            let top = self.ground - spread(rng, 16.0, 21.0);
            let half = 0.5 * (self.ground - top);
            far.part(Shape::Box(x, self.ground - half, 7.4, half, 0.0), rng.pick(&WALLS));
            far.part(Shape::Polygon(&[(x - 9.0, top), (x, top - 9.0), (x + 9.0, top)]), [150, 66, 54]);
            far.lamp(Shape::Box(x - 3.4, top + 5.0, 1.8, 2.0, 0.0), lit);
            far.lamp(Shape::Box(x + 3.4, top + 5.0, 1.8, 2.0, 0.0), lit);
            far.detail(Shape::Box(x, self.ground - 3.0, 1.9, 4.0, 0.0), [96, 62, 44]);
        });
        self.floor(near, self.ground - 1.0, [190, 188, 184]);
        self.floor(near, self.ground + 4.0, [84, 84, 92]);
        self.row(rng, 14.0, |_, x| {
            near.detail(Shape::Box(x, self.bottom - 4.0, 4.0, 0.9, 0.0), [240, 238, 220]);
        });
    }
}

/// A number in `low..high` in 256 steps.
fn spread(rng: &mut Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.below(256) as f32 / 256.0
}
