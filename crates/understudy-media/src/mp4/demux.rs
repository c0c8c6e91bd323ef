//! Finding the samples of the H.264 track of an MP4. Every size and offset is checked against the file before
//! use.

use std::fs;
use std::path::Path;

use mp4_atom::{Avc1, Buf, Codec, Colr, Decode, DecodeAtom, Header, Mvhd, Stbl, StszSamples, Trak};

use super::display::Display;
use super::edits::Shown;
use super::{Mp4Info, RE_ENCODE};
use crate::color::Coding;
use crate::picture::check_dimensions;
use crate::sps::Stream;
use crate::{Error, Result};

/// Profiles of H.264 with more than 8 bits or less subsampled colours than 4:2:0 (ISO/IEC 14496-10, Annex A).
const OTHER_PROFILES: [u8; 5] = [44, 110, 118, 122, 244];
/// The type of the NAL units of a picture that needs none before it.
const KEY_PICTURE: u8 = 5;

/// Why a file is not read here.
enum Fault {
    /// It is damaged, or no video.
    Damaged(String),
    /// It is of a kind that is decoded elsewhere.
    Foreign(String),
}

impl From<String> for Fault {
    fn from(reason: String) -> Self {
        Self::Damaged(reason)
    }
}

impl From<&str> for Fault {
    fn from(reason: &str) -> Self {
        Self::Damaged(reason.to_owned())
    }
}

impl Fault {
    fn at(self, path: &Path) -> Error {
        match self {
            Self::Damaged(reason) => Error::unreadable(path, reason, RE_ENCODE),
            Self::Foreign(reason) => Error::unsupported(path, reason),
        }
    }
}

/// Larger files are refused: the file is read whole.
const MAX_FILE_BYTES: u64 = 4 << 30;

/// The H.264 track of a file, with the file.
pub(super) struct Track {
    file: Vec<u8>,
    avc1: Avc1,
    display: Display,
    coding: Coding,
    shown: Shown,
    /// Offset and length of each sample, within the file.
    samples: Vec<(usize, usize)>,
}

impl Track {
    pub fn open(path: &Path) -> Result<Self> {
        let length = fs::metadata(path).map_err(|e| Error::read(path, e))?.len();
        if length > MAX_FILE_BYTES {
            return Err(Error::unreadable(
                path,
                "larger than 4 GiB",
                "cut the clip: ffmpeg -i in.mp4 -t 5 out.mp4",
            ));
        }
        let file = fs::read(path).map_err(|e| Error::read(path, e))?;
        Self::parse(path, file)
    }

    fn parse(path: &Path, file: Vec<u8>) -> Result<Self> {
        let damaged = |reason: String| Error::unreadable(path, reason, RE_ENCODE);
        let movie = movie_body(&file).map_err(|fault| fault.at(path))?;
        let (trak, avc1) = video_track(movie).map_err(|fault| fault.at(path))?;
        check_dimensions(path, (avc1.visual.width.into(), avc1.visual.height.into()))?;
        let samples = locate_samples(&trak.mdia.minf.stbl, file.len()).map_err(|fault| fault.at(path))?;
        let stream = avc1.avcc.sequence_parameter_sets.first().and_then(|unit| Stream::read(unit));
        if let Some(reason) = stream.as_ref().and_then(Stream::foreign) {
            return Err(Error::unsupported(path, reason));
        }
        let header = movie_header(movie).map_err(damaged)?;
        let shown = Shown::of(&trak, header.timescale, samples.len()).map_err(damaged)?;
        let pasp = avc1.pasp.as_ref().map(|pasp| [pasp.h_spacing, pasp.v_spacing]);
        let aspect = stream.as_ref().and_then(Stream::aspect);
        let coded = [avc1.visual.height.into(), avc1.visual.width.into()];
        let display = Display::of(&trak, &header.matrix, pasp, aspect, coded)
            .map_err(|reason| Error::unsupported(path, reason))?;
        let file_coding = coding(avc1.colr.as_ref());
        let coding = stream.map_or(file_coding, |stream| stream.coding(file_coding));
        let track = Self { file, avc1, display, coding, shown, samples };
        track.check_beginning(path)?;
        let [height, width] = track.display.size(coded);
        let side = |side: usize| u32::try_from(side).unwrap_or(u32::MAX);
        check_dimensions(path, (side(width), side(height)))?;
        Ok(track)
    }

    pub fn info(&self) -> Mp4Info {
        let [height, width] = self.display.size(self.coded_size());
        Mp4Info { width, height, frames: self.shown.frames.len(), fps: self.shown.timing.mean_rate() }
    }

    /// Height and width as decoded.
    pub fn coded_size(&self) -> [usize; 2] {
        [self.avc1.visual.height.into(), self.avc1.visual.width.into()]
    }

    pub fn display(&self) -> Display {
        self.display
    }

    pub fn coding(&self) -> Coding {
        self.coding
    }

    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// How many frames are decoded, shown or not.
    pub fn sample_count(&self) -> usize {
        self.samples.len()
    }

    pub fn parameter_sets(&self) -> impl Iterator<Item = &[u8]> {
        let avcc = &self.avc1.avcc;
        avcc.sequence_parameter_sets.iter().chain(&avcc.picture_parameter_sets).map(Vec::as_slice)
    }

    /// That the first picture needs none before it.
    fn check_beginning(&self, path: &Path) -> Result<()> {
        let mut first = &self.access_unit(path, 0)?[..];
        while let Some(at) = first.windows(4).position(|window| window == [0, 0, 0, 1]) {
            first = &first[at + 4..];
            match first.first().map_or(0, |header| header & 0x1f) {
                KEY_PICTURE => return Ok(()),
                1..KEY_PICTURE => break,
                _ => {}
            }
        }
        let reason =
            "its H.264 begins in the middle of a group of pictures: it was cut without encoding it anew";
        Err(Error::unsupported(path, reason))
    }

    /// Sample `index` with start codes in place of lengths.
    pub fn access_unit(&self, path: &Path, index: usize) -> Result<Vec<u8>> {
        let (offset, length) = self.samples[index];
        let mut rest = &self.file[offset..offset + length];
        let prefix = usize::from(self.avc1.avcc.length_size);
        let mut annex_b = Vec::with_capacity(length + 16);
        while !rest.is_empty() {
            let unit = rest.get(..prefix).and_then(|bytes| {
                let size = bytes.iter().fold(0usize, |n, byte| n << 8 | usize::from(*byte));
                rest.get(prefix..prefix.checked_add(size)?)
            });
            let Some(unit) = unit else {
                let reason = format!("frame {index}: a NAL unit is longer than its sample");
                return Err(Error::unreadable(path, reason, RE_ENCODE));
            };
            annex_b.extend([0, 0, 0, 1]);
            annex_b.extend_from_slice(unit);
            rest = &rest[prefix + unit.len()..];
        }
        Ok(annex_b)
    }
}

/// The body of the top-level `moov` box.
fn movie_body(file: &[u8]) -> Result<&[u8], Fault> {
    let mut rest = file;
    while rest.len() >= 8 {
        let header = Header::decode(&mut rest).map_err(|e| format!("damaged box header: {e}"))?;
        let size = header.size.unwrap_or(rest.len());
        let body = rest.get(..size).ok_or_else(|| {
            let missing = size.saturating_sub(rest.len());
            format!("truncated: box `{}` lacks {missing} bytes", header.kind)
        })?;
        match header.kind.as_ref() {
            b"moov" if rest[size..].get(4..8) != Some(b"moof") => return Ok(body),
            b"moov" | b"moof" => return Err(Fault::Foreign("a fragmented MP4".into())),
            _ => rest = &rest[size..],
        }
    }
    Err("not an MP4, or truncated: it has no `moov` box".into())
}

/// The first H.264 track. Tracks that do not parse, such as exotic metadata, do not matter unless none is
/// left.
fn video_track(movie: &[u8]) -> Result<(Trak, Avc1), Fault> {
    let (mut rest, mut problem) = (movie, None);
    while rest.len() >= 8 {
        let header = Header::decode(&mut rest).map_err(|e| format!("damaged `moov` box: {e}"))?;
        let size = header.size.unwrap_or(rest.len());
        let mut body = rest.get(..size).ok_or("truncated inside the `moov` box")?;
        rest.advance(size);
        if header.kind.as_ref() != b"trak" {
            continue;
        }
        match Trak::decode_atom(&header, &mut body) {
            Err(error) => {
                problem =
                    Some(Fault::Foreign(format!("a `trak` box is damaged or of an unknown form ({error})")));
            }
            Ok(trak) => match trak.mdia.minf.stbl.stsd.codecs.first() {
                Some(Codec::Avc1(_)) if trak.mdia.minf.stbl.stsd.codecs.len() > 1 => {
                    problem = Some(Fault::Foreign("its video changes its form midway".into()));
                }
                Some(Codec::Avc1(avc1)) if OTHER_PROFILES.contains(&avc1.avcc.avc_profile_indication) => {
                    problem = Some(Fault::Foreign("its H.264 is not of 8 bits and 4:2:0".into()));
                }
                Some(Codec::Avc1(avc1)) => {
                    let avc1 = avc1.clone();
                    return Ok((trak, avc1));
                }
                Some(other) if matches!(trak.mdia.hdlr.handler.as_ref(), b"vide" | b"pict") => {
                    problem = Some(Fault::Foreign(format!("its video is {}, not H.264", codec_name(other))));
                }
                _ => {}
            },
        }
    }
    Err(problem.unwrap_or_else(|| "it has no video track".into()))
}

fn codec_name(codec: &Codec) -> String {
    match codec {
        Codec::Hev1(_) | Codec::Hvc1(_) => "H.265".into(),
        Codec::Vp08(_) | Codec::Vp09(_) => "VP8 or VP9".into(),
        Codec::Av01(_) => "AV1".into(),
        Codec::Unknown(kind, _) => format!("`{kind}`"),
        _ => "another codec".into(),
    }
}

/// The movie's own header.
fn movie_header(movie: &[u8]) -> Result<Mvhd, String> {
    let mut rest = movie;
    while rest.len() >= 8 {
        let header = Header::decode(&mut rest).map_err(|e| format!("damaged `moov` box: {e}"))?;
        let size = header.size.unwrap_or(rest.len());
        let mut body = rest.get(..size).ok_or("truncated inside the `moov` box")?;
        rest.advance(size);
        if header.kind.as_ref() == b"mvhd" {
            return Mvhd::decode_atom(&header, &mut body).map_err(|e| format!("damaged `mvhd` box: {e}"));
        }
    }
    Err("its `moov` box has no `mvhd`".into())
}

/// Offset and length of every sample (ISO/IEC 14496-12, 8.7), all inside a file of `file_length` bytes.
fn locate_samples(table: &Stbl, file_length: usize) -> Result<Vec<(usize, usize)>, Fault> {
    let chunks: Vec<u64> = match (&table.stco, &table.co64) {
        (Some(stco), _) => stco.entries.iter().map(|offset| u64::from(*offset)).collect(),
        (None, Some(co64)) => co64.entries.clone(),
        (None, None) => return Err("it has no chunk offsets (`stco`, `co64`)".into()),
    };
    let (count, identical) = match &table.stsz.samples {
        StszSamples::Identical { count, size } => (*count as usize, Some(*size)),
        StszSamples::Different { sizes } => (sizes.len(), None),
    };
    let size_of = |index: usize| match (&table.stsz.samples, identical) {
        (_, Some(size)) => size as usize,
        (StszSamples::Different { sizes }, _) => sizes[index] as usize,
        _ => 0,
    };
    let mut samples = Vec::new();
    for (chunk, offset) in chunks.iter().enumerate() {
        let mut at = usize::try_from(*offset).map_err(|_| "a chunk offset is beyond the file")?;
        for _ in 0..samples_in_chunk(table, chunk) {
            if samples.len() == count {
                break;
            }
            let size = size_of(samples.len());
            if size == 0 {
                return Err(Fault::Foreign(format!("frame {} is empty", samples.len())));
            }
            let Some(end) = at.checked_add(size).filter(|end| *end <= file_length) else {
                let reason = format!("truncated or damaged: frame {} is not inside the file", samples.len());
                return Err(reason.into());
            };
            samples.push((at, size));
            at = end;
        }
    }
    match samples.len() {
        0 => Err("it has no frames".into()),
        n if n < count => Err(format!("damaged: only {n} of {count} frames have a place in the file").into()),
        _ => Ok(samples),
    }
}

/// How many samples chunk `chunk` (from 0) holds: the last `stsc` run that begins at or before it says.
fn samples_in_chunk(table: &Stbl, chunk: usize) -> u32 {
    let runs = &table.stsc.entries;
    let after = runs.partition_point(|run| run.first_chunk as usize <= chunk + 1);
    after.checked_sub(1).map_or(0, |run| runs[run].samples_per_chunk)
}

/// What the file says of its colours.
fn coding(colr: Option<&Colr>) -> Coding {
    match colr {
        Some(Colr::Nclx { transfer_characteristics, matrix_coefficients, full_range_flag, .. }) => Coding {
            transfer: *transfer_characteristics,
            matrix: *matrix_coefficients,
            full_range: *full_range_flag,
        },
        Some(Colr::Nclc { transfer_characteristics, matrix_coefficients, .. }) => {
            Coding { transfer: *transfer_characteristics, matrix: *matrix_coefficients, full_range: false }
        }
        _ => Coding::UNKNOWN,
    }
}
