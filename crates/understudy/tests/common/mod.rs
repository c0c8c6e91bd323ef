//! Running the program and looking at what it leaves.
// Every test binary uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use understudy_media::Image;

/// A text-to-video base with random weights that runs in milliseconds.
pub const BASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../oracle/golden/wan_pipeline_a");

/// A run of the program that has ended.
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
    command.args(arguments).current_dir(folder).env_remove("RUST_BACKTRACE").stdin(Stdio::null());
    command
}

/// Starts the program in `folder`; what it prints can be read.
pub fn start(folder: &Path, arguments: &[&str]) -> Child {
    command(folder, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs the program in `folder`.
pub fn understudy(folder: &Path, arguments: &[&str]) -> Run {
    let output = command(folder, arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Run { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Sends `signal` to a run once one of its events is what `reached` waits for, and gives how it ended.
#[cfg(unix)]
pub fn interrupted(folder: &Path, arguments: &[&str], reached: impl Fn(&Value) -> bool, signal: &str) -> Run {
    let mut child = start(folder, arguments);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().any(|line| reached(&serde_json::from_str(&line.unwrap()).unwrap())));
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let stdout = lines.map(Result::unwrap).collect();
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    Run { code: child.wait().unwrap().code(), stdout, stderr }
}

/// A short `generate` on the tiny base.
pub fn generate(folder: &Path, flags: &[&str]) -> Run {
    let mut arguments = vec!["generate", "--base", BASE];
    for usual in [
        ["--frames", "5"],
        ["--height", "16"],
        ["--width", "16"],
        ["--steps", "2"],
        ["--prompt", "a red ball rolls to the left"],
    ] {
        if !flags.contains(&usual[0]) {
            arguments.extend(usual);
        }
    }
    understudy(folder, &[&arguments, flags].concat())
}

impl Run {
    /// What it printed, having succeeded.
    pub fn succeeds(&self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout.clone()
    }

    /// Its one line of error, having failed with `code`.
    pub fn fails(&self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        let lines: Vec<&str> = self.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert_eq!(lines.len(), 1, "{}", self.stderr);
        assert!(self.stderr.ends_with(&format!("{}\n", lines[0])), "{}", self.stderr);
        lines[0].to_owned()
    }
}

/// The shape and the values of an f32 tensor in a file.
pub fn tensor(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F32);
    let values = view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes));
    (view.shape().to_vec(), values.collect())
}

/// Every tensor in a file: its shape and its bytes, by name.
pub fn tensors(path: &Path) -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(name, view)| (name.to_owned(), (view.shape().to_vec(), view.data().to_vec()))).collect()
}

/// Writes a tensor `name` of `values`.
pub fn write_tensor(path: &Path, name: &str, shape: &[usize], values: &[f32]) {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::F32, shape.to_vec(), &bytes).unwrap();
    std::fs::write(path, safetensors::serialize([(name, view)], None).unwrap()).unwrap();
}

/// Writes something like noise as tensor `latents`.
pub fn noise_like(path: &Path, shape: &[usize]) {
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|index| (index as f32 * 1.7).sin() * 1.4).collect();
    write_tensor(path, "latents", shape, &values);
}

/// Writes `count` pictures of a red square into `folder`.
pub fn pictures(folder: &Path, count: usize) {
    std::fs::create_dir_all(folder).unwrap();
    for index in 0..count {
        let inside = |at: usize| (6 + index..18 + index).contains(&at);
        let color = |x, y| if inside(x) && inside(y) { [210, 40, 30] } else { [90, 140, 200] };
        Image::from_fn(32, 32, color).write_png(folder.join(format!("{index}.png"))).unwrap();
    }
}

/// Copies a folder.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()))
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}
