//! What the methods of adapters add to a generation.

use std::sync::Arc;

use anyhow::{Result, bail};
use toml::Table;
use understudy_personalize::{Adapter, Applied, METHODS, Method};
use understudy_pipeline::{Base, Request};

use super::warping::Warping;

/// An adapter that its method does more with than attach residuals, and what the method is told.
pub struct Using<'a> {
    adapter: &'a Adapter,
    method: &'static dyn Method,
    with: Table,
}

/// The adapters whose methods are known.
///
/// # Errors
/// When two want what there can be one of.
pub fn using<'a>(adapters: &'a [(Adapter, f32)], warping: &Warping) -> Result<Vec<Using<'a>>> {
    let settings = warping.settings();
    let mut all = Vec::new();
    for (adapter, _) in adapters {
        let Some(method) = METHODS.iter().find(|method| method.name() == adapter.metadata.method) else {
            continue;
        };
        let with = if adapter.references.is_empty() { Table::new() } else { Table::try_from(&settings)? };
        all.push(Using { adapter, method: *method, with });
    }
    let warped = all.iter().filter(|own| !own.adapter.references.is_empty()).count();
    if warped > 1 && !settings.off {
        bail!("two adapters have pictures to warp, and one subject can be warped at a time; add --no-warp");
    }
    Ok(all)
}

impl Using<'_> {
    /// How many times as long a step takes with it.
    pub fn slowdown(&self, frames: usize, passes: usize) -> f32 {
        self.method.slowdown(self.adapter, &self.with, frames, passes)
    }

    /// That it goes with all that is asked for.
    ///
    /// # Errors
    /// When it does not.
    pub fn check(&self, base: &Base, request: &Request) -> Result<()> {
        Ok(self.method.check_use(self.adapter, &self.with, base, request)?)
    }

    /// Adds what it needs to `request`.
    ///
    /// # Errors
    /// When it cannot.
    pub fn apply(&self, base: &Base, request: &mut Request) -> Result<Option<Arc<dyn Applied>>> {
        Ok(self.method.apply(self.adapter, &self.with, base, request)?)
    }
}
