//! Adapters on the command line.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use burn::tensor::Device;
use clap::Args;
use serde_json::{Value, json};
use understudy_engine::attach::Attachments;
use understudy_engine::patch::Additions;
use understudy_personalize::{Adapter, Unmatched, combine};
use understudy_pipeline::{BaseConfig, TokenEmbeddings};

use crate::progress::Progress;
use crate::report::WrongUsage;

/// Which adapters are used, and how.
#[derive(Clone, Debug, Args)]
pub struct Adapters {
    /// An adapter, with its weight (1 if it has none). Several are added up. Of one that holds looks and motion apart,
    /// identity=X and motion=X weigh them: the motion of one on the looks of another is
    /// --adapter one.safetensors:identity=0 --adapter other.safetensors:motion=0.
    #[arg(long = "adapter", value_name = "FILE[:WEIGHT][:identity=X][:motion=X]")]
    files: Vec<WeightedAdapter>,
    /// How much the looks count of adapters that hold a motion apart, where they do not say it themselves.
    #[arg(long, value_name = "X")]
    identity_scale: Option<f32>,
    /// How much the motion counts of adapters that hold one apart, where they do not say it themselves; 0 is the subject
    /// without it.
    #[arg(long, value_name = "X")]
    motion_scale: Option<f32>,
    /// Add the adapters to the base's weights instead of attaching them: the same result within rounding.
    #[arg(long)]
    merge: bool,
    /// Leave out what an adapter holds that is not understood or that the base has no place for.
    #[arg(long)]
    allow_unmatched: bool,
}

impl Adapters {
    /// The adapters with their weights, found to be for a base of this configuration, which is called `name`.
    ///
    /// # Errors
    /// When a file is no adapter or for another base, or has keys that are not understood and may not be left out.
    pub fn read(
        &self,
        config: &BaseConfig,
        name: &str,
        device: &Device,
        progress: &Progress,
    ) -> Result<Vec<(Adapter, f32)>> {
        let identity = config.identity();
        let unmatched = if self.allow_unmatched { Unmatched::Allow } else { Unmatched::Refuse };
        let mut adapters = Vec::new();
        for WeightedAdapter { path, weight, .. } in &self.files {
            let (mut adapter, mut left_out) = Adapter::open_with(path, device, unmatched)?;
            if self.allow_unmatched {
                left_out.extend(adapter.keep_fitting(config));
            }
            tell_left_out(path, &left_out, progress);
            if let Some(own) = adapter.metadata.base.as_ref().filter(|own| own.identity != identity) {
                bail!(
                    "--adapter {} was made for the base {} ({}), and --base is {name} ({identity}); use it with its own base",
                    path.display(),
                    own.name,
                    own.identity,
                );
            }
            adapter.check(config).with_context(|| format!("--adapter {}", path.display()))?;
            adapters.push((adapter, *weight));
        }
        self.weigh_parts(&mut adapters)?;
        Ok(adapters)
    }

    /// Weighs looks and motion of the adapters that hold them apart.
    fn weigh_parts(&self, adapters: &mut [(Adapter, f32)]) -> Result<()> {
        let given = [("--identity-scale", self.identity_scale), ("--motion-scale", self.motion_scale)];
        let apart = adapters.iter().any(|(adapter, _)| !adapter.motion.is_empty());
        for (flag, scale) in given {
            let reason = match scale {
                Some(scale) if !scale.is_finite() => format!("{flag} must be a finite number"),
                Some(_) if !apart => format!("{flag}: no adapter holds looks and motion apart"),
                _ => continue,
            };
            return Err(WrongUsage(reason).into());
        }
        let mut idle = vec![Vec::new(); adapters.len()];
        for ((named, (adapter, _)), idle) in self.files.iter().zip(adapters.iter_mut()).zip(&mut idle) {
            if adapter.motion.is_empty() {
                if named.identity.or(named.motion).is_some() {
                    let path = named.path.display();
                    let reason = format!(
                        "--adapter {path}: identity= and motion= are for adapters that hold looks and motion apart; give it one weight"
                    );
                    return Err(WrongUsage(reason).into());
                }
                continue;
            }
            let scale = |own: Option<f32>, all: Option<f32>| own.or(all).unwrap_or(1.0);
            let scales = [scale(named.identity, self.identity_scale), scale(named.motion, self.motion_scale)];
            *idle = adapter.idle_tokens(scales);
            *adapter = adapter.weighed(scales[0], scales[1]);
        }
        settle_tokens(adapters, idle);
        Ok(())
    }

    /// What is attached, the subjects' tokens, and what is added to the weights.
    ///
    /// # Errors
    /// When an adapter does not fit, two have the same token, or one cannot be merged.
    pub fn attach(
        &self,
        adapters: &[(Adapter, f32)],
        config: &BaseConfig,
    ) -> Result<(Attachments, Option<TokenEmbeddings>, Additions)> {
        let (attachments, tokens) = combine(adapters, config)?;
        let mut additions = Additions::default();
        for (adapter, weight) in adapters {
            additions.extend(adapter.additions(*weight, self.merge)?);
        }
        let attachments = if self.merge { Attachments::none() } else { attachments };
        Ok((attachments, tokens, additions))
    }

    /// What the plan says of them.
    pub fn summary(&self, adapters: &[(Adapter, f32)]) -> Vec<Value> {
        let loaded = self.files.iter().zip(adapters).map(|(named, (adapter, weight))| {
            let tokens = &adapter.metadata.tokens;
            json!({"path": named.path, "weight": weight, "sites": adapter.residuals.len(), "tokens": tokens})
        });
        loaded.collect()
    }

    /// Says how each is used, and whose token no prompt names.
    pub fn tell(&self, adapters: &[(Adapter, f32)], prompts: &[String], progress: &Progress) {
        let how = if self.merge { "merged" } else { "attached" };
        for (named, (adapter, weight)) in self.files.iter().zip(adapters) {
            let (path, sites) = (named.path.display(), adapter.residuals.len());
            let dense = match adapter.differences.len() {
                0 => String::new(),
                count => format!(" and {count} dense differences"),
            };
            progress.say(&format!("adapter {path}: {sites} residuals{dense} {how} with weight {weight}"));
            let named = |token: &&String| prompts.iter().any(|prompt| prompt.contains(token.as_str()));
            for token in adapter.metadata.tokens.iter().filter(|token| !named(token)) {
                progress.say(&format!("note: no prompt names {token}, the subject of {path}"));
            }
        }
    }
}

/// Of adapters with the same token, lets those have it that use what it stands for: `idle` has each one's tokens of parts
/// that do not count.
fn settle_tokens(adapters: &mut [(Adapter, f32)], idle: Vec<Vec<String>>) {
    for (at, mut own) in idle.into_iter().enumerate() {
        let others: Vec<&String> = adapters
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != at)
            .flat_map(|(_, (adapter, _))| &adapter.metadata.tokens)
            .collect();
        own.retain(|token| others.contains(&token));
        if !own.is_empty() {
            adapters[at].0 = adapters[at].0.without_tokens(&own);
        }
    }
}

/// Says what of an adapter is not used.
fn tell_left_out(path: &Path, left_out: &[String], progress: &Progress) {
    if left_out.is_empty() {
        return;
    }
    progress.event(&json!({"event": "unmatched", "path": path, "keys": left_out}));
    let count = left_out.len();
    progress.say(&format!(
        "note: adapter {}: {count} keys are left out: {}",
        path.display(),
        left_out.join(", ")
    ));
}

/// An adapter's file and how strongly it counts; and its looks and its motion, where they are weighed apart.
#[derive(Clone, Debug, PartialEq)]
struct WeightedAdapter {
    path: PathBuf,
    weight: f32,
    identity: Option<f32>,
    motion: Option<f32>,
}

impl FromStr for WeightedAdapter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut found = Self { path: text.into(), weight: 1.0, identity: None, motion: None };
        let mut rest = text;
        while let Some((path, last)) = rest.rsplit_once(':').filter(|(path, _)| !path.is_empty()) {
            let (name, value) = last.split_once('=').unwrap_or(("", last));
            match (name, value.parse::<f32>()) {
                ("" | "identity" | "motion", Ok(number)) if !number.is_finite() => {
                    return Err("a weight must be finite".to_owned());
                }
                ("", Ok(number)) => found.weight = number,
                ("identity", Ok(number)) => found.identity = Some(number),
                ("motion", Ok(number)) => found.motion = Some(number),
                // A colon may also belong to the path.
                _ if last.contains(['/', '\\', '.']) => break,
                _ => {
                    return Err(format!(
                        "{last:?} is not a weight; use FILE:0.8 or FILE:identity=0.8:motion=1"
                    ));
                }
            }
            rest = path;
            found.path = path.into();
            if name.is_empty() {
                // The weight comes first.
                break;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adapters_may_have_a_weight() {
        let parse = |text: &str| text.parse::<WeightedAdapter>();
        let adapter = |path: &str, weight| {
            Ok(WeightedAdapter { path: path.into(), weight, identity: None, motion: None })
        };
        assert_eq!(parse("a.safetensors"), adapter("a.safetensors", 1.0));
        assert_eq!(parse("a.safetensors:0.5"), adapter("a.safetensors", 0.5));
        assert_eq!(parse("d/a.safetensors:-1"), adapter("d/a.safetensors", -1.0));
        assert_eq!(parse("C:/a.safetensors"), adapter("C:/a.safetensors", 1.0));
        assert!(parse("a.safetensors:half").is_err());
        assert!(parse("a.safetensors:inf").is_err());
    }

    #[test]
    fn looks_and_motion_may_be_weighed_apart() {
        let parse = |text: &str| text.parse::<WeightedAdapter>();
        let found = parse("d/a.safetensors:0.5:identity=0:motion=1.5").unwrap();
        let expected = WeightedAdapter {
            path: "d/a.safetensors".into(),
            weight: 0.5,
            identity: Some(0.0),
            motion: Some(1.5),
        };
        assert_eq!(found, expected);
        let found = parse("a.safetensors:motion=0").unwrap();
        assert_eq!((found.weight, found.identity, found.motion), (1.0, None, Some(0.0)));
        assert!(parse("a.safetensors:motion=NaN").is_err());
        assert!(parse("a.safetensors:looks=1").is_err());
    }
}
