//! H.264 elementary streams through OpenH264: frames to access units and back.

use openh264::OpenH264API;
use openh264::decoder::{DecodeOptions, DecodedYUV, Decoder, Flush};
use openh264::encoder::{
    BitRate, ColorPrimaries, Complexity, Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod,
    QpRange, RateControlMode, TransferCharacteristics, VuiConfig,
};
use openh264::formats::{YUVBuffer, YUVSource};

use crate::yuv::{self, ColorMatrix, Planes};
use crate::{Image, Video, mp4};

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
        let other = if crate::webp::check_size(width, height).is_ok() { ", or write .webp" } else { "" };
        return Err(format!(
            "H.264 takes {MIN_SIDE}x{MIN_SIDE} to {long}x{short} pixels, not {width}x{height}; change the size or the \
             upscale factor{other}"
        ));
    }
    Ok(())
}

/// An encoded clip: parameter sets apart, then one access unit a frame, with 4-byte NAL lengths as MP4 wants
/// them.
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
/// The quality comes from `qp` alone (12 is nearly lossless, 51 the worst): both ends of the encoder's range
/// are pinned to it, and the buffer-based mode, unlike the others, neither skips frames nor prints a warning.
/// One thread and no content analysis, so that the same frames give the same bytes.
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
    /// Splits an Annex B access unit: parameter sets are kept, the other NAL units returned with their
    /// lengths.
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
pub(crate) struct FrameDecoder<'a> {
    decoder: Decoder,
    form: Form<'a>,
    frames: Vec<Option<Image>>,
}

/// What becomes of decoded frames.
#[derive(Clone, Copy)]
pub(crate) struct Form<'a> {
    pub matrix: ColorMatrix,
    /// Height and width; larger frames are refused: the memory was planned for that.
    pub size: [usize; 2],
    /// Width of a sample over its height; frames get square ones.
    pub aspect: f64,
    /// Of all frames in presentation order, whether each is kept.
    pub wanted: &'a [bool],
}

impl<'a> FrameDecoder<'a> {
    /// A decoder that has been given the parameter sets (NAL units without start codes).
    pub fn new<'b>(parameter_sets: impl Iterator<Item = &'b [u8]>, form: Form<'a>) -> Result<Self, String> {
        let decoder = Decoder::new().map_err(|error| refused(&error))?;
        let mut this = Self { decoder, form, frames: Vec::new() };
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
        if let Some(frame) = frame.map_err(|error| refused(&error))? {
            self.form.keep(&frame, &mut self.frames)?;
        }
        Ok(())
    }

    /// All frames, in presentation order; nothing in the place of those that are not wanted.
    pub fn finish(mut self) -> Result<Vec<Option<Image>>, String> {
        for frame in self.decoder.flush_remaining().map_err(|error| refused(&error))? {
            self.form.keep(&frame, &mut self.frames)?;
        }
        Ok(self.frames)
    }
}

/// What the decoder's error means: it says none of what it is that it does not know.
fn refused(error: &openh264::Error) -> String {
    let said = error.to_string();
    if said.contains("Native:") {
        "its H.264 has something that the built-in decoder does not know, or is damaged".to_owned()
    } else {
        said
    }
}

impl Form<'_> {
    /// Puts the next frame in presentation order to the others, if it is wanted.
    fn keep(&self, frame: &DecodedYUV<'_>, frames: &mut Vec<Option<Image>>) -> Result<(), String> {
        let is_wanted = self.wanted.get(frames.len()).copied().unwrap_or_default();
        frames.push(if is_wanted { Some(self.convert(frame)?) } else { None });
        Ok(())
    }

    fn convert(&self, frame: &DecodedYUV<'_>) -> Result<Image, String> {
        let (width, height) = frame.dimensions();
        let [largest_height, largest_width] = self.size;
        if height > largest_height || width > largest_width {
            return Err(format!(
                "a picture of {width}x{height} where the file's header says {largest_width}x{largest_height}"
            ));
        }
        let (y_stride, u_stride, _) = frame.strides();
        let planes = Planes {
            y: frame.y(),
            u: frame.u(),
            v: frame.v(),
            strides: [y_stride, u_stride],
            shared: [2, 2],
        };
        let square = mp4::square_width(width, self.aspect);
        yuv::to_rgb_of_width(&planes, [height, width], square, self.matrix).map_err(|error| error.to_string())
    }
}
