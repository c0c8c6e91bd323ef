//! Images and video in and out, and dataset folders.
//!
//! Pixels are plain vectors: [`Image`] and [`Video`] hold 8-bit RGB, and convert to and from the
//! planar `f32` layout `(3, frames, height, width)` the networks read ([`Video::to_planar`]). This crate
//! knows no tensor library, prints nothing, and changes no file it was not asked to write.
//!
//! - **In.** [`Picture::open`] reads PNG, JPEG, WebP, BMP and TIFF by content, in sRGB; [`Video::read`] reads
//!   MP4 (H.264), GIF, animated WebP and PNG, and others by `ffmpeg`, at an even rate, and [`Footage::read`]
//!   with the times of their frames; [`SubjectFolder::open`] lists what a folder offers and what it leaves
//!   out, with the reason; [`Dataset::open`] reads TOML and JSONL dataset descriptions.
//! - **Out.** [`Video::write`] picks the format by extension and replaces the file atomically;
//!   [`check_writable`] says beforehand whether that will work. [`ContactSheet`] lays frames out for the eye.
//!
//! ```
//! use understudy_media::{Image, Range, Video, WriteOptions};
//!
//! # fn main() -> Result<(), understudy_media::Error> {
//! let frames = (0..4).map(|i| Image::filled(64, 64, [i * 60, 40, 90])).collect();
//! let video = Video::new(frames, 8.0)?;
//! let planar = video.to_planar(Range::Signed); // (3, 4, 64, 64) in [-1, 1]
//! assert_eq!(planar.len(), 3 * 4 * 64 * 64);
//!
//! let directory = tempfile::tempdir().expect("a temporary directory");
//! let path = directory.path().join("clip.mp4");
//! video.write(&path, &WriteOptions { upscale: 4, ..WriteOptions::default() })?;
//! assert_eq!(Video::read(&path)?.frames.len(), 4);
//! # Ok(())
//! # }
//! ```

mod animation;
mod atomic;
mod beside;
mod color;
mod comment;
mod complete;
mod dataset;
mod error;
mod ffmpeg;
mod font;
mod footage;
mod format;
mod gif;
mod h264;
mod image;
mod kind;
mod masks;
mod mp4;
mod output;
mod picture;
mod profile;
mod provenance;
pub mod resample;
mod resize;
mod sheet;
mod sps;
mod subject;
mod text;
mod tiff;
mod timing;
mod video;
mod webp;
mod yuv;

pub use atomic::{write_directory, write_file};
pub use beside::{Caption, Captions, Note, clip_masks};
pub use comment::{COMMENT, read_comment};
pub use dataset::{DEFAULT_RESOLUTION, Dataset, DatasetItem, Ignored, MediaKind};
pub use error::{Error, Result, shown};
pub use footage::Footage;
pub use format::FileKind;
pub use image::{Image, Mask, Range};
pub use kind::{is_animation, is_video};
pub use mp4::Mp4Info;
pub use output::{OutputFormat, WriteOptions, check_writable, write_frames_safetensors};
pub use picture::{MAX_PIXELS, MAX_SIDE, MIN_SIDE, Picture, PictureInfo};
pub use provenance::Provenance;
pub use sheet::{ContactSheet, SheetCell, SheetRow};
pub use subject::{FolderOptions, LeftOut, SubjectFolder, SubjectItem};
pub use text::{Encoding, Text};
pub use timing::{Even, Timing};
pub use video::{MAX_VIDEO_BYTES, Video};
