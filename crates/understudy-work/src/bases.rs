//! Bases that stay loaded between tasks.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use understudy_pipeline::{Base, LoadOptions, OpenedBase};

/// A base that is kept, and what it was named by.
type Kept = Option<(String, Arc<Base>)>;

/// The base that was loaded last, where that is to be kept: a suite and a service use it again, and a command
/// gives its memory back as soon as it can.
#[derive(Debug, Default)]
pub struct Bases {
    keeps: bool,
    last: Mutex<Kept>,
}

impl Bases {
    /// From now on the last one is kept.
    pub fn keeping() -> Self {
        Self { keeps: true, last: Mutex::default() }
    }

    /// Loads what is open, or gives the one of that `name` that is kept. One whose weights are changed as
    /// they are loaded is never kept.
    ///
    /// # Errors
    /// Those of [`OpenedBase::load`].
    pub fn load(&self, name: &str, opened: OpenedBase, options: LoadOptions) -> Result<Arc<Base>> {
        let name = format!("{name} {}", options.blocks_on_host);
        let changed = !options.additions.is_empty();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, base)) = last.as_ref().filter(|(kept, _)| *kept == name && !changed) {
            return Ok(base.clone());
        }
        // The room of one is needed for the next.
        *last = None;
        let base = Arc::new(opened.load(options)?);
        if self.keeps && !changed {
            *last = Some((name, base.clone()));
        }
        Ok(base)
    }
}
