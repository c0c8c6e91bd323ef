//! The named colours of the world.

use crate::attribute::attribute;

/// A colour as red, green and blue, 0 to 255 each.
pub(crate) type Rgb = [u8; 3];

attribute! {
    /// A named colour: saturated, and far enough from the eleven others to be told apart on a few pixels.
    Color {
        /// Red.
        Red => "red",
        /// Orange.
        Orange => "orange",
        /// Yellow.
        Yellow => "yellow",
        /// Green.
        Green => "green",
        /// Teal.
        Teal => "teal",
        /// Blue.
        Blue => "blue",
        /// Purple.
        Purple => "purple",
        /// Pink.
        Pink => "pink",
        /// Brown.
        Brown => "brown",
        /// Black, drawn as a very dark gray so that ink remains visible on it.
        Black => "black",
        /// White.
        White => "white",
        /// Gray.
        Gray => "gray",
    }
}

impl Color {
    /// Red, green and blue, before light and style.
    pub const fn rgb(self) -> [u8; 3] {
        match self {
            Self::Red => [226, 38, 44],
            Self::Orange => [250, 138, 20],
            Self::Yellow => [253, 218, 36],
            Self::Green => [52, 164, 60],
            Self::Teal => [24, 190, 190],
            Self::Blue => [36, 84, 226],
            Self::Purple => [140, 56, 206],
            Self::Pink => [252, 130, 190],
            Self::Brown => [132, 80, 40],
            Self::Black => [38, 36, 44],
            Self::White => [248, 248, 246],
            Self::Gray => [146, 148, 156],
        }
    }
}

/// `from` moved towards `to` by `parts` of 256.
pub(crate) fn blend(from: Rgb, to: Rgb, parts: u32) -> Rgb {
    std::array::from_fn(|c| {
        ((u32::from(from[c]) * (256 - parts) + u32::from(to[c]) * parts + 128) >> 8) as u8
    })
}

/// A darker shade of a colour, for soles, far limbs and inner edges.
pub(crate) fn shade(color: Rgb) -> Rgb {
    blend(color, [20, 16, 40], 72)
}

/// Rec. 601 luma, 0 to 255.
pub(crate) fn luma(color: Rgb) -> u8 {
    ((77 * u32::from(color[0]) + 150 * u32::from(color[1]) + 29 * u32::from(color[2]) + 128) >> 8) as u8
}
