//! Writing an MP4: `ftyp`, `moov`, `mdat`, in that order, so that playing can begin before the file is whole.

use mp4_atom::{
    Avc1, Avcc, Codec, Colr, Dinf, Dref, DrefEntry, Encode, FixedPoint, FourCC, Ftyp, Hdlr, Header, Matrix,
    Mdhd, Mdia, Minf, Moov, Mvhd, Stbl, Stco, Stsc, StscEntry, Stsd, Stss, Stsz, StszSamples, Stts,
    SttsEntry, Tkhd, Trak, Url, Visual, Vmhd,
};

use crate::Video;
use crate::comment::user_data;
use crate::h264::{self, Encoded};

const IDENTITY: Matrix =
    Matrix { a: 0x10000, b: 0, u: 0, c: 0, d: 0x10000, v: 0, x: 0, y: 0, w: 0x4000_0000 };

/// Encodes a clip as MP4. Odd sides are padded to even ones by repeating the last column or row: 4:2:0 video
/// cannot say an odd size.
pub(crate) fn encode(video: &Video, qp: u8, comment: Option<&str>) -> Result<Vec<u8>, String> {
    let odd = video.width() % 2 == 1 || video.height() % 2 == 1;
    let padded = odd.then(|| Video {
        frames: video.frames.iter().map(|frame| frame.padded_to_even()).collect(),
        fps: video.fps,
    });
    let video = padded.as_ref().unwrap_or(video);
    let (width, height) = (video.width(), video.height());
    h264::check_size(width, height)?;
    let encoded = h264::encode(video, qp)?;
    let said = comment.map(user_data).unwrap_or_default();
    mux(&encoded, width as u16, height as u16, Timing::of(video.fps), &said).map_err(|e| e.to_string())
}

/// A frame lasts `delta / timescale` seconds.
#[derive(Clone, Copy)]
struct Timing {
    timescale: u32,
    delta: u32,
}

impl Timing {
    /// Exact for whole rates, for the NTSC rates `n * 1000 / 1001`, and for thousandths; nearest thousandth
    /// otherwise.
    fn of(fps: f64) -> Self {
        let whole = fps.round();
        let ntsc = (fps * 1.001).round();
        if (fps - whole).abs() < 1e-9 {
            Self { timescale: whole as u32 * 1000, delta: 1000 }
        } else if (fps - ntsc / 1.001).abs() < 5e-4 {
            Self { timescale: ntsc as u32 * 1000, delta: 1001 }
        } else {
            Self { timescale: (fps * 1000.0).round() as u32, delta: 1000 }
        }
    }
}

/// The file, with the box `said` at the end of `moov`.
fn mux(encoded: &Encoded, width: u16, height: u16, timing: Timing, said: &[u8]) -> mp4_atom::Result<Vec<u8>> {
    let brand = |name: &[u8; 4]| FourCC::new(name);
    let ftyp = Ftyp {
        major_brand: brand(b"isom"),
        minor_version: 512,
        compatible_brands: vec![brand(b"isom"), brand(b"iso2"), brand(b"avc1"), brand(b"mp41")],
    };
    let mut file = Vec::new();
    ftyp.encode(&mut file)?;

    // The offset of the samples depends on the size of `moov`, which does not depend on the offset.
    let moov = |offset: u32| {
        let mut moov = Vec::new();
        movie(encoded, width, height, timing, offset)?.encode(&mut moov)?;
        moov.extend_from_slice(said);
        let size = moov.len() as u32;
        moov[..4].copy_from_slice(&size.to_be_bytes());
        Ok::<_, mp4_atom::Error>(moov)
    };
    let payload: usize = encoded.samples.iter().map(|sample| sample.data.len()).sum();
    let header = Header { kind: brand(b"mdat"), size: Some(payload) };
    let mut mdat = Vec::new();
    header.encode(&mut mdat)?;
    let offset = file.len() + moov(0)?.len() + mdat.len();
    if offset + payload > u32::MAX as usize {
        return Err(mp4_atom::Error::TooLarge(brand(b"mdat")));
    }
    file.extend(moov(offset as u32)?);
    file.extend(mdat);
    encoded.samples.iter().for_each(|sample| file.extend_from_slice(&sample.data));
    Ok(file)
}

fn movie(encoded: &Encoded, width: u16, height: u16, timing: Timing, offset: u32) -> mp4_atom::Result<Moov> {
    let duration = encoded.samples.len() as u64 * u64::from(timing.delta);
    let mvhd = Mvhd {
        creation_time: 0,
        modification_time: 0,
        timescale: timing.timescale,
        duration,
        rate: FixedPoint::new(1, 0),
        volume: FixedPoint::new(1, 0),
        matrix: IDENTITY,
        next_track_id: 2,
    };
    let tkhd = Tkhd {
        track_id: 1,
        duration,
        enabled: true,
        in_movie: true,
        matrix: IDENTITY,
        width: FixedPoint::new(width, 0),
        height: FixedPoint::new(height, 0),
        ..Tkhd::default()
    };
    let minf = Minf {
        vmhd: Some(Vmhd::default()),
        dinf: Dinf { dref: Dref { entries: vec![DrefEntry::Url(Url::default())] } },
        stbl: sample_table(encoded, width, height, timing, offset)?,
        ..Minf::default()
    };
    let mdia = Mdia {
        mdhd: Mdhd { timescale: timing.timescale, duration, language: "und".into(), ..Mdhd::default() },
        hdlr: Hdlr { handler: FourCC::new(b"vide"), name: "VideoHandler".into() },
        minf,
    };
    Ok(Moov { mvhd, trak: vec![Trak { tkhd, mdia, ..Trak::default() }], ..Moov::default() })
}

/// All samples in one chunk at `offset`.
fn sample_table(
    encoded: &Encoded,
    width: u16,
    height: u16,
    timing: Timing,
    offset: u32,
) -> mp4_atom::Result<Stbl> {
    let count = encoded.samples.len() as u32;
    let avc1 = Avc1 {
        visual: Visual { data_reference_index: 1, width, height, ..Visual::default() },
        avcc: Avcc::new(&encoded.sps, &encoded.pps)?,
        colr: Some(Colr::new(1, 1, 6, false)?), // BT.709 primaries and transfer, BT.601 matrix, limited range
        ..Avc1::default()
    };
    let key_frames =
        (1..).zip(&encoded.samples).filter(|(_, sample)| sample.is_key_frame).map(|(number, _)| number);
    Ok(Stbl {
        stsd: Stsd { codecs: vec![Codec::Avc1(avc1)] },
        stts: Stts { entries: vec![SttsEntry { sample_count: count, sample_delta: timing.delta }] },
        stss: Some(Stss { entries: key_frames.collect() }),
        stsc: Stsc {
            entries: vec![StscEntry {
                first_chunk: 1,
                samples_per_chunk: count,
                sample_description_index: 1,
            }],
        },
        stsz: Stsz {
            samples: StszSamples::Different {
                sizes: encoded.samples.iter().map(|s| s.data.len() as u32).collect(),
            },
        },
        stco: Some(Stco { entries: vec![offset] }),
        ..Stbl::default()
    })
}
