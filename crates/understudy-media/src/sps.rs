//! What an H.264 stream says of itself, before any of it is decoded (ISO/IEC 14496-10, 7.3.2.1 and annex E).

use h264_reader::nal::sps::{ChromaFormat, FrameMbsFlags, SeqParameterSet};
use h264_reader::rbsp::{BitReader, decode_nal};

use crate::color::Coding;

/// What the first sequence parameter set says.
pub(crate) struct Stream {
    parameters: SeqParameterSet,
}

impl Stream {
    /// A parameter set with its header, without start code; nothing where it is of no known form.
    pub fn read(unit: &[u8]) -> Option<Self> {
        // The reader does without a look at so little.
        const SHORTEST: usize = 4;
        let payload = decode_nal(unit.get(..SHORTEST).and(Some(unit))?).ok()?;
        let parameters = SeqParameterSet::from_bits(BitReader::new(payload.as_ref())).ok()?;
        Some(Self { parameters })
    }

    /// Why OpenH264 does not decode it, if it is of such a kind.
    pub fn foreign(&self) -> Option<&'static str> {
        let chroma = &self.parameters.chroma_info;
        if chroma.bit_depth_luma_minus8 > 0 || chroma.bit_depth_chroma_minus8 > 0 {
            Some("its H.264 has more than 8 bits a colour")
        } else if chroma.chroma_format != ChromaFormat::YUV420 {
            Some("its H.264 is not of 4:2:0")
        } else if matches!(self.parameters.frame_mbs_flags, FrameMbsFlags::Fields { .. }) {
            Some("its H.264 is interlaced")
        } else {
            None
        }
    }

    /// Width and height of a sample.
    pub fn aspect(&self) -> Option<[u32; 2]> {
        let (width, height) = self.parameters.vui_parameters.as_ref()?.aspect_ratio_info.as_ref()?.get()?;
        Some([width.into(), height.into()])
    }

    /// How its colours are coded: what it says takes the place of what the file says, each by itself, as
    /// ffmpeg has it.
    pub fn coding(&self, file: Coding) -> Coding {
        let vui = self.parameters.vui_parameters.as_ref();
        let Some(signal) = vui.and_then(|vui| vui.video_signal_type.as_ref()) else { return file };
        let file = Coding { full_range: signal.video_full_range_flag, ..file };
        match &signal.colour_description {
            None => file,
            Some(said) => Coding {
                transfer: said.transfer_characteristics.into(),
                matrix: said.matrix_coefficients.into(),
                ..file
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parameter sets as x264 writes them.
    fn stream(hex: &str) -> Stream {
        let unit: Vec<u8> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        Stream::read(&unit).unwrap()
    }

    #[test]
    fn colours_of_the_stream_take_the_place_of_the_files() {
        let file = Coding { transfer: 18, matrix: 9, full_range: true };
        let said = |hex: &str| stream(hex).coding(file);
        assert_eq!(said("6764000aacd94626c044000003000400000300f03c489658"), file);
        let limited = Coding { transfer: 2, matrix: 1, full_range: false };
        assert_eq!(said("6764000aacd94626c05a810100a0000003002000000781e244b2c0"), limited);
        let full = said("6764000aacd94626c05b81010320000003002000000781e244b2c0");
        assert_eq!((full.matrix, full.full_range), (6, true));
    }

    #[test]
    fn the_kind_and_the_pixels_are_told() {
        let plain = stream("6764000aacd94626c044000003000400000300f03c489658");
        assert_eq!((plain.foreign(), plain.aspect()), (None, Some([1, 1])));
        let wide = stream("6764000aacd94626c104000003000400000300f03c489658");
        assert_eq!(wide.aspect(), Some([16, 11]));
        for (hex, kind) in [
            ("67640015acd9464d8088000003000800000301e0f8a14cb0", "interlaced"),
            ("676e000aa6cd94626c0440000003004000000f03c4896580", "8 bits"),
            ("677a000abcd94626c044000003000400000300f03c489658", "4:2:0"),
        ] {
            assert!(stream(hex).foreign().unwrap().contains(kind), "{kind}");
        }
        assert!(Stream::read(b"").is_none() && Stream::read(&[0x67, 0x64]).is_none());
    }
}
