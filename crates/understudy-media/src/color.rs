//! How the colours of a clip are coded, and what of it a screen of usual range shows.
//!
//! Clips of high dynamic range (ITU-R BT.2100: hybrid log-gamma and PQ) become what pictures are, sRGB, by
//! one curve for the whole clip: their reference white (ITU-R BT.2408) is white, and what is brighter is let
//! in below it as far as the clip has it. A clip that has nothing brighter, as one made from a usual one,
//! comes back as it was.

use std::path::Path;

use rayon::prelude::*;

use crate::video::check_memory;
use crate::{Image, Result};

/// The codes of ITU-T H.273 that matter to pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Coding {
    pub transfer: u16,
    pub matrix: u16,
    pub full_range: bool,
}

impl Coding {
    /// Nothing is said.
    pub const UNKNOWN: Self = Self { transfer: 2, matrix: 2, full_range: false };
}

/// Transfer functions of high dynamic range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hdr {
    /// Perceptual quantizer (SMPTE ST 2084).
    Pq,
    /// Hybrid log-gamma (ARIB STD-B67).
    Hlg,
}

/// What is said of a clip that was brought to the usual range.
pub(crate) const TONE_MAPPED: &str = "its high dynamic range (HLG or PQ) is brought to that of usual screens \
    (tone-mapped to sRGB); for another look convert it yourself";

/// An RGB picture of 16 bits a colour.
pub(crate) struct WideImage {
    pub width: usize,
    pub height: usize,
    pub rgb: Vec<u16>,
}

/// Reference white: candelas a square metre of PQ, light of the scene (75 % of the signal) of hybrid
/// log-gamma.
const PQ_WHITE: f32 = 203.0;
const HLG_WHITE: f32 = 0.264_97;
/// Rows of the matrix from the primaries of BT.2020 to those of BT.709, of linear light (ITU-R BT.2087).
const TO_BT709: [[f32; 3]; 3] =
    [[1.660_5, -0.587_6, -0.072_8], [-0.124_6, 1.132_9, -0.008_3], [-0.018_2, -0.100_6, 1.118_7]];

impl Hdr {
    /// The function of a code of ITU-T H.273.
    pub fn of_code(transfer: u16) -> Option<Self> {
        match transfer {
            16 => Some(Self::Pq),
            18 => Some(Self::Hlg),
            _ => None,
        }
    }

    /// Frames in sRGB, from frames whose R'G'B' is coded by this function in the primaries of BT.2020.
    pub fn tone_map(self, frames: Vec<WideImage>) -> Vec<Image> {
        let linear: Vec<f32> = (0..=u16::MAX).map(|code| self.linear(f32::from(code) / 65_535.0)).collect();
        let light = |pixel: &[u16]| {
            let wide = [0, 1, 2].map(|c| linear[usize::from(pixel[c])]);
            TO_BT709.map(|row| (0..3).map(|c| row[c] * wide[c]).sum::<f32>())
        };
        let curve = Curve::of(&frames, light);
        let shown = |frame: WideImage| {
            let rgb = frame.rgb.chunks_exact(3).flat_map(|pixel| curve.shown(light(pixel))).collect();
            Image { width: frame.width, height: frame.height, rgb }
        };
        frames.into_par_iter().map(shown).collect()
    }

    /// As [`Hdr::tone_map`], of frames of 8 bits.
    ///
    /// # Errors
    /// When the wider frames need too much memory.
    pub fn tone_map_narrow(self, path: &Path, frames: Vec<Image>) -> Result<Vec<Image>> {
        let (width, height) = frames.first().map_or((0, 0), |frame| (frame.width, frame.height));
        check_memory(path, 2 * frames.len() as u64, width as u64, height as u64)?;
        let wide = |frame: Image| WideImage {
            width: frame.width,
            height: frame.height,
            rgb: frame.rgb.into_iter().map(|sample| u16::from(sample) * 257).collect(),
        };
        Ok(self.tone_map(frames.into_iter().map(wide).collect()))
    }

    /// The light a sample stands for, in units of reference white (ITU-R BT.2100, tables 4 and 5): of PQ, on
    /// a screen; of hybrid log-gamma, of the scene, as that of a photograph is.
    fn linear(self, sample: f32) -> f32 {
        match self {
            Self::Pq => {
                const M1: f32 = 2610.0 / 16384.0;
                const M2: f32 = 2523.0 / 4096.0 * 128.0;
                const C: [f32; 3] = [3424.0 / 4096.0, 2413.0 / 4096.0 * 32.0, 2392.0 / 4096.0 * 32.0];
                let power = sample.powf(1.0 / M2);
                10_000.0 / PQ_WHITE * ((power - C[0]).max(0.0) / (C[1] - C[2] * power)).powf(1.0 / M1)
            }
            Self::Hlg => {
                const A: f32 = 0.178_832_77;
                const B: f32 = 1.0 - 4.0 * A;
                const C: f32 = 0.559_910_7;
                let light =
                    if sample <= 0.5 { sample * sample / 3.0 } else { (((sample - C) / A).exp() + B) / 12.0 };
                light / HLG_WHITE
            }
        }
    }
}

/// How bright light is let in, by the largest of its colours, so that hues stay.
struct Curve {
    /// The luminance that becomes white, in units of reference white; at least 1.
    peak: f32,
}

/// Luminance of the primaries of BT.709.
const LUMINANCE: [f32; 3] = [0.2126, 0.7152, 0.0722];

impl Curve {
    /// Up to here, of reference white, light is shown as it is where some is brighter than white.
    const KNEE: f32 = 0.5;

    fn of(frames: &[WideImage], light: impl Fn(&[u16]) -> [f32; 3] + Sync) -> Self {
        // Of all pixels so many may be brighter, and the others by so much: glints, noise, and the ringing of
        // edges.
        const BEYOND: f64 = 1e-3;
        const RINGING: f32 = 1.1;
        const STEPS: usize = 512;
        const TOP: f32 = 10_000.0 / PQ_WHITE;
        let step = |light: [f32; 3]| {
            let luminance: f32 = (0..3).map(|c| LUMINANCE[c] * light[c].max(0.0)).sum();
            (((luminance / TOP).sqrt() * STEPS as f32) as usize).min(STEPS - 1)
        };
        let counted = frames.par_iter().map(|frame| {
            let mut counts = vec![0u64; STEPS];
            frame.rgb.chunks_exact(3).for_each(|pixel| counts[step(light(pixel))] += 1);
            counts
        });
        let sum = |a: Vec<u64>, b: Vec<u64>| a.iter().zip(&b).map(|(a, b)| a + b).collect();
        let counts = counted.reduce(|| vec![0; STEPS], sum);
        let mut beyond = (counts.iter().sum::<u64>() as f64 * BEYOND) as u64;
        let peak = counts.iter().rposition(|count| {
            let within = *count > beyond;
            beyond = beyond.saturating_sub(*count);
            within
        });
        let peak = peak.unwrap_or_default() as f32 / STEPS as f32;
        Self { peak: (peak * peak * TOP / RINGING).max(1.0) }
    }

    /// The 8-bit sRGB of light (IEC 61966-2-1).
    fn shown(&self, light: [f32; 3]) -> [u8; 3] {
        let encoded = |light: f32| {
            if light <= 0.003_130_8 { 12.92 * light } else { 1.055 * light.powf(1.0 / 2.4) - 0.055 }
        };
        let brightest = light.into_iter().fold(0.0f32, f32::max);
        let scale = if brightest > 0.0 { self.of_brightest(brightest) / brightest } else { 0.0 };
        light.map(|light| (encoded((light * scale).clamp(0.0, 1.0)) * 255.0).round() as u8)
    }

    /// Above the knee, Reinhard's curve with a white point (2002, equation 4), which goes on from it without
    /// a bend.
    fn of_brightest(&self, light: f32) -> f32 {
        if self.peak <= 1.0 || light <= Self::KNEE {
            return light;
        }
        let [above, peak] = [light, self.peak].map(|light| (light - Self::KNEE) / (1.0 - Self::KNEE));
        Self::KNEE + (1.0 - Self::KNEE) * above * (1.0 + above / (peak * peak)) / (1.0 + above)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapped(hdr: Hdr, signals: &[[f32; 3]]) -> Vec<[u8; 3]> {
        let rgb = signals.iter().flatten().map(|signal| (signal * 65_535.0).round() as u16).collect();
        let frame = WideImage { width: signals.len(), height: 1, rgb };
        let images = hdr.tone_map(vec![frame]);
        (0..signals.len()).map(|x| images[0].pixel(x, 0)).collect()
    }

    #[test]
    fn reference_white_is_white_and_grey_stays_grey() {
        // BT.2408, table 1: white is 75 % of hybrid log-gamma and 58 % of PQ, the 18 % grey card 38 % of
        // both.
        for (hdr, white, grey) in [(Hdr::Hlg, 0.75, 0.38), (Hdr::Pq, 0.58, 0.38)] {
            let shown = mapped(hdr, &[[white; 3], [grey; 3], [0.0; 3]]);
            assert!(shown[0].iter().all(|sample| *sample >= 253), "{hdr:?} {shown:?}");
            assert!(shown[1].iter().all(|sample| (98..=120).contains(sample)), "{hdr:?} {shown:?}");
            assert_eq!(shown[2], [0; 3]);
        }
    }

    #[test]
    fn what_is_brighter_than_white_keeps_its_drawing() {
        for hdr in [Hdr::Hlg, Hdr::Pq] {
            let shown = mapped(hdr, &[0.3, 0.5, 0.6, 0.75, 0.8, 0.9].map(|signal| [signal; 3]));
            assert!(
                shown.is_sorted() && shown.windows(2).all(|pair| pair[0] != pair[1]),
                "{hdr:?} {shown:?}"
            );
        }
    }

    #[test]
    fn wide_colours_are_those_of_bt709() {
        // BT.709 red of half the light of white, in the primaries of BT.2020.
        let light = [0.6274f32, 0.0691, 0.0164].map(|part| part * 0.5);
        let pq = |light: f32| {
            let power = (light * PQ_WHITE / 10_000.0).powf(2610.0 / 16384.0);
            ((0.835_937_5 + 18.851_562 * power) / (1.0 + 18.6875 * power)).powf(78.84375)
        };
        let [r, g, b] = mapped(Hdr::Pq, &[light.map(pq)])[0];
        assert!(r.abs_diff(188) <= 2 && g <= 16 && b <= 16, "{r} {g} {b}");
    }
}
