//! H.264 elementary streams through OpenH264: frames to access units and back.

use openh264::OpenH264API;
use openh264::decoder::{DecodeOptions, DecodedYUV, Decoder, Flush};
use openh264::encoder::{
    BitRate, ColorPrimaries, Complexity, Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod,
    QpRange, RateControlMode, TransferCharacteristics, VuiConfig,
};
use openh264::formats::{YUVBuffer, YUVSource};

use crate::yuv::{self, ColorMatrix, Planes};
use crate::{Image, Video};

/// The encoder's largest picture, long side then short side.
const MAX_SIDES: [usize; 2] = [3840, 2160];
/// The encoder's smallest side.
const MIN_SIDE: usize = 16;
/// Frames between key frames: where players can seek to.
const KEY_FRAME_INTERVAL: u32 = 48;

/// Whether frames of this size, even sides, can be encoded.
pub(crate) fn check_size(width: usize, height: usize) -> Result<(), String> {
    let [long, short] = MAX_SIDES;
    if width.min(height) < MIN_SIDE || width.max(height) > long || width.min(height) > short {
        return Err(format!(
            "H.264 takes {MIN_SIDE}x{MIN_SIDE} to {long}x{short} pixels, not {width}x{height}; change the size, change \
             the upscale factor, or write .webp"
        ));
    }
    Ok(())
}

/// An encoded clip: parameter sets apart, then one access unit a frame, with 4-byte NAL lengths as MP4 wants them.
pub(crate) struct Encoded {
    pub sps: Vec<u8>,
    pub pps: Vec<u8>,
    pub samples: Vec<Sample>,
}

/// One access unit.
pub(crate) struct Sample {
    pub data: Vec<u8>,
    pub is_key_frame: bool,
}

/// Encodes a clip of even sides at a constant quantization parameter.
///
/// The quality comes from `qp` alone (12 is nearly lossless, 51 the worst): both ends of the encoder's range are
/// pinned to it, and the buffer-based mode, unlike the others, neither skips frames nor prints a warning. One thread and no content analysis, so that the same frames give the same bytes.
pub(crate) fn encode(video: &Video, qp: u8) -> Result<Encoded, String> {
    let config = EncoderConfig::new()
        .rate_control_mode(RateControlMode::Bufferbased)
        .qp(QpRange::new(qp, qp))
        .bitrate(BitRate::from_bps(target_bitrate(video)))
        .max_frame_rate(FrameRate::from_hz(video.fps.clamp(1.0, 60.0) as f32))
        .intra_frame_period(IntraFramePeriod::from_num_frames(KEY_FRAME_INTERVAL))
        .complexity(Complexity::High)
        .skip_frames(false)
        .scene_change_detect(false)
        .adaptive_quantization(false)
        .background_detection(false)
        .num_threads(1)
        .vui(
            VuiConfig::bt601()
                .color_primaries(ColorPrimaries::Bt709)
                .transfer_characteristics(TransferCharacteristics::Bt709),
        );
    let mut encoder =
        Encoder::with_api_config(OpenH264API::from_source(), config).map_err(|e| e.to_string())?;
    let mut encoded = Encoded { sps: Vec::new(), pps: Vec::new(), samples: Vec::new() };
    for frame in &video.frames {
        let planes = yuv::from_rgb(frame, ColorMatrix::BT601);
        let source = YUVBuffer::from_vec(planes, frame.width, frame.height);
        let stream = encoder.encode(&source).map_err(|e| e.to_string())?;
        let is_key_frame = stream.frame_type() == FrameType::IDR;
        let data = encoded.take_parameter_sets(&stream.to_vec());
        if data.is_empty() {
            return Err("the encoder dropped a frame".into());
        }
        encoded.samples.push(Sample { data, is_key_frame });
    }
    if encoded.sps.is_empty() || encoded.pps.is_empty() {
        return Err("the encoder gave no parameter sets".into());
    }
    Ok(encoded)
}

impl Encoded {
    /// Splits an Annex B access unit: parameter sets are kept, the other NAL units returned with their lengths.
    fn take_parameter_sets(&mut self, annex_b: &[u8]) -> Vec<u8> {
        let mut data = Vec::with_capacity(annex_b.len());
        for unit in nal_units(annex_b) {
            match unit.first().map_or(0, |header| header & 0x1f) {
                7 => self.sps = unit.to_vec(),
                8 => self.pps = unit.to_vec(),
                _ => {
                    data.extend((unit.len() as u32).to_be_bytes());
                    data.extend_from_slice(unit);
                }
            }
        }
        data
    }
}

/// The NAL units between start codes, without them and without trailing zeros.
fn nal_units(annex_b: &[u8]) -> impl Iterator<Item = &[u8]> {
    openh264::nal_units(annex_b).map(|unit| {
        let start = unit.windows(3).position(|w| w == [0, 0, 1]).map_or(0, |at| at + 3);
        let end = unit.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        &unit[start.min(end)..end]
    })
}

/// High enough never to be the limit: 6 bits a pixel, within what H.264 level 5.1 allows.
fn target_bitrate(video: &Video) -> u32 {
    let bits = video.width() as f64 * video.height() as f64 * video.fps.clamp(1.0, 60.0) * 6.0;
    bits.clamp(1e6, 200e6) as u32
}

/// Decodes access units given in decoding order; frames come back in presentation order.
pub(crate) struct FrameDecoder {
    decoder: Decoder,
    matrix: ColorMatrix,
    size: [usize; 2],
    frames: Vec<Image>,
}

impl FrameDecoder {
    /// A decoder that has been given the parameter sets (NAL units without start codes). Frames larger than `size`,
    /// height and width, are refused: the memory was planned for that.
    pub fn new<'a>(
        parameter_sets: impl Iterator<Item = &'a [u8]>,
        matrix: ColorMatrix,
        size: [usize; 2],
    ) -> Result<Self, String> {
        let decoder = Decoder::new().map_err(|error| refused(&error))?;
        let mut this = Self { decoder, matrix, size, frames: Vec::new() };
        let mut annex_b = Vec::new();
        for unit in parameter_sets {
            annex_b.extend([0, 0, 0, 1]);
            annex_b.extend_from_slice(unit);
        }
        this.decode(&annex_b)?;
        Ok(this)
    }

    /// Decodes one access unit in Annex B form.
    pub fn decode(&mut self, annex_b: &[u8]) -> Result<(), String> {
        if annex_b.is_empty() {
            return Ok(());
        }
        let options = DecodeOptions::new().flush_after_decode(Flush::NoFlush);
        let frame = self.decoder.decode_with_options(annex_b, options);
        let frame = frame.map_err(|error| refused(&error))?;
        if let Some(frame) = frame {
            self.frames.push(convert(&frame, self.matrix, self.size)?);
        }
        Ok(())
    }

    /// All frames, in presentation order.
    pub fn finish(mut self) -> Result<Vec<Image>, String> {
        for frame in self.decoder.flush_remaining().map_err(|error| refused(&error))? {
            self.frames.push(convert(&frame, self.matrix, self.size)?);
        }
        Ok(self.frames)
    }
}

/// What the decoder's error means to whoever made the file. Of the profiles of H.264 it knows those of 8 bits and 4:2:0.
fn refused(error: &openh264::Error) -> String {
    let said = error.to_string();
    match said.contains("Native:") {
        true => "its H.264 stream is damaged, or not of 8 bits and 4:2:0".to_owned(),
        false => said,
    }
}

fn convert(frame: &DecodedYUV<'_>, matrix: ColorMatrix, size: [usize; 2]) -> Result<Image, String> {
    let (width, height) = frame.dimensions();
    if height > size[0] || width > size[1] {
        return Err(format!(
            "a picture of {width}x{height} where the file's header says {}x{}",
            size[1], size[0]
        ));
    }
    let (y_stride, u_stride, _) = frame.strides();
    let planes = Planes { y: frame.y(), u: frame.u(), v: frame.v(), strides: [y_stride, u_stride] };
    yuv::to_rgb(&planes, width, height, matrix).ok_or_else(|| "the decoder gave a short picture".into())
}
