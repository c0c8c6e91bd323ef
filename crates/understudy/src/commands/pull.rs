//! `understudy pull`: a repository of weights, fetched once.

use anyhow::Result;
use clap::Args;
use serde_json::json;
use understudy_hub::{Cache, Fetch, Hub, Repository};

use crate::interrupt;
use crate::progress::Progress;
use crate::report;

/// Fetch a repository of weights into the Hugging Face cache; afterwards `--base REPOSITORY` works offline.
#[derive(Debug, Args)]
pub struct Pull {
    /// The repository: ORGANIZATION/NAME, e.g. Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
    repository: Repository,
    /// A branch or a commit.
    #[arg(long, default_value = "main", value_name = "NAME")]
    revision: String,
    /// Fetch only files that match: `transformer/*`, `*.json`. Can be given several times.
    #[arg(long = "file", value_name = "PATTERN")]
    files: Vec<String>,
    /// The server [HF_ENDPOINT, or Hugging Face's own].
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Print events as JSON lines on stdout.
    #[arg(long)]
    json: bool,
}

impl Pull {
    /// Fetches the repository.
    pub fn run(self) -> Result<()> {
        const MEGABYTE: u64 = 1_000_000;
        let mut progress = Progress::new(self.json);
        let hub = Hub::new(self.endpoint.as_deref(), Cache::usual());
        let mut shown = None;
        let folder = hub.pull(&self.repository, &self.revision, &self.files, &mut |fetch: Fetch| {
            let at = (fetch.file.to_owned(), fetch.done / MEGABYTE);
            if shown.as_ref() != Some(&at) {
                let Fetch { file, done, total } = fetch;
                progress.event(&json!({"event": "fetch", "file": file, "done": done, "total": total}));
                progress.step("MB", at.1, total.div_ceil(MEGABYTE), file);
                shown = Some(at);
            }
            interrupt::flow()
        })?;
        progress.clear();
        progress.event(&json!({"event": "done", "path": report::text(&folder)}));
        let base = match self.revision.as_str() {
            "main" => self.repository.to_string(),
            revision => format!("{}@{revision}", self.repository),
        };
        progress.say(&format!(
            "{} is in {}; use it with: understudy generate --base {base} --prompt \"...\" --out video.mp4",
            self.repository,
            folder.display()
        ));
        Ok(())
    }
}
