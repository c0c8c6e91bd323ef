//! Where a clip is set and how it is shown.

use serde::{Deserialize, Serialize};

use crate::attribute::attribute;
use crate::color::{Color, Rgb, blend, luma};

attribute! {
    /// A place.
    Scene {
        /// Sand, sea, a palm.
        Beach => "beach",
        /// Fir trees on dark grass.
        Forest => "forest",
        /// A skyline of towers.
        City => "city",
        /// Stars and planets above a cratered ground.
        Space => "space",
        /// White hills and firs, flakes in the air.
        Snow => "snow",
        /// Waves all around a raft.
        Sea => "sea",
        /// Dunes and cacti.
        Desert => "desert",
        /// A wall with a window and a picture.
        Room => "room",
        /// Green hills and flowers.
        Meadow => "meadow",
        /// Red curtains and boards.
        Stage => "stage",
        /// Peaks with snow caps.
        Mountain => "mountain",
        /// A row of houses along a road.
        Street => "street",
    }
}

attribute! {
    /// The light of a scene.
    Light {
        /// Plain daylight.
        Day => "day",
        /// Orange, low sun.
        Sunset => "sunset",
        /// Violet, after the sun is gone.
        Dusk => "dusk",
        /// Blue and dark, with a moon.
        Night => "night",
        /// Gray sky, no sun.
        Overcast => "overcast",
    }
}

attribute! {
    /// What the camera does in the course of a clip.
    Camera {
        /// Nothing.
        Static => "static",
        /// Turns left: the world moves right.
        PanLeft => "pan left",
        /// Turns right: the world moves left.
        PanRight => "pan right",
        /// Comes closer by a fifth.
        ZoomIn => "zoom in",
        /// Moves away by a fifth.
        ZoomOut => "zoom out",
    }
}

attribute! {
    /// The manner of drawing.
    Style {
        /// Flat areas without outlines.
        Flat => "flat",
        /// Dark outlines.
        Outlined => "outlined",
        /// Colours mixed with white.
        Pastel => "pastel",
        /// Faded colours between gray pencil lines.
        Sketch => "sketch",
        /// Low-key colours.
        Dark => "dark",
    }
}

attribute! {
    /// A thing held by a character or lying beside it.
    ObjectKind {
        /// A ball, on the ground beside the character.
        Ball => "ball",
        /// An open umbrella, held.
        Umbrella => "umbrella",
        /// A guitar, held.
        Guitar => "guitar",
        /// A backpack, worn.
        Backpack => "backpack",
        /// A balloon on a string, held.
        Balloon => "balloon",
        /// A box, on the ground beside the character.
        Box => "box",
        /// A book, held.
        Book => "book",
        /// A kite on a string, held.
        Kite => "kite",
    }
}

impl ObjectKind {
    /// Whether the object is held or worn, and so belongs to the mask of its character.
    pub const fn is_carried(self) -> bool {
        !matches!(self, Self::Ball | Self::Box)
    }
}

/// A thing with its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Object {
    /// What it is.
    pub kind: ObjectKind,
    /// Its colour.
    pub color: Color,
}

/// How light and style change a colour. It is applied when a shape is painted, so frames need no second pass.
#[derive(Clone, Copy)]
pub(crate) struct Grade {
    /// Factor per channel in 256ths.
    gain: [u32; 3],
    style: Style,
}

impl Grade {
    /// The grade of backdrops.
    pub(crate) fn backdrop(light: Light, style: Style) -> Self {
        let gain = match light {
            Light::Day => [256, 256, 256],
            Light::Sunset => [256, 200, 160],
            Light::Dusk => [184, 156, 216],
            Light::Night => [84, 98, 152],
            Light::Overcast => [206, 212, 220],
        };
        Self { gain, style }
    }

    /// The grade of characters: a third of the backdrop's change, so that an identity is told in any light.
    pub(crate) fn character(light: Light, style: Style) -> Self {
        let Self { gain, style } = Self::backdrop(light, style);
        Self { gain: gain.map(|gain| (gain + 2 * 256) / 3), style }
    }

    /// The style alone.
    pub(crate) fn unlit(&self) -> Self {
        Self { gain: [256; 3], style: self.style }
    }

    pub(crate) fn apply(&self, color: Rgb) -> Rgb {
        let lit = std::array::from_fn(|c| ((u32::from(color[c]) * self.gain[c]) >> 8) as u8);
        match self.style {
            Style::Flat | Style::Outlined => lit,
            Style::Pastel => blend(lit, [255, 250, 245], 112),
            // Pale crayon rather than gray, so that captions may still name colours.
            Style::Sketch => blend(blend(lit, [luma(lit); 3], 120), [250, 248, 242], 72),
            Style::Dark => blend(blend(lit, [luma(lit); 3], 48), [14, 12, 24], 76),
        }
    }

    /// Colour of outlines, for the styles that have them.
    pub(crate) fn ink(&self) -> Option<Rgb> {
        match self.style {
            Style::Outlined => Some([16, 14, 22]),
            Style::Sketch => Some([70, 68, 72]),
            _ => None,
        }
    }
}
