//! Reading one picture: by content, within limits, upright, with its mask.

use std::fs;
use std::io::{BufReader, Cursor};
use std::path::Path;

use ::image::error::ImageFormatHint;
use ::image::metadata::Orientation;
use ::image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, RgbaImage};

use crate::format::{foreign, no_picture};
use crate::profile::Stated;
use crate::video::read_head;
use crate::{Error, Image, Mask, Result, complete, tiff};

pub(crate) use crate::format::sniff;

/// The smallest side of a usable picture, pixels.
pub const MIN_SIDE: u64 = 16;
/// The largest side of a usable picture, pixels.
pub const MAX_SIDE: u64 = 16_384;
/// The largest area of a usable picture, pixels.
pub const MAX_PIXELS: u64 = 100_000_000;

/// The level from which on a mask shows the subject rather than not.
const HALF: u8 = 128;
const EXPORT: &str = "export it again as PNG, JPEG or WebP";
const TO_RGB: &str =
    "convert it to RGB of 8 bits: magick in.ext -colorspace sRGB -type TrueColor -depth 8 out.png";

/// A picture and, where the file has transparency or a mask lies beside it, its mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The picture, composited over the background where it was transparent.
    pub image: Image,
    /// The alpha channel, or the mask file. `None` when nothing is transparent.
    pub mask: Option<Mask>,
}

/// What a picture's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureInfo {
    /// Pixels a row, after EXIF orientation.
    pub width: u64,
    /// Rows, after EXIF orientation.
    pub height: u64,
    /// `"PNG"`, `"JPEG"`, `"WebP"`, `"BMP"` or `"TIFF"`, by content.
    pub format: &'static str,
}

impl Picture {
    /// Reads a PNG, JPEG, WebP, BMP or TIFF picture, told apart by content. EXIF orientation is applied,
    /// colours are converted to sRGB where the file says that they are others, transparency is laid over
    /// white and returned as the mask, 16-bit samples become 8-bit. Of an animated picture the first frame is
    /// taken.
    ///
    /// # Errors
    /// When the file cannot be read, is none of these formats, is truncated or damaged, or its header exceeds
    /// [`MIN_SIDE`], [`MAX_SIDE`] or [`MAX_PIXELS`]; the limits are checked before any pixel is decoded.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_over(path, [255; 3])
    }

    /// As [`Picture::open`], with another background colour than white.
    ///
    /// # Errors
    /// As [`Picture::open`].
    pub fn open_over(path: impl AsRef<Path>, background: [u8; 3]) -> Result<Self> {
        Ok(read(path.as_ref(), background)?.0)
    }

    /// Reads only the header: format and size, with the limits checked. Cheap even for a huge file.
    ///
    /// # Errors
    /// As [`Picture::open`], except that damage behind the header goes unseen.
    pub fn probe(path: impl AsRef<Path>) -> Result<PictureInfo> {
        let path = path.as_ref();
        probe(path, supported_format(path, &read_head(path)?)?)
    }
}

impl Mask {
    /// Reads a mask file: grey level is membership (white is subject). Where the file is transparent, it is
    /// not subject; of one that is transparent and in colours, or all black, as a picture is that was cut
    /// out, only the transparency counts.
    ///
    /// # Errors
    /// As [`Picture::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(read_mask(path.as_ref())?.0)
    }

    /// A picture as a mask: grey level is membership.
    pub fn of(image: &Image) -> Self {
        let alpha = image.rgb.chunks_exact(3).map(luma).collect();
        Self { width: image.width, height: image.height, alpha }
    }
}

/// A mask, and what is to be said of it where it does not look like one.
pub(crate) fn read_mask(path: &Path) -> Result<(Mask, Option<&'static str>)> {
    // Its levels are numbers, whatever colours a profile would make of them.
    let pixels = decode(path)?.0;
    let in_colors = pixels.pixels().any(|own| own[3] > 0 && (own[0] != own[1] || own[1] != own[2]));
    let black = pixels.pixels().all(|own| own[3] == 0 || own.0[..3] == [0; 3]);
    let over_black = flatten(pixels, [0; 3]);
    Ok(match over_black.mask {
        Some(alpha) if in_colors || black => (alpha, None),
        _ => {
            let mask = Mask::of(&over_black.image);
            let dark = mask.alpha.iter().all(|level| *level < HALF);
            let note = match (in_colors, dark) {
                (true, _) => Some("this mask is in colours: its lightness counts, and white is the subject"),
                (_, true) => {
                    Some("this mask is dark all over, as if there were no subject: white is the subject")
                }
                _ => None,
            };
            (mask, note)
        }
    })
}

/// A picture laid over `background`, and what is to be said of its colours.
pub(crate) fn read(path: &Path, background: [u8; 3]) -> Result<(Picture, Option<String>)> {
    let (mut decoded, stated) = decode(path)?;
    let note = stated.convert(&mut decoded);
    Ok((flatten(decoded, background), note))
}

/// The pixels, upright, and the colour space that the file says they are in.
fn decode(path: &Path) -> Result<(RgbaImage, Stated)> {
    let head = read_head(path)?;
    let format = supported_format(path, &head)?;
    probe(path, format)?;
    let bytes = fs::read(path).map_err(|e| Error::read(path, e))?;
    complete::check(path, format, &bytes)?;
    let mut decoder = decoder(Cursor::new(&bytes), format).map_err(|e| undecoded(path, e))?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let icc = decoder.icc_profile().ok().flatten();
    let stated = match format {
        ImageFormat::Png => Stated::of_png(&bytes, icc),
        ImageFormat::Tiff => Stated::of_tiff(&bytes),
        _ => icc.map_or(Stated::Srgb, Stated::Icc),
    };
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(|e| undecoded(path, e))?;
    decoded.apply_orientation(orientation);
    Ok((decoded.into_rgba8(), stated))
}

/// Rec. 601 luma of one pixel.
fn luma(pixel: &[u8]) -> u8 {
    let weighted = 299 * u32::from(pixel[0]) + 587 * u32::from(pixel[1]) + 114 * u32::from(pixel[2]);
    ((weighted + 500) / 1000) as u8
}

/// Alpha composited over `background` and split off. A fully opaque picture has no mask.
pub(crate) fn flatten(rgba: RgbaImage, background: [u8; 3]) -> Picture {
    let (width, height) = (rgba.width() as usize, rgba.height() as usize);
    let over = |sample: u8, alpha: u8, below: u8| {
        let mixed = u32::from(sample) * u32::from(alpha) + u32::from(below) * (255 - u32::from(alpha));
        ((mixed + 127) / 255) as u8
    };
    let rgb = rgba.pixels().flat_map(|p| [0, 1, 2].map(|c| over(p[c], p[3], background[c]))).collect();
    let transparent = rgba.pixels().any(|p| p[3] != 255);
    let mask = transparent.then(|| Mask { width, height, alpha: rgba.pixels().map(|p| p[3]).collect() });
    Picture { image: Image { width, height, rgb }, mask }
}

/// That a picture of this size may be decoded.
pub(crate) fn check_dimensions(path: &Path, (width, height): (u32, u32)) -> Result<()> {
    let (width, height) = (u64::from(width), u64::from(height));
    let broken = if width.min(height) < MIN_SIDE {
        Some((format!("at least {MIN_SIDE} pixels a side"), "use a larger picture"))
    } else if width.max(height) > MAX_SIDE {
        Some((format!("at most {MAX_SIDE} pixels a side"), "scale it down first"))
    } else if width * height > MAX_PIXELS {
        Some((format!("at most {} megapixels", MAX_PIXELS / 1_000_000), "scale it down first"))
    } else {
        None
    };
    match broken {
        None => Ok(()),
        Some((limit, advice)) => Err(Error::Dimensions { path: path.into(), width, height, limit, advice }),
    }
}

fn supported_format(path: &Path, head: &[u8]) -> Result<ImageFormat> {
    if let Some(found) = foreign(path, head) {
        return Err(Error::unreadable(path, found.name, found.advice));
    }
    sniff(head).ok_or_else(|| no_picture(path, head))
}

fn probe(path: &Path, format: ImageFormat) -> Result<PictureInfo> {
    let file = fs::File::open(path).map_err(|e| Error::read(path, e))?;
    let mut decoder = decoder(BufReader::new(file), format).map_err(|e| undecoded(path, e))?;
    let (width, height) = decoder.dimensions();
    check_dimensions(path, (width, height))?;
    let turned = matches!(
        decoder.orientation().unwrap_or(Orientation::NoTransforms),
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    let (width, height) = if turned { (height, width) } else { (width, height) };
    Ok(PictureInfo { width: width.into(), height: height.into(), format: name_of(format) })
}

/// A decoder that has read the header only.
fn decoder<'a>(
    source: impl std::io::BufRead + std::io::Seek + 'a,
    format: ImageFormat,
) -> ::image::ImageResult<impl ImageDecoder + 'a> {
    let mut reader = ImageReader::with_format(source, format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(2 << 30); // 100 Mpx of 16-bit RGBA and the decoder's own needs
    reader.limits(limits);
    reader.into_decoder()
}

/// The error of a picture that its decoder refuses: because of what it is, or because it is broken.
fn undecoded(path: &Path, error: ImageError) -> Error {
    let ImageError::Unsupported(error) = error else {
        return Error::unreadable(path, format!("damaged or truncated: {error}"), EXPORT);
    };
    let format = match error.format_hint() {
        ImageFormatHint::Exact(format) => name_of(format),
        _ => "picture",
    };
    let kind = fs::read(path).ok().filter(|_| format == "TIFF").and_then(|bytes| tiff::unread(&bytes));
    let reason = match kind {
        Some(kind) => format!("a {format} {kind}, which is not read here"),
        None => format!("a {format} of a kind that is not read here: {error}"),
    };
    Error::unreadable(path, reason, TO_RGB)
}

fn name_of(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        ImageFormat::Bmp => "BMP",
        ImageFormat::Tiff => "TIFF",
        _ => "WebP",
    }
}
