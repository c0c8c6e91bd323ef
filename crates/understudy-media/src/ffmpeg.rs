//! Clips that are not decoded here, by the system's `ffmpeg` where there is one.
//!
//! Two runs of it: the first tells of the stream, in what it says of any input; the second gives the frames
//! as PPM, upright, in RGB and without interlacing, and beside them, in a file, when each is shown.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::color::{Hdr, TONE_MAPPED, WideImage};
use crate::picture::check_dimensions;
use crate::video::check_memory;
use crate::{Error, Footage, Image, Result, Timing};

mod said;

/// How the program is called.
const PROGRAM: &str = "ffmpeg";
/// What to do where it does not help.
const OTHERWISE: &str = "copy the file again, or re-encode it where it plays, to H.264 in MP4";
/// Units a second of the clock that it tells times in.
const CLOCK: f64 = 1e6;

/// Reads `path`, of which `reason` says why it is not decoded here.
///
/// # Errors
/// [`Error::Unsupported`] with `reason` where there is no `ffmpeg`; otherwise with what is wrong, or that
/// there is too much.
pub(crate) fn read(path: &Path, reason: &str) -> Result<Footage> {
    read_with(OsStr::new(PROGRAM), path, reason)
}

fn read_with(program: &OsStr, path: &Path, reason: &str) -> Result<Footage> {
    // Whether the file can be read is said by the system, whether or not there is a program for it.
    std::fs::File::open(path).map_err(|error| Error::read(path, error))?;
    let stream = Stream::probe(program, path, reason)?;
    let times = tempfile::NamedTempFile::new().map_err(|error| Error::write(path, error))?;
    let mut run = Run::start(program, path, &conversion(times.path(), stream.hdr.is_some()), reason)?;
    let mut frames = Frames::default();
    while frames.read(&mut run.output, path)? {}
    run.finish(path, reason)?;
    let wrong = |what: &str| Error::unreadable(path, format!("{reason}, and {what}"), OTHERWISE);
    let mut frames = match stream.hdr {
        Some(hdr) => hdr.tone_map(frames.wide),
        None => frames.usual,
    };
    let told = std::fs::read_to_string(times.path()).map_err(|error| Error::read(times.path(), error))?;
    let times = starts(&told).ok_or_else(|| wrong("ffmpeg does not tell when its frames are shown"))?;
    // Some versions give the last picture twice.
    frames.truncate(times.len());
    if frames.is_empty() {
        return Err(wrong("ffmpeg finds no frames in it"));
    }
    let footage = Footage::new(path, frames, Timing::new(times, 0.0, stream.tick))?;
    Ok(footage.noted(stream.hdr.is_some(), TONE_MAPPED))
}

/// The options that turn a video into pictures on the output and times in a file: without interlacing, with
/// square pixels. The pictures are numbered instead of timed, so that none is dropped or doubled to keep a
/// rate.
fn conversion(times: &Path, wide: bool) -> Vec<OsString> {
    const FILTER: &str = "[0:V:0]yadif=mode=send_frame:deint=interlaced,\
        select='isnan(prev_selected_pts)+gt(pts,prev_selected_pts)',split[a][times];\
        [a]settb=1/25,setpts=N,scale=w='max(1,round(iw*sar))':h=ih[pictures]";
    let format = if wide { "rgb48be" } else { "rgb24" };
    let mut to = OsString::from("file:");
    to.push(times);
    let pictures = ["-map", "[pictures]", "-r", "25", "-c:v", "ppm", "-pix_fmt", format];
    let output = ["-f", "image2pipe", "-"];
    let listed =
        ["-map", "[times]", "-enc_time_base", "1:1000000", "-c:v", "rawvideo", "-f", "framecrc", "-y"];
    let all = ["-filter_complex", FILTER].into_iter().chain(pictures).chain(output).chain(listed);
    all.map(OsString::from).chain([to]).collect()
}

/// What the program tells of a video before it decodes it.
#[derive(Debug, PartialEq)]
struct Stream {
    hdr: Option<Hdr>,
    /// The unit of the file's clock, in seconds.
    tick: f64,
}

impl Stream {
    fn probe(program: &OsStr, path: &Path, reason: &str) -> Result<Self> {
        let mut run = Run::start(program, path, &[], reason)?;
        let said = run.said();
        if is_dolby_vision_only(&said) {
            let reason =
                "its colours are in Dolby Vision's own form (profile 5), which is not converted here";
            let advice = "convert it: ffmpeg -i in -vf libplacebo=colorspace=bt709:color_primaries=bt709:\
                          color_trc=bt709,format=yuv420p -c:v libx264 out.mp4";
            return Err(Error::unreadable(path, reason, advice));
        }
        Self::parse(&said).ok_or_else(|| said::failure(path, reason, &said))
    }

    /// From the line of the first video that is no cover picture:
    /// `Stream #0:0: Video: hevc, yuv420p10le(tv, bt2020nc/bt2020/smpte2084), 96x64, 16 fps, 16 tbr, 1k tbn`.
    fn parse(said: &str) -> Option<Self> {
        let mut lines = said.lines().map(str::trim_start).filter(|line| line.starts_with("Stream #0:"));
        let line = lines.find(|line| line.contains(": Video: ") && !line.contains("(attached pic)"))?;
        let hdr = [("smpte2084", Hdr::Pq), ("arib-std-b67", Hdr::Hlg)];
        let words: Vec<&str> = line.split([' ', ',', '(', ')', '/']).collect();
        let clock = words.windows(2).find(|pair| pair[1] == "tbn").and_then(|pair| number(pair[0]));
        Some(Self {
            hdr: hdr.into_iter().find(|(name, _)| words.contains(name)).map(|(_, hdr)| hdr),
            tick: 1.0 / clock.unwrap_or(1000.0),
        })
    }
}

/// Whether a video has no picture but that of Dolby Vision.
fn is_dolby_vision_only(said: &str) -> bool {
    said.lines().any(|line| line.contains("DOVI configuration record") && line.contains("profile: 5,"))
}

/// `16384`, `29.97` or `90k`, if positive.
fn number(text: &str) -> Option<f64> {
    let (digits, scale) = text.strip_suffix('k').map_or((text, 1.0), |digits| (digits, 1000.0));
    digits.parse().ok().map(|number: f64| number * scale).filter(|number| *number > 0.0)
}

/// When frames are shown, as format `framecrc` tells: comments, and a line `0, dts, pts, duration, size,
/// checksum` for each.
fn starts(text: &str) -> Option<Vec<f64>> {
    let start = |line: &str| Some(line.split(',').nth(2)?.trim().parse::<i64>().ok()? as f64 / CLOCK);
    text.lines().filter(|line| !line.starts_with('#')).map(start).collect()
}

/// A run of the program that is ended with this value.
struct Run {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    /// What it says, read by a thread of its own so that neither pipe blocks the other.
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Run {
    /// Starts it on `path`; without options it only tells of it.
    fn start(program: &OsStr, path: &Path, options: &[OsString], reason: &str) -> Result<Self> {
        // Named as a file, a path is no protocol and no option; and a playlist may not open anything else.
        let mut input = OsString::from("file:");
        input.push(path);
        let mut command = Command::new(program);
        let level = if options.is_empty() { "info" } else { "error" };
        command.args(["-nostdin", "-hide_banner", "-v", level, "-xerror"]);
        command.args(["-protocol_whitelist", "file,pipe", "-i"]).arg(input).args(options);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|_| Error::unsupported(path, reason))?;
        let (Some(output), Some(mut errors)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(Error::unsupported(path, reason));
        };
        let listen = move || {
            let mut said = Vec::new();
            let _ = errors.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        };
        Ok(Self { child, output: BufReader::new(output), errors: Some(std::thread::spawn(listen)) })
    }

    /// What it has said when it has ended.
    fn said(&mut self) -> String {
        self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default()
    }

    /// That it ended well.
    fn finish(mut self, path: &Path, reason: &str) -> Result<()> {
        let done = self.child.wait().is_ok_and(|status| status.success());
        let said = self.said();
        // A file that is cut off is decoded as far as it goes, which is no failure to the program, but is
        // said.
        if done && said.lines().all(said::is_harmless) {
            Ok(())
        } else {
            Err(said::failure(path, reason, &said))
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pictures of 8 or of 16 bits a colour.
#[derive(Default)]
struct Frames {
    usual: Vec<Image>,
    wide: Vec<WideImage>,
}

impl Frames {
    /// Reads the next picture of a stream of PPM: `P6`, width and height, the largest value, and the pixels;
    /// false at its end.
    fn read(&mut self, source: &mut impl BufRead, path: &Path) -> Result<bool> {
        let index = self.usual.len() + self.wide.len();
        let Some(kind) = line(source) else { return Ok(false) };
        let broken = || Error::unreadable(path, format!("ffmpeg gave no whole picture {index}"), OTHERWISE);
        let (size, depth) = (line(source).ok_or_else(broken)?, line(source).ok_or_else(broken)?);
        let side = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok()).ok_or_else(broken);
        let mut sides = size.split(' ');
        let (width, height) = (side(sides.next())?, side(sides.next())?);
        let bytes = match depth.as_str() {
            "255" => 1,
            "65535" => 2,
            _ => return Err(broken()),
        };
        if kind != "P6" {
            return Err(broken());
        }
        check_dimensions(path, (width, height))?;
        check_memory(path, bytes * (index as u64 + 1), width.into(), height.into())?;
        let (width, height) = (width as usize, height as usize);
        let mut rgb = vec![0; 3 * width * height * bytes as usize];
        source.read_exact(&mut rgb).map_err(|_| broken())?;
        if bytes == 1 {
            self.usual.push(Image { width, height, rgb });
        } else {
            let rgb = rgb.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            self.wide.push(WideImage { width, height, rgb });
        }
        Ok(true)
    }
}

/// The next line, without its end; nothing at the end of the output.
fn line(source: &mut impl BufRead) -> Option<String> {
    const LONGEST: u64 = 256;
    let mut line = Vec::new();
    source.by_ref().take(LONGEST).read_until(b'\n', &mut line).ok()?;
    line.pop().filter(|end| *end == b'\n')?;
    String::from_utf8(line).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A picture of 17x16 pixels of one level as the program gives it.
    fn ppm(level: u8) -> Vec<u8> {
        [&b"P6\n17 16\n255\n"[..], &[level; 3 * 17 * 16]].concat()
    }

    #[test]
    fn pictures_follow_one_another() {
        let wide = [&b"P6\n17 16\n65535\n"[..], &[1; 6 * 17 * 16]].concat();
        let stream = [ppm(b'a'), ppm(b'b'), wide].concat();
        let mut source = stream.as_slice();
        let path = Path::new("a.mkv");
        let mut frames = Frames::default();
        while frames.read(&mut source, path).unwrap() {}
        let [first, second] = &frames.usual[..] else { panic!("{} pictures", frames.usual.len()) };
        assert_eq!((first.width, first.height, first.rgb[0], second.rgb[815]), (17, 16, b'a', b'b'));
        assert_eq!((frames.wide.len(), frames.wide[0].rgb[815]), (1, 257));
        let whole = ppm(b'a');
        let without = |from: &[u8], to: &[u8]| [to, &whole[from.len()..]].concat();
        for broken in [
            whole[..100].to_vec(),
            without(b"P6", b"P5"),
            without(b"P6\n17 16", b"P6\n17"),
            b"P6\n17 16\n".to_vec(),
        ] {
            let error = Frames::default().read(&mut broken.as_slice(), path).unwrap_err().to_string();
            assert!(error.contains("picture 0"), "{error}");
        }
    }

    #[test]
    fn what_is_told_of_a_stream_is_understood() {
        let cover = "  Stream #0:0: Video: mjpeg, yuvj420p(pc), 9x9, 90k tbr, 90k tbn (attached pic)\n";
        let video = "  Stream #0:1[0x1](und): Video: hevc (Main 10) (hvc1 / 0x31637668), yuv420p10le(tv, \
                     bt2020nc/bt2020/smpte2084, progressive), 96x64, 8 kb/s, 16 fps, 16 tbr, 16384 tbn (default)\n";
        let stream = Stream::parse(&format!("{cover}{video}")).unwrap();
        assert_eq!(stream, Stream { hdr: Some(Hdr::Pq), tick: 1.0 / 16384.0 });
        let usual = "    Stream #0:0: Video: vp9 (Profile 0), yuv420p(tv, bt709), 96x64, 1k tbr, 1k tbn\n";
        assert_eq!(Stream::parse(usual).unwrap(), Stream { hdr: None, tick: 0.001 });
        assert_eq!(Stream::parse("    title : Stream #0:0: Video: x"), None);
        assert!(is_dolby_vision_only("      DOVI configuration record: version: 1.0, profile: 5, level: 6"));
        let times =
            "#tb 0: 1/1000000\n#sar 0: 4/3\n0,   0,   0,  62500,  9, 0x0\n0,  5, 125000,  1,  9, 0x0\n";
        assert_eq!(starts(times).unwrap(), [0.0, 0.125]);
        assert_eq!(starts("0, 0"), None);
    }

    #[test]
    fn without_the_program_the_message_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mkv");
        std::fs::write(&path, b"hello").unwrap();
        let nowhere = folder.path().join("no-such-program");
        let error =
            read_with(nowhere.as_os_str(), &path, "its video is AV1, not H.264").unwrap_err().to_string();
        assert!(error.contains("AV1") && error.contains("install ffmpeg"), "{error}");
        let missing =
            read_with(nowhere.as_os_str(), &folder.path().join("b.mkv"), "").unwrap_err().to_string();
        assert!(missing.contains("cannot read"), "{missing}");
    }

    /// A stand-in that answers as ffmpeg does: what it tells of a file, two pictures with their times, and
    /// how it ends.
    #[cfg(unix)]
    fn stand_in(folder: &Path, end: &str) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let (program, pictures) = (folder.join("ffmpeg"), folder.join("pictures"));
        std::fs::write(&pictures, [ppm(b'a'), ppm(b'b')].concat()).unwrap();
        let pictures = pictures.display();
        let script = format!(
            "#!/bin/sh\nfor to; do :; done\ncase \"$*\" in\n*framecrc*) cat '{pictures}'\n\
             printf '#sar 0: 2/1\\n0, 0, 0, 1, 9, 0x0\\n0, 1, 250000, 1, 9, 0x0\\n' > \"${{to#file:}}\"; {end};;\n\
             *) echo '  Stream #0:0: Video: av1, yuv420p(tv), 17x16, 24 fps, 24 tbr, 1k tbn' >&2; exit 1;;\nesac\n"
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    #[cfg(unix)]
    #[test]
    fn what_the_program_gives_is_the_clip_and_what_it_complains_of_the_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.mkv");
        std::fs::write(&path, b"hello").unwrap();
        let program = stand_in(folder.path(), "echo '[h264 @ 0x1] mmco: unref short failure' >&2");
        let clip = read_with(program.as_os_str(), &path, "why").unwrap();
        assert_eq!(
            (clip.frames.len(), clip.frames[0].width, clip.timing.starts()),
            (2, 17, &[0.0, 0.25][..])
        );
        for (end, said) in [
            ("echo '[x @ 0x1] no such codec' >&2; exit 1", "ffmpeg says \"no such codec\""),
            ("echo '[matroska,webm @ 0x1] File ended prematurely' >&2", "cut off"),
            ("printf '[h264 @ 0x1] x\\na.mkv: corrupt decoded frame\\n' >&2; exit 69", "damaged"),
        ] {
            let program = stand_in(folder.path(), end);
            let error = read_with(program.as_os_str(), &path, "not an MP4").unwrap_err().to_string();
            assert!(error.contains("not an MP4") && error.contains(said), "{error}");
            assert!(!error.contains("0x1") && !error.contains('\n'), "{error}");
        }
    }
}
