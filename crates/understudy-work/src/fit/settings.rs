//! The settings of a method: a preset, a file over it, flags over both.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use clap::Args;
use toml::{Table, Value};
use understudy_media::Text;
use understudy_personalize::{Method, Preset};
use understudy_pipeline::Description;

use crate::outputs::Input;
use crate::usage::WrongUsage;

/// The table of a motion that is learned apart.
pub const MOTION: &str = "motion";

/// Flags of the methods; `--print-config` shows what they come to.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Settings (--print-config shows what they come to)")]
pub struct Settings {
    /// Settings to start from: small, those of nano, or full, those of the published sizes [the base's].
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,
    /// Settings to put over the preset's; flags win over both.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// Height of training, pixels.
    #[arg(long, value_name = "N", requires = "width")]
    height: Option<i64>,
    /// Width of training, pixels.
    #[arg(long, value_name = "N", requires = "height")]
    width: Option<i64>,
    /// Rank of the residuals.
    #[arg(long, value_name = "N")]
    rank: Option<i64>,
    /// Scale of the residuals, times the rank [as the rank, where only that is given].
    #[arg(long, value_name = "X")]
    alpha: Option<f64>,
    /// The linear maps that are adapted: attn, attn-ffn, self-attn, temporal, or sites like
    /// attn1.to_q,ffn.net.2.
    #[arg(long, value_name = "NAMES")]
    targets: Option<String>,
    /// Steps of the residuals.
    #[arg(long, value_name = "N")]
    steps: Option<i64>,
    /// Steps of the token before them.
    #[arg(long, value_name = "N")]
    token_steps: Option<i64>,
    /// Steps of the motion, of set-and-sequence.
    #[arg(long, value_name = "N")]
    motion_steps: Option<i64>,
    /// The word that will stand for the motion in prompts, of set-and-sequence [<m>].
    #[arg(long, value_name = "WORD")]
    motion_token: Option<String>,
    /// Learning rate of the residuals.
    #[arg(long, value_name = "X")]
    learning_rate: Option<f64>,
    /// Learning rate of the token, in units of the class noun's embedding.
    #[arg(long, value_name = "X")]
    token_learning_rate: Option<f64>,
    /// Samples a step.
    #[arg(long, value_name = "N")]
    batch: Option<i64>,
    /// Decides everything random.
    #[arg(long, value_name = "N")]
    seed: Option<i64>,
    /// Weight of prior preservation; 0 turns it off.
    #[arg(long, value_name = "X")]
    prior_weight: Option<f64>,
    /// Steps between samples; 0 makes none.
    #[arg(long, value_name = "N")]
    sample_every: Option<i64>,
    /// Any setting that --print-config shows, e.g. motion.stage.batch=2.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    sets: Vec<String>,
}

impl Settings {
    /// What is read.
    pub fn input(&self) -> Option<Input> {
        Some(Input::new("--config", self.config.as_ref()?))
    }

    /// The settings of `method`, from those that are `usual` for a base.
    ///
    /// # Errors
    /// When the file cannot be read, or a setting is unknown or out of its range.
    pub fn table(
        &self,
        usual: Preset,
        (method, about): (&dyn Method, Option<&Description>),
        (bf16_products, evaluate_every): (bool, Option<i64>),
    ) -> Result<Table> {
        let preset = self.preset.unwrap_or(usual);
        let mut table = self.config.as_deref().map(read).transpose()?.unwrap_or_default();
        let of_preset = method.settings(preset, &Table::new())?;
        let apart = of_preset.contains_key(MOTION);
        if let (false, Some(flag)) = (apart, self.motion_flag()) {
            let reason = format!("{flag}: --method {} does not learn a motion apart", method.name());
            return Err(WrongUsage(reason).into());
        }
        self.put(&mut table)?;
        if bf16_products {
            table.insert("bf16_products".into(), true.into());
        }
        if let Some(every) = evaluate_every {
            set(&mut table, "samples.evaluate_every", every.into())?;
        }
        if let Some(about) = about {
            suit(&mut table, &of_preset, about)?;
        }
        let settings = method.settings(preset, &table);
        match &self.config {
            Some(path) => settings.with_context(|| format!("{}, or a flag", path.display())),
            None => Ok(settings?),
        }
    }

    /// A flag that is given and needs a motion.
    fn motion_flag(&self) -> Option<&'static str> {
        let flags = [
            ("--motion-steps", self.motion_steps.is_some()),
            ("--motion-token", self.motion_token.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// Puts the flags over `table`.
    fn put(&self, table: &mut Table) -> Result<()> {
        let integer = |value: &Option<i64>| value.map(Value::Integer);
        let number = |value: &Option<f64>| value.map(Value::Float);
        let alpha = match (self.alpha, self.rank, table.contains_key("alpha")) {
            (None, Some(rank), false) => Some(rank as f64),
            (alpha, ..) => alpha,
        };
        let size = self.height.zip(self.width).map(|(h, w)| Value::Array(vec![h.into(), w.into()]));
        let flags = [
            ("size", size),
            ("rank", integer(&self.rank)),
            ("alpha", alpha.map(Value::Float)),
            ("targets", self.targets.clone().map(Value::String)),
            ("seed", integer(&self.seed)),
            ("lora.steps", integer(&self.steps)),
            ("token.steps", integer(&self.token_steps)),
            ("motion.stage.steps", integer(&self.motion_steps)),
            ("motion.token", self.motion_token.clone().map(Value::String)),
            ("lora.learning_rate", number(&self.learning_rate)),
            ("token.learning_rate", number(&self.token_learning_rate)),
            ("lora.batch", integer(&self.batch)),
            ("token.batch", integer(&self.batch)),
            ("prior.weight", number(&self.prior_weight)),
            ("samples.every", integer(&self.sample_every)),
        ];
        for (path, value) in flags {
            if let Some(value) = value {
                set(table, path, value)?;
            }
        }
        for text in &self.sets {
            let wrong = || WrongUsage(format!("--set {text}: write NAME=VALUE, as in --set lora.batch=2"));
            let (path, said) = text.split_once('=').ok_or_else(wrong)?;
            // What is no number, list or the like is a text.
            let value =
                format!("value = {said}").parse::<Table>().ok().and_then(|mut own| own.remove("value"));
            set(table, path.trim(), value.unwrap_or_else(|| Value::String(said.to_owned())))?;
        }
        Ok(())
    }
}

/// Frames of what is learned, made and shown.
const FRAMES: [&str; 4] = ["clip_frames", "augmentation.held_frames", "prior.frames", "samples.frames"];

/// Puts in `table`, where it says nothing of them, the size that is usual for a base, and so many frames as
/// it has positions for.
fn suit(table: &mut Table, preset: &Table, about: &Description) -> Result<()> {
    let [frames, height, width] = about.usual.size.map(|extent| extent as i64);
    if !about.usual.small && !table.contains_key("size") {
        table.insert("size".into(), Value::Array(vec![height.into(), width.into()]));
    }
    let [most, ..] = about.geometry.largest();
    for path in FRAMES {
        let stated = get(preset, path).and_then(Value::as_integer);
        if get(table, path).is_none() && stated.is_some_and(|stated| stated > most as i64) {
            set(table, path, frames.min(most as i64).into())?;
        }
    }
    Ok(())
}

/// What stands at `name`, or `group.name`, however deep.
fn get<'a>(table: &'a Table, path: &str) -> Option<&'a Value> {
    match path.split_once('.') {
        None => table.get(path),
        Some((group, rest)) => get(table.get(group)?.as_table()?, rest),
    }
}

/// Sets `name`, or `group.name`, however deep.
fn set(table: &mut Table, path: &str, value: Value) -> Result<()> {
    let Some((group, rest)) = path.split_once('.') else {
        table.insert(path.to_owned(), value);
        return Ok(());
    };
    match table.entry(group).or_insert_with(|| Value::Table(Table::new())) {
        Value::Table(group) => set(group, rest, value),
        _ => bail!("{group} is not a table; write its settings below [{group}]"),
    }
}

fn read(path: &Path) -> Result<Table> {
    let text = Text::read(path)
        .with_context(|| format!("--config {}: it cannot be read; check the path", path.display()))?
        .content;
    text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        anyhow!("--config {}: line {line}: {}; correct it", path.display(), error.message())
    })
}

#[cfg(test)]
mod tests {
    use understudy_personalize::{Basis, Learning, Lora};

    use super::*;

    fn learning(settings: &Settings) -> Result<Learning> {
        Ok(settings.table(Preset::Small, (&Lora, None), (false, None))?.try_into()?)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_preset() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        std::fs::write(&path, "rank = 8\nseed = 5\n[lora]\nsteps = 7\nbatch = 2\n").unwrap();
        let settings = Settings {
            preset: Some(Preset::Small),
            config: Some(path),
            steps: Some(9),
            learning_rate: Some(0.25),
            ..Settings::default()
        };
        let found = learning(&settings).unwrap();
        assert_eq!((found.rank, found.seed, found.lora.steps, found.lora.batch), (8, 5, 9, 2));
        assert_eq!(found.lora.learning_rate, 0.25);
        assert_eq!(found.token, Learning::small().token);
    }

    #[test]
    fn any_setting_can_be_set_and_wins() {
        let with = |text: &str| {
            learning(&Settings { sets: vec![text.into()], rank: Some(4), ..Settings::default() })
        };
        assert_eq!(with("prior.batch=3").unwrap().prior.batch, 3);
        assert_eq!(with("rank=8").unwrap().rank, 8);
        assert_eq!(with("basis=output").unwrap().basis, Basis::Output);
        assert!(format!("{:#}", with("rank").unwrap_err()).contains("NAME=VALUE"));
        assert!(format!("{:#}", with("prior.bach=3").unwrap_err()).contains("bach"));
    }

    #[test]
    fn alpha_follows_the_rank() {
        let with = |rank, alpha| {
            let found = learning(&Settings { rank, alpha, ..Settings::default() }).unwrap();
            (found.rank, found.alpha)
        };
        assert_eq!(with(Some(4), None), (4, 4.0));
        assert_eq!(with(Some(4), Some(8.0)), (4, 8.0));
        assert_eq!(with(None, None).1, Learning::small().alpha);
    }

    #[test]
    fn out_of_range_settings_are_named() {
        let settings = Settings { rank: Some(0), ..Settings::default() };
        let message = format!("{:#}", learning(&settings).unwrap_err());
        assert!(message.contains("rank") && !message.contains('\n'), "{message}");
    }
}
