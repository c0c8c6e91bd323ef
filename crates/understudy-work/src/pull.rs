//! A repository of weights, fetched once.

use anyhow::Result;
use clap::Args;
use understudy_hub::{Cache, Fetch, Hub, Repository};

use crate::context::Context;
use crate::event::Event;
use crate::named::Named;
use crate::said::text;

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
}

impl Named for Pull {
    const NAME: &'static str = "pull";
}

impl Pull {
    /// Fetches the repository.
    ///
    /// # Errors
    /// When the server does not give it, or it cannot be written.
    pub fn run(self, context: &Context) -> Result<()> {
        const MEGABYTE: u64 = 1_000_000;
        let hub = Hub::new(self.endpoint.as_deref(), Cache::usual());
        let mut shown = None;
        let folder = hub.pull(&self.repository, &self.revision, &self.files, &mut |fetch: Fetch| {
            let at = (fetch.file.to_owned(), fetch.done / MEGABYTE);
            if shown.as_ref() != Some(&at) {
                let Fetch { file, done, total } = fetch;
                context.tell(&Event::Fetch { file: file.to_owned(), done, total });
                shown = Some(at);
            }
            context.flow()
        })?;
        let base = match self.revision.as_str() {
            "main" => self.repository.to_string(),
            revision => format!("{}@{revision}", self.repository),
        };
        context.tell(&Event::Pulled { path: text(&folder), repository: self.repository.to_string(), base });
        Ok(())
    }
}
