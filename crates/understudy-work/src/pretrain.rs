//! Training the embedded base and its judges.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use understudy_train::pretrain::Recipe;

use crate::context::Context;
use crate::event::Event;
use crate::named::Named;
use crate::outputs::reserve_folder;

/// Train the embedded base or one of its judges on the puppet world.
#[derive(Debug, Args)]
pub struct Pretrain {
    /// The recipe, a TOML file. It also says the precision.
    recipe: PathBuf,
    /// The folder for the state, the log and samples. A run found there goes on where it stopped.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Train this many steps instead of the recipe's.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
}

impl Named for Pretrain {
    const NAME: &'static str = "pretrain";
}

impl Pretrain {
    /// Trains to the recipe's last step.
    ///
    /// # Errors
    /// When the recipe is faulty, or the state cannot be read or written; when it is stopped.
    pub fn run(self, context: &Context) -> Result<()> {
        let _precision = context.precision();
        let mut emit = |event: &understudy_train::Event| {
            context.tell(&Event::Training(event.clone()));
            context.flow()
        };
        let recipe = Recipe::read(&self.recipe)?;
        let recipe = match self.steps {
            Some(steps) => recipe.with_steps(steps),
            None => recipe,
        };
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot create {}", self.out.display()))?;
        let _reserved = reserve_folder("--out", &self.out)?;
        recipe
            .run(&self.out, &context.device, &mut emit)
            .with_context(|| format!("{}", self.recipe.display()))?;
        if context.stop.is_asked() {
            bail!(
                "stopped on request; the state is in {}: run the same command again to go on",
                self.out.display()
            );
        }
        Ok(())
    }
}
