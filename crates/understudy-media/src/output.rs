//! Writing clips: the format by extension, checked beforehand, replaced atomically.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use ::image::codecs::png::{CompressionType, FilterType, PngEncoder};
use ::image::{ExtendedColorType, ImageEncoder};
use safetensors::tensor::{Dtype, TensorView};

use crate::atomic::{parent, write_directory, write_file};
use crate::comment::{COMMENT, png_with_comment, webp_with_comment};
use crate::{Error, Image, Range, Result, Video, gif, h264, mp4, webp};

/// What a path asks to be written, by its extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputFormat {
    /// `.mp4`: H.264, plays everywhere.
    Mp4,
    /// `.gif`: endless, one palette of 256 colours.
    Gif,
    /// `.webp`: endless animation.
    WebP,
    /// `.png`: one frame as it is, several as a strip of at most 8 a row.
    Png,
    /// `.safetensors`: tensor `frames`, `f32` in `[0, 1]`, shape `(3, frames, height, width)`.
    Safetensors,
    /// A folder of `00000.png`, `00001.png`, ...: no extension, a trailing slash, or a folder that exists.
    Directory,
}

impl OutputFormat {
    /// The format a path asks for.
    ///
    /// # Errors
    /// [`Error::Output`] naming the known extensions.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.as_os_str() == "-" {
            return Err(Error::output(path, "nothing is written to stdout; name a file such as out.mp4"));
        }
        let trailing_slash = path.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
        let Some(extension) = path.extension().filter(|_| !trailing_slash && !path.is_dir()) else {
            return Ok(Self::Directory);
        };
        match extension.to_string_lossy().to_ascii_lowercase().as_str() {
            "mp4" => Ok(Self::Mp4),
            "gif" => Ok(Self::Gif),
            "webp" => Ok(Self::WebP),
            "png" => Ok(Self::Png),
            "safetensors" => Ok(Self::Safetensors),
            other => Err(Error::output(
                path,
                format!("unknown extension .{other}; use .mp4, .gif, .webp, .png, .safetensors, or a folder"),
            )),
        }
    }
}

impl OutputFormat {
    /// Says before any long work whether a file of this format holds frames of `width` x `height` pixels, as
    /// they are to be written to `path`.
    ///
    /// # Errors
    /// [`Error::Output`] with the format's limits.
    pub fn check_size(self, path: impl AsRef<Path>, width: usize, height: usize) -> Result<()> {
        let checked = match self {
            Self::Mp4 => h264::check_size(width.next_multiple_of(2), height.next_multiple_of(2)),
            Self::Gif => gif::check_size(width, height),
            Self::WebP => webp::check_size(width, height),
            Self::Png | Self::Safetensors | Self::Directory => Ok(()),
        };
        checked.map_err(|reason| Error::output(path.as_ref(), reason))
    }
}

/// How a clip is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WriteOptions {
    /// Every pixel is repeated this many times in both directions (not in `.safetensors`). 64x64 clips are
    /// tiny on a screen; from 2 on, 4:2:0 video also keeps their colour edges.
    pub upscale: usize,
    /// The constant H.264 quantization parameter, 12 (nearly lossless) to 51 (worst).
    pub h264_qp: u8,
    /// WebP quality, 0 (worst) to 100.
    pub webp_quality: f32,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { upscale: 1, h264_qp: 18, webp_quality: 90.0 }
    }
}

/// Says before any long work whether a path can be written: its extension is known, its folder exists, a file
/// can be created there. Tries it with a temporary file, which is removed.
///
/// # Errors
/// [`Error::Output`] or [`Error::Io`] naming the path and what to change.
pub fn check_writable(path: impl AsRef<Path>) -> Result<OutputFormat> {
    let path = path.as_ref();
    let format = OutputFormat::from_path(path)?;
    if path.file_name().is_none() {
        return Err(Error::output(path, "it names no file; give one such as out.mp4"));
    }
    let folder = parent(path);
    if !folder.is_dir() {
        let reason = format!("the folder {} does not exist; create it first", folder.display());
        return Err(Error::output(path, reason));
    }
    if path.exists() && !path.is_file() && !path.is_dir() {
        return Err(Error::output(path, "it is a device or a pipe; name a file"));
    }
    if format == OutputFormat::Directory {
        if path.is_file() {
            return Err(Error::output(
                path,
                "a file of that name exists; choose another name or add an extension",
            ));
        }
        let occupied =
            path.is_dir() && fs::read_dir(path).map_err(|e| Error::read(path, e))?.next().is_some();
        if occupied {
            return Err(Error::output(path, "the folder exists and is not empty; choose another name"));
        }
    }
    understudy_files::check_creatable(path).map_err(|source| match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Error::write(path, source),
        _ => Error::Io {
            action: "write",
            path: path.into(),
            source,
            advice: "choose a folder you may write to",
        },
    })?;
    Ok(format)
}

impl Video {
    /// Writes the clip in the format its extension asks for ([`OutputFormat`]). The file appears whole or not
    /// at all.
    ///
    /// Odd sides are padded to even ones in `.mp4`, by repeating the last column or row.
    ///
    /// # Errors
    /// As [`check_writable`]; [`Error::Invalid`] for an inconsistent clip or option; [`Error::Output`] when
    /// the format cannot hold the clip; [`Error::Io`] when the disk is full or refuses.
    pub fn write(&self, path: impl AsRef<Path>, options: &WriteOptions) -> Result<()> {
        self.write_with(path, options, None)
    }

    /// The same with a `comment` beside the pixels: ASCII, as
    /// [`Provenance::to_text`](crate::Provenance::to_text) gives it. [`read_comment`](crate::read_comment)
    /// reads it, and so do other programs.
    ///
    /// # Errors
    /// As [`Video::write`].
    pub fn write_with(
        &self,
        path: impl AsRef<Path>,
        options: &WriteOptions,
        comment: Option<&str>,
    ) -> Result<()> {
        let path = path.as_ref();
        self.check()?;
        options.check()?;
        let format = check_writable(path)?;
        if format == OutputFormat::Safetensors {
            let shape = [self.frames.len(), self.height(), self.width()];
            return write_frames_safetensors(path, &self.to_planar(Range::Unit), shape, comment);
        }
        let enlarged = (options.upscale > 1).then(|| self.upscale_nearest(options.upscale));
        let video = enlarged.as_ref().unwrap_or(self);
        let bytes = match format {
            OutputFormat::Mp4 => mp4::encode(video, options.h264_qp, comment),
            OutputFormat::Gif => gif::encode(video, comment),
            OutputFormat::WebP => {
                let size = (video.width(), video.height());
                let plain = webp::encode(video, options.webp_quality);
                plain.map(|plain| match comment {
                    Some(text) => webp_with_comment(plain, size, text),
                    None => plain,
                })
            }
            OutputFormat::Png => commented_png(&strip(video), comment),
            OutputFormat::Directory | OutputFormat::Safetensors => return video.write_frames(path, comment),
        };
        let bytes = bytes.map_err(|reason| Error::output(path, reason))?;
        write_file(path, |writer| writer.write_all(&bytes))
    }

    fn write_frames(&self, path: &Path, comment: Option<&str>) -> Result<()> {
        write_directory(path, |folder| {
            for (index, frame) in self.frames.iter().enumerate() {
                let file = folder.join(format!("{index:05}.png"));
                let bytes = commented_png(frame, comment).map_err(|reason| Error::output(path, reason))?;
                fs::write(file, bytes).map_err(|e| Error::write(path, e))?;
            }
            Ok(())
        })
    }
}

impl Image {
    /// Writes the picture as PNG. The file appears whole or not at all.
    ///
    /// # Errors
    /// As [`Video::write`].
    pub fn write_png(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        self.check()?;
        let bytes = encode_png(self).map_err(|reason| Error::output(path, reason))?;
        write_file(path, |writer| writer.write_all(&bytes))
    }
}

impl WriteOptions {
    fn check(&self) -> Result<()> {
        if !(1..=64).contains(&self.upscale) {
            return Err(Error::invalid("upscale", format!("{} is not within 1 and 64", self.upscale)));
        }
        if !(12..=51).contains(&self.h264_qp) {
            return Err(Error::invalid("h264_qp", format!("{} is not within 12 and 51", self.h264_qp)));
        }
        if !(0.0..=100.0).contains(&self.webp_quality) {
            return Err(Error::invalid(
                "webp_quality",
                format!("{} is not within 0 and 100", self.webp_quality),
            ));
        }
        Ok(())
    }
}

/// Writes unquantized frames: tensor `frames`, `f32` in `[0, 1]`, shape `(3, frames, height, width)`;
/// `shape` is `[frames, height, width]`. A `comment` is the entry of that name in its header.
///
/// # Errors
/// [`Error::Invalid`] when the length does not match the shape or a value is not finite; [`Error::Io`] on
/// writing.
pub fn write_frames_safetensors(
    path: impl AsRef<Path>,
    planar: &[f32],
    shape: [usize; 3],
    comment: Option<&str>,
) -> Result<()> {
    let path = path.as_ref();
    crate::image::check_planar(planar, shape)?;
    let data: Vec<u8> = planar.iter().flat_map(|value| value.to_le_bytes()).collect();
    let [frames, height, width] = shape;
    let bytes = TensorView::new(Dtype::F32, vec![3, frames, height, width], &data)
        .and_then(|view| {
            let header = comment.map(|text| [(COMMENT.to_owned(), text.to_owned())].into());
            safetensors::serialize([("frames", view)], header)
        })
        .map_err(|e| Error::output(path, e.to_string()))?;
    write_file(path, |writer| writer.write_all(&bytes))
}

/// PNG bytes of a picture with a comment.
fn commented_png(image: &Image, comment: Option<&str>) -> Result<Vec<u8>, String> {
    let plain = encode_png(image)?;
    Ok(match comment {
        Some(text) => png_with_comment(plain, text),
        None => plain,
    })
}

/// PNG bytes of a picture.
pub(crate) fn encode_png(image: &Image) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    PngEncoder::new_with_quality(&mut bytes, CompressionType::Default, FilterType::Adaptive)
        .write_image(&image.rgb, image.width as u32, image.height as u32, ExtendedColorType::Rgb8)
        .map_err(|e| e.to_string())?;
    Ok(bytes)
}

/// The frames side by side, 8 a row, two white pixels between them; a single frame as it is.
fn strip(video: &Video) -> Image {
    const COLUMNS: usize = 8;
    const GAP: usize = 2;
    let count = video.frames.len();
    let (columns, rows) = (count.min(COLUMNS), count.div_ceil(COLUMNS));
    let (width, height) = (video.width() + GAP, video.height() + GAP);
    let mut sheet = Image::filled(columns * width - GAP, rows * height - GAP, [255; 3]);
    for (index, frame) in video.frames.iter().enumerate() {
        sheet.paste(frame, index % COLUMNS * width, index / COLUMNS * height);
    }
    sheet
}
