//! Clips that are not decoded here, by the system's `ffmpeg` where there is one.
//!
//! Two runs of it: the first says the frame rate, as the header of one tiny Y4M picture; the second gives the frames as PPM,
//! upright and in RGB, at that rate.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::picture::check_dimensions;
use crate::video::check_memory;
use crate::{Error, Image, Result, Video};

/// How the program is called.
const PROGRAM: &str = "ffmpeg";
/// What to do where it does not help.
const OTHERWISE: &str = "copy the file again, or re-encode it where it plays, to H.264 in MP4";
/// Its errors are told by their last line, up to so many characters.
const LONGEST: usize = 200;

/// Reads `path`, of which `reason` says why it is not decoded here.
///
/// # Errors
/// [`Error::Unsupported`] with `reason` where there is no `ffmpeg`; otherwise with what it says, or that there is too much.
pub(crate) fn read(path: &Path, reason: &str) -> Result<Video> {
    read_with(OsStr::new(PROGRAM), path, reason)
}

fn read_with(program: &OsStr, path: &Path, reason: &str) -> Result<Video> {
    // Whether the file can be read is said by the system, whether or not there is a program for it.
    std::fs::File::open(path).map_err(|error| Error::read(path, error))?;
    let rate = ["-frames:v", "1", "-vf", "scale=16:16", "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-"];
    let mut header = Run::start(program, path, &rate, reason)?;
    let line = line(&mut header.output).unwrap_or_default();
    header.finish(path, reason)?;
    let rate = line.split(' ').find_map(|field| field.strip_prefix('F'));
    let (rate, fps) = rate.and_then(|text| Some((text, fraction(text)?))).ok_or_else(|| {
        Error::unreadable(path, format!("{reason}, and ffmpeg finds no frame rate in it"), OTHERWISE)
    })?;
    let rate = rate.replace(':', "/");
    let frames = ["-r", &rate, "-c:v", "ppm", "-pix_fmt", "rgb24", "-f", "image2pipe", "-"];
    let mut run = Run::start(program, path, &frames, reason)?;
    let mut frames = Vec::new();
    while let Some(frame) = picture(&mut run.output, path, frames.len())? {
        frames.push(frame);
    }
    run.finish(path, reason)?;
    if frames.is_empty() {
        return Err(Error::unreadable(
            path,
            format!("{reason}, and ffmpeg finds no frames in it"),
            OTHERWISE,
        ));
    }
    Video::new(frames, fps.clamp(0.1, 1000.0))
}

/// A run of the program that is ended with this value.
struct Run {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
    /// What it says of errors, read by a thread of its own so that neither pipe blocks the other.
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Run {
    fn start(program: &OsStr, path: &Path, options: &[&str], reason: &str) -> Result<Self> {
        // Named as a file, a path is no protocol and no option; and a playlist may not open anything else.
        let mut input = OsString::from("file:");
        input.push(path);
        let mut command = Command::new(program);
        command
            .args(["-nostdin", "-v", "error", "-xerror", "-protocol_whitelist", "file,pipe", "-i"])
            .arg(input);
        command.args(["-map", "0:v:0", "-an", "-sn"]).args(options);
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

    /// That it ended well.
    fn finish(mut self, path: &Path, reason: &str) -> Result<()> {
        let done = self.child.wait().is_ok_and(|status| status.success());
        let said = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        // A file that is cut off is decoded as far as it goes, which is no failure to the program, but is said.
        let said = said.lines().map(str::trim).rfind(|line| !line.is_empty());
        let said = match (done, said) {
            (true, None) => return Ok(()),
            (_, said) => said.unwrap_or("it gave up"),
        };
        let said: String = said.chars().take(LONGEST).collect();
        let reason = format!("{reason}, and ffmpeg cannot decode it either: {said}");
        Err(Error::unreadable(path, reason, OTHERWISE))
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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

/// The number `25:1` stands for, if it is a rate.
fn fraction(text: &str) -> Option<f64> {
    let (above, below) = text.split_once(':')?;
    let rate = above.parse::<f64>().ok()? / below.parse::<f64>().ok()?;
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

/// Picture `index` of a stream of PPM: `P6`, width and height, 255, and the pixels; nothing at its end.
fn picture(source: &mut impl BufRead, path: &Path, index: usize) -> Result<Option<Image>> {
    let Some(kind) = line(source) else { return Ok(None) };
    let broken = || Error::unreadable(path, format!("ffmpeg gave no whole picture {index}"), OTHERWISE);
    let (size, depth) = (line(source).ok_or_else(broken)?, line(source).ok_or_else(broken)?);
    let side = |text: Option<&str>| text.and_then(|text| text.parse::<u32>().ok()).ok_or_else(broken);
    let mut sides = size.split(' ');
    let (width, height) = (side(sides.next())?, side(sides.next())?);
    if kind != "P6" || depth != "255" {
        return Err(broken());
    }
    check_dimensions(path, (width, height))?;
    check_memory(path, index as u64 + 1, width.into(), height.into())?;
    let (width, height) = (width as usize, height as usize);
    let mut rgb = vec![0; 3 * width * height];
    source.read_exact(&mut rgb).map_err(|_| broken())?;
    Ok(Some(Image { width, height, rgb }))
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
        let stream = [ppm(b'a'), ppm(b'b')].concat();
        let mut source = stream.as_slice();
        let path = Path::new("a.mkv");
        let mut next = |index| picture(&mut source, path, index).unwrap();
        let (first, second) = (next(0).unwrap(), next(1).unwrap());
        assert_eq!((first.width, first.height, first.rgb[0], second.rgb[815]), (17, 16, b'a', b'b'));
        assert_eq!(next(2), None);
        let whole = ppm(b'a');
        let without = |from: &[u8], to: &[u8]| [to, &whole[from.len()..]].concat();
        for broken in [
            whole[..100].to_vec(),
            without(b"P6", b"P5"),
            without(b"P6\n17 16", b"P6\n17"),
            b"P6\n17 16\n".to_vec(),
        ] {
            let error = picture(&mut broken.as_slice(), path, 4).unwrap_err().to_string();
            assert!(error.contains("picture 4"), "{error}");
        }
    }

    #[test]
    fn rates_are_fractions() {
        assert_eq!(fraction("30000:1001"), Some(30000.0 / 1001.0));
        assert_eq!((fraction("0:0"), fraction("25"), fraction("-1:2")), (None, None, None));
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

    /// A stand-in that answers as ffmpeg does: a header for Y4M, two pictures for PPM, and how it ends.
    #[cfg(unix)]
    fn stand_in(folder: &Path, end: &str) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let (program, pictures) = (folder.join("ffmpeg"), folder.join("pictures"));
        std::fs::write(&pictures, [ppm(b'a'), ppm(b'b')].concat()).unwrap();
        let pictures = pictures.display();
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in\n*yuv4mpegpipe*) printf 'YUV4MPEG2 W16 H16 F24:1 Ip A1:1\\nFRAME\\n';;\n\
             *) cat '{pictures}'; {end};;\nesac\n"
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
        let program = stand_in(folder.path(), "true");
        let video = read_with(program.as_os_str(), &path, "why").unwrap();
        assert_eq!((video.frames.len(), video.fps, video.width()), (2, 24.0, 17));
        for (end, said) in
            [("echo no such codec >&2; exit 1", "no such codec"), ("echo ended too early >&2", "too early")]
        {
            let program = stand_in(folder.path(), end);
            let error = read_with(program.as_os_str(), &path, "not an MP4").unwrap_err().to_string();
            assert!(error.contains("not an MP4") && error.contains(said), "{error}");
        }
    }
}
