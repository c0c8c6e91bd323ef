//! Colours of pictures as sRGB, whatever space their file says they are in: an ICC profile, or PNG's own
//! chunks.

use std::iter::zip;
use std::ops::RangeInclusive;

use ::image::RgbaImage;
use moxcms::{
    Chromaticity, CicpColorPrimaries, CicpProfile, ColorPrimaries, ColorProfile, DataColorSpace, Layout,
    MatrixCoefficients, ToneReprCurve, TransferCharacteristics, Transform8BitExecutor, TransformOptions,
};

use crate::tiff;

/// What a file says of its colours.
#[derive(Debug)]
pub(crate) enum Stated {
    /// Nothing, or sRGB.
    Srgb,
    /// An ICC profile.
    Icc(Vec<u8>),
    /// A space that PNG names by numbers.
    Known(Box<ColorProfile>),
    /// A space that is not read; its name.
    Unknown(&'static str),
}

impl Stated {
    /// Of a PNG's chunks, the one that counts most: `cICP`, `iCCP` (read by the decoder, `icc`), `sRGB`, then
    /// `gAMA` and `cHRM` (Portable Network Graphics, third edition, section 4.3).
    pub(crate) fn of_png(bytes: &[u8], icc: Option<Vec<u8>>) -> Self {
        if let Some(&[primaries, transfer, 0, 1]) = chunk(bytes, b"cICP") {
            return cicp(primaries, transfer);
        }
        match icc {
            Some(icc) => Self::Icc(icc),
            None if chunk(bytes, b"sRGB").is_some() => Self::Srgb,
            None if chunk(bytes, b"iCCP").is_some() => Self::Icc(Vec::new()),
            None => gamma(chunk(bytes, b"gAMA"), chunk(bytes, b"cHRM")),
        }
    }

    /// Of a TIFF's first directory: field 34675 is the profile.
    pub(crate) fn of_tiff(bytes: &[u8]) -> Self {
        tiff::field(bytes, 34_675).map_or(Self::Srgb, |icc| Self::Icc(icc.to_vec()))
    }

    /// Converts `picture` to sRGB; its transparency stays. What cannot be converted stays as it is, and is
    /// said.
    pub(crate) fn convert(self, picture: &mut RgbaImage) -> Option<String> {
        let kept = |what: &str| Some(format!("{what}; its colours are taken as sRGB"));
        match self {
            Self::Srgb => None,
            Self::Unknown(name) => kept(&format!("its colour space ({name}) is not read")),
            Self::Known(profile) => match apply(&profile, picture) {
                Some(()) => None,
                None => kept("its colour space cannot be converted"),
            },
            Self::Icc(icc) => match ColorProfile::new_from_slice(&icc) {
                Err(_) => kept("its colour profile is damaged"),
                Ok(profile) if profile.color_space == DataColorSpace::Cmyk => {
                    Some("its profile for printing (CMYK) is not applied; its colours are approximate".into())
                }
                Ok(profile) if !is_for(&profile, picture) => {
                    kept("its colour profile is one for other pictures")
                }
                Ok(profile) => match apply(&profile, picture) {
                    Some(()) => None,
                    None => kept("its colour profile cannot be applied"),
                },
            },
        }
    }
}

/// The data of a PNG's chunk before its pixels.
fn chunk<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    let mut at = 8;
    loop {
        let length = u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize;
        let found = bytes.get(at + 4..at + 8)?;
        let data = bytes.get(at + 8..)?.get(..length)?;
        if found == kind {
            return Some(data);
        }
        if found == b"IDAT" {
            return None;
        }
        at += 12 + length;
    }
}

/// The red, green and blue of BT.709 and sRGB: x and y of each.
const BT709: [f32; 6] = [0.64, 0.33, 0.3, 0.6, 0.15, 0.06];

/// The space of code points for primaries and transfer (ITU-T H.273).
///
/// The curve of cameras (1, 6, 14, 15) is not undone: what was drawn by it is shown by the curve of screens,
/// as browsers and players do and as clips are read here, so a frame that was saved as a picture is the
/// frame. The primaries of BT.601 (5, 6) are hardly others than those of BT.709, and clips of them are not
/// converted either.
fn cicp(primaries: u8, transfer: u8) -> Stated {
    const SRGB: u8 = 13;
    let transfer = match transfer {
        16 => return Stated::Unknown("HDR, PQ"),
        18 => return Stated::Unknown("HDR, HLG"),
        1 | 2 | 6 | 14 | 15 if matches!(primaries, 1 | 2 | 5 | 6) => return Stated::Srgb,
        SRGB if matches!(primaries, 1 | 2) => return Stated::Srgb,
        1 | 2 | 6 | 14 | 15 => SRGB,
        other => other,
    };
    let named = (CicpColorPrimaries::try_from(primaries), TransferCharacteristics::try_from(transfer));
    let (Ok(color_primaries), Ok(transfer_characteristics)) = named else {
        return Stated::Unknown("code points");
    };
    let code = CicpProfile {
        color_primaries,
        transfer_characteristics,
        matrix_coefficients: MatrixCoefficients::Identity,
        full_range: true,
    };
    let profile = ColorProfile::new_from_cicp(code);
    match profile.red_trc {
        Some(_) => Stated::Known(Box::new(profile)),
        None => Stated::Unknown("code points"),
    }
}

/// The space of a stated gamma and stated primaries; what is hardly another than sRGB is sRGB.
///
/// Programs write two gammas of what is to be seen as it is: 0.45455 of sRGB, and 0.51 to 0.53 of BT.709, by
/// which cameras draw and screens do not show. ffmpeg puts 0.50994 into every frame of a BT.709 clip that it
/// saves: undone, the frame would be paler than the clip it is of, here and in browsers. Apple's old 0.55556
/// and 1 are other curves and are converted.
fn gamma(gamma: Option<&[u8]>, primaries: Option<&[u8]>) -> Stated {
    const SHOWN_AS_IT_IS: RangeInclusive<f32> = 0.432..=0.535;
    const OF_VIDEO: RangeInclusive<f32> = 0.5..=0.535;
    let numbers = |data: Option<&[u8]>| -> Vec<f32> {
        let whole = |four: &[u8; 4]| u32::from_be_bytes(*four) as f32 / 100_000.0;
        data.map_or(Vec::new(), |data| data.as_chunks::<4>().0.iter().map(whole).collect())
    };
    let exponent = match numbers(gamma).as_slice() {
        &[exponent] if (0.1..=10.0).contains(&exponent) => exponent,
        // Primaries alone say nothing: their numbers' curve is missing.
        _ => return Stated::Srgb,
    };
    let mut profile = ColorProfile::new_srgb();
    if !SHOWN_AS_IT_IS.contains(&exponent) {
        let curve = ToneReprCurve::Parametric(vec![1.0 / exponent]);
        profile.red_trc = Some(curve.clone());
        profile.green_trc = Some(curve.clone());
        profile.blue_trc = Some(curve);
        profile.cicp = None;
    }
    if let &[wx, wy, rx, ry, gx, gy, bx, by] = numbers(primaries).as_slice() {
        let usable = [wx, wy, rx, ry, gx, gy, bx, by].iter().all(|value| (0.0..=1.0).contains(value));
        let triangle = (rx * (gy - by) + gx * (by - ry) + bx * (ry - gy)).abs();
        if !usable || wy < 0.01 || triangle < 0.01 {
            return Stated::Unknown("cHRM");
        }
        // Those of BT.601 and BT.709 are this near, and clips are read alike whichever they have.
        let is_bt709 = zip([rx, ry, gx, gy, bx, by], BT709).all(|(own, known)| (own - known).abs() < 0.02);
        if OF_VIDEO.contains(&exponent) && is_bt709 {
            return Stated::Srgb;
        }
        let [red, green, blue] = [(rx, ry), (gx, gy), (bx, by)].map(|(x, y)| Chromaticity::new(x, y));
        let white = Chromaticity::new(wx, wy).to_xyyb();
        profile.update_rgb_colorimetry(white, ColorPrimaries { red, green, blue });
    }
    Stated::Known(Box::new(profile))
}

/// Whether a profile speaks of the numbers that a picture has: one of greys says nothing of colours.
fn is_for(profile: &ColorProfile, picture: &RgbaImage) -> bool {
    match profile.color_space {
        DataColorSpace::Rgb => true,
        DataColorSpace::Gray => picture.pixels().all(|own| own[0] == own[1] && own[1] == own[2]),
        _ => false,
    }
}

/// Converts from `profile`; nothing where it does not fit.
fn apply(profile: &ColorProfile, picture: &mut RgbaImage) -> Option<()> {
    let gray = profile.color_space == DataColorSpace::Gray;
    let from = if gray { Layout::GrayAlpha } else { Layout::Rgba };
    let options = TransformOptions { prefer_fixed_point: false, ..TransformOptions::default() };
    let transform =
        profile.create_transform_8bit(from, &ColorProfile::new_srgb(), Layout::Rgba, options).ok()?;
    if !gray && is_identity(&*transform)? {
        return Some(());
    }
    let row = picture.width() as usize * 4;
    let mut converted = vec![0; row];
    for line in picture.chunks_exact_mut(row) {
        let lightness: Vec<u8>;
        let source = if gray {
            lightness = line.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[3]]).collect();
            &lightness[..]
        } else {
            &*line
        };
        transform.transform(source, &mut converted).ok()?;
        line.copy_from_slice(&converted);
    }
    Some(())
}

/// Whether a transform changes no colour by more than rounding does, as those from the many files that mean
/// sRGB.
fn is_identity(transform: &Transform8BitExecutor) -> Option<bool> {
    const STEP: usize = 17;
    let levels = || (0..=255_u8).step_by(STEP);
    let colors: Vec<u8> = levels()
        .flat_map(|r| levels().flat_map(move |g| levels().flat_map(move |b| [r, g, b, 255])))
        .collect();
    let mut converted = vec![0; colors.len()];
    transform.transform(&colors, &mut converted).ok()?;
    Some(colors.iter().zip(&converted).all(|(a, b)| a.abs_diff(*b) <= 1))
}
