//! What the folder of a run holds: what is being learned, how far it got, and how it goes on.

use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use serde::Serialize;
use toml::Table;
use understudy_engine::safetensors::Checkpoint;
use understudy_train::STATE;

/// The stages of a fit, in order, and where its settings say how many steps they have.
const STAGES: [(&str, &[&str]); 3] =
    [("token", &["token", "steps"]), ("lora", &["lora", "steps"]), ("motion", &["motion", "stage", "steps"])];
/// The settings of a fit.
const SETTINGS: &str = "settings.toml";
/// What the name of a fit's folder ends with, after the adapter's name.
const ENDING: &str = ".run";

/// The folder of a run.
#[derive(Debug, Serialize)]
pub struct RunSummary {
    path: PathBuf,
    /// The adapter it is for, and whether it was written.
    adapter: Option<(PathBuf, bool)>,
    method: Option<&'static str>,
    /// Every subject's token and class.
    subjects: Vec<String>,
    stages: Vec<StageSummary>,
    /// Files of it that cannot be read.
    damaged: Vec<String>,
}

/// A stage of a run.
#[derive(Debug, Serialize)]
struct StageSummary {
    name: String,
    /// Steps in the state on disk.
    step: u64,
    /// Steps in all, if the settings say.
    total: Option<u64>,
}

impl RunSummary {
    /// Whether `folder` is that of a run.
    pub fn is_run(folder: &Path) -> bool {
        let stages = STAGES.iter().map(|(stage, _)| folder.join(stage).join(STATE));
        let files = [folder.join(STATE), folder.join(SETTINGS)];
        stages.chain(files).any(|path| path.is_file()) || adapter_of(folder).is_some()
    }

    /// Reads the folder at `path`; of its states only the headers. What cannot be read is named in the
    /// summary.
    pub fn read(path: &Path) -> Self {
        let mut damaged = Vec::new();
        let settings = match std::fs::read_to_string(path.join(SETTINGS)) {
            Ok(text) => text.parse::<Table>().map_err(|error| {
                let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
                damaged.push(format!("{SETTINGS}: {reason}"));
            }),
            Err(_) => Err(()),
        };
        let settings = settings.ok();
        let mut stages = Vec::new();
        for (name, total) in STAGES {
            let total = settings.as_ref().and_then(|table| steps(table, total));
            let state = path.join(name).join(STATE);
            match step(&state) {
                Ok(step) if step.is_some() || total.is_some_and(|total| total > 0) => {
                    stages.push(StageSummary { name: name.to_owned(), step: step.unwrap_or(0), total });
                }
                Ok(_) => {}
                Err(reason) => damaged.push(reason),
            }
        }
        match step(&path.join(STATE)) {
            Ok(Some(step)) => stages.push(StageSummary { name: "training".to_owned(), step, total: None }),
            Ok(None) => {}
            Err(reason) => damaged.push(reason),
        }
        Self {
            path: path.to_owned(),
            adapter: adapter_of(path).map(|adapter| (adapter.clone(), adapter.is_file())),
            method: settings.as_ref().map(method),
            subjects: settings.as_ref().map(subjects).unwrap_or_default(),
            stages,
            damaged,
        }
    }
}

/// `cat.safetensors` of `cat.safetensors.run`.
fn adapter_of(folder: &Path) -> Option<PathBuf> {
    let name = folder.file_name()?.to_str()?.strip_suffix(ENDING)?;
    name.ends_with(".safetensors").then(|| folder.with_file_name(name))
}

/// Steps in the state at `path`, if there is one.
fn step(path: &Path) -> Result<Option<u64>, String> {
    if !path.is_file() {
        return Ok(None);
    }
    let state = Checkpoint::open(path, &Device::flex()).map_err(|error| error.to_string())?;
    let step = state.metadata().get("step").and_then(|text| text.parse().ok());
    step.map(Some).ok_or_else(|| format!("{}: it does not say how many steps were taken", path.display()))
}

/// The number at `path` in the settings.
fn steps(settings: &Table, path: &[&str]) -> Option<u64> {
    let (last, groups) = path.split_last()?;
    let table = groups.iter().try_fold(settings, |table, group| table.get(*group)?.as_table())?;
    table.get(*last)?.as_integer()?.try_into().ok()
}

fn method(settings: &Table) -> &'static str {
    let references = settings.get("references").and_then(toml::Value::as_bool).unwrap_or(false);
    match (settings.contains_key("motion"), references) {
        (true, _) => "set-and-sequence",
        (_, true) => "v-warper",
        _ => "lora",
    }
}

fn subjects(settings: &Table) -> Vec<String> {
    let subject = |(name, value): (&String, &toml::Value)| {
        let word = |field: &str| value.get(field)?.as_str().map(str::to_owned);
        name.starts_with("subject").then(|| Some(format!("{} {}", word("token")?, word("class")?))).flatten()
    };
    settings.iter().filter_map(subject).collect()
}

impl fmt::Display for RunSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "run {}", self.path.display())?;
        if let Some(method) = self.method {
            writeln!(f, "  method    {method}")?;
        }
        if !self.subjects.is_empty() {
            writeln!(f, "  subject   {}", self.subjects.join(", "))?;
        }
        for StageSummary { name, step, total } in &self.stages {
            let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
            writeln!(f, "  {name:9} {step}{of} steps")?;
        }
        self.damaged.iter().try_for_each(|reason| writeln!(f, "  damaged   {reason}"))?;
        match &self.adapter {
            Some((adapter, true)) => writeln!(f, "  finished  its adapter is {}", adapter.display()),
            Some((adapter, false)) => writeln!(
                f,
                "  goes on   with the command it was started with and --resume: understudy fit ... --out {} --resume",
                adapter.display()
            ),
            None => writeln!(f, "  goes on   with the command it was started with"),
        }
    }
}
