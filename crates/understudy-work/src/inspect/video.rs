//! How a video was made.

use std::fmt;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use understudy_media::Provenance;

use crate::said::shell;

/// What a video's file says of it.
#[derive(Debug, Serialize)]
pub struct VideoSummary {
    path: String,
    #[serde(skip)]
    end: String,
    #[serde(flatten)]
    made: Provenance,
}

impl VideoSummary {
    /// Of the file at `path`, which says that it was `made` so.
    pub fn new(path: &Path, made: Provenance) -> Self {
        let end = path.extension().map(|own| format!(".{}", own.to_string_lossy())).unwrap_or_default();
        Self { path: path.display().to_string(), end, made }
    }
}

impl fmt::Display for VideoSummary {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { path, end, made } = self;
        writeln!(f, "video {path}")?;
        writeln!(f, "  made by           {}", made.made_by)?;
        writeln!(f, "  prompt            {}", made.prompt)?;
        if let Some(caption) = &made.caption {
            writeln!(f, "  scored as         {caption}")?;
        }
        if let Some(seed) = made.seed {
            writeln!(f, "  seed              {seed}")?;
        }
        for (name, value) in made.settings.as_object().into_iter().flatten() {
            let value = match value {
                Value::String(text) if text.is_empty() => continue,
                Value::String(text) => text.clone(),
                Value::Array(all) if all.is_empty() => continue,
                Value::Array(all) => all.iter().map(adapter).collect::<Vec<_>>().join(", "),
                other => other.to_string(),
            };
            writeln!(f, "  {:17} {value}", name.replace('_', " "))?;
        }
        writeln!(f, "make it again with")?;
        writeln!(f, "  understudy generate {} --out again{end}", shell(&made.arguments))
    }
}

/// An adapter with its weight, as the command line takes it.
fn adapter(own: &Value) -> String {
    let text = |name: &str| own[name].as_str().unwrap_or_default().to_owned();
    format!("{}:{} (sha256 {:.10})", text("path"), own["weight"], text("sha256"))
}
