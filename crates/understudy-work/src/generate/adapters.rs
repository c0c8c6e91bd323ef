//! The adapters of a generation.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};
use burn::tensor::Device;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use understudy_engine::attach::Attached;
use understudy_engine::patch::Additions;
use understudy_personalize::{Adapter, Opened, TextualInversion, Unmatched, combine, with_inversions};
use understudy_pipeline::{Description, TokenEmbeddings};

use super::made::add;
use super::words::Subject;
use crate::context::Context;
use crate::event::{AdapterUse, Event};
use crate::outputs::Input;
use crate::said::text;
use crate::usage::WrongUsage;

/// Which adapters are used, and how.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Adapters")]
pub struct Adapters {
    /// An adapter, with its weight, -100 to 100 (1 if it has none); several are added up.
    ///
    /// Of one that holds looks and motion apart, identity=X and motion=X weigh them: the motion of one on the
    /// looks of another is --adapter one.safetensors:identity=0 --adapter other.safetensors:motion=0.
    #[arg(long = "adapter", value_parser = OsStringValueParser::new().try_map(WeightedAdapter::parse), value_name = "FILE|DIR[:WEIGHT][:identity=X][:motion=X]")]
    files: Vec<WeightedAdapter>,
    /// A file of textual inversion; its word is written in prompts as the file names it, or as the file is
    /// named.
    #[arg(long = "embedding", value_name = "FILE")]
    embeddings: Vec<PathBuf>,
    /// How much the looks count of adapters that hold a motion apart, where they do not say it themselves.
    #[arg(long, value_name = "X")]
    identity_scale: Option<f32>,
    /// The same of their motion; 0 is the subject without it.
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
    /// What is read.
    pub fn inputs(&self) -> impl Iterator<Item = Input> {
        let embeddings = self.embeddings.iter().map(|path| Input::new("--embedding", path));
        self.files.iter().map(|own| Input::new("--adapter", &own.path)).chain(embeddings)
    }

    /// The adapters with their weights, found to be for such a base, which is called `name`.
    ///
    /// # Errors
    /// When a file is no adapter or for another base, or has keys that are not understood and may not be left
    /// out.
    pub fn read(&self, about: &Description, name: &str, context: &Context) -> Result<Vec<(Adapter, f32)>> {
        let identity = &about.identity;
        let unmatched = if self.allow_unmatched { Unmatched::Allow } else { Unmatched::Refuse };
        let mut adapters = Vec::new();
        for WeightedAdapter { path, weight, .. } in &self.files {
            let Opened { mut adapter, mut left_out, notes, .. } =
                Adapter::open_with(path, &context.device, unmatched)?;
            if self.allow_unmatched {
                left_out.extend(adapter.keep_fitting(about));
            }
            if !left_out.is_empty() {
                context.tell(&Event::Unmatched { path: text(path), keys: left_out });
            }
            for note in notes {
                context.note(format!("adapter {}: {note}", path.display()));
            }
            if let Some(own) = adapter.metadata.base.as_ref().filter(|own| own.identity != *identity) {
                bail!(
                    "--adapter {} was made for the base {} ({}), and --base is {name} ({identity}); use it with its own base",
                    path.display(),
                    own.name,
                    own.identity,
                );
            }
            adapter.check(about).with_context(|| format!("--adapter {}", path.display()))?;
            adapters.push((adapter, *weight));
        }
        self.weigh_parts(&mut adapters)?;
        Ok(adapters)
    }

    /// The words of textual inversion, found to be for such a base.
    ///
    /// # Errors
    /// When a file is none, or its rows have another length.
    pub fn inversions(&self, about: &Description, device: &Device) -> Result<Vec<TextualInversion>> {
        let needed = about.text_table[1];
        let read = |path: &PathBuf| {
            let own = TextualInversion::open(path, device).context("--embedding")?;
            let found = own.rows.dims()[1];
            if found != needed {
                bail!(
                    "--embedding {}: its rows have {found} channels, and this base's text encoder {needed}; use \
                     one that was made for it",
                    path.display()
                );
            }
            Ok(own)
        };
        self.embeddings.iter().map(read).collect()
    }

    /// Weighs looks and motion of the adapters that hold them apart.
    fn weigh_parts(&self, adapters: &mut [(Adapter, f32)]) -> Result<()> {
        let given = [("--identity-scale", self.identity_scale), ("--motion-scale", self.motion_scale)];
        let apart = adapters.iter().any(|(adapter, _)| !adapter.motion.is_empty());
        for (flag, scale) in given {
            let reason = match scale {
                Some(scale) if !is_weight(scale) => format!("{flag} {scale}: {RANGE}"),
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
        inversions: &[TextualInversion],
        about: &Description,
    ) -> Result<(Attached, Option<TokenEmbeddings>, Additions)> {
        let (attached, tokens) = combine(adapters, about)?;
        let tokens = with_inversions(tokens, inversions)?;
        let mut additions = Additions::default();
        for (adapter, weight) in adapters {
            additions.extend(adapter.additions(*weight, self.merge)?);
        }
        let attached = if self.merge { Attached::none() } else { attached };
        Ok((attached, tokens, additions))
    }

    /// Their files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|own| own.path.as_path())
    }

    /// The flags that name them.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = Vec::new();
        self.files.iter().for_each(|own| add(&mut arguments, "--adapter", &own.to_string()));
        for path in &self.embeddings {
            add(&mut arguments, "--embedding", &path.to_string_lossy());
        }
        for (flag, scale) in
            [("--identity-scale", self.identity_scale), ("--motion-scale", self.motion_scale)]
        {
            scale.into_iter().for_each(|scale| add(&mut arguments, flag, &scale.to_string()));
        }
        let switches = [("--merge", self.merge), ("--allow-unmatched", self.allow_unmatched)];
        arguments.extend(switches.iter().filter(|(_, on)| *on).map(|(flag, _)| (*flag).to_owned()));
        arguments
    }

    /// The words that stand for their subjects, and how much each counts.
    pub fn subjects<'a>(&self, adapters: &'a [(Adapter, f32)]) -> Vec<Subject<'a>> {
        let of = |(named, (adapter, weight)): (&WeightedAdapter, &'a (Adapter, f32))| {
            let file = named.path.display().to_string();
            let own = adapter.metadata.tokens.iter();
            own.map(move |token| Subject { token, file: file.clone(), weight: *weight }).collect::<Vec<_>>()
        };
        self.files.iter().zip(adapters).flat_map(of).collect()
    }

    /// Numbers of the base's matrices that are changed when they are loaded, after which bf16 no longer holds
    /// them.
    pub fn changed_numbers(&self, adapters: &[(Adapter, f32)]) -> u64 {
        let mut changed = BTreeMap::new();
        for (adapter, _) in adapters {
            changed.extend(adapter.changed_weights(self.merge));
        }
        changed.values().sum::<usize>() as u64
    }

    /// How each is used in videos of `prompts`.
    pub fn uses(&self, adapters: &[(Adapter, f32)], prompts: &[String]) -> Vec<AdapterUse> {
        let used = |(named, (adapter, weight)): (&WeightedAdapter, &(Adapter, f32))| AdapterUse {
            path: text(&named.path),
            weight: *weight,
            sites: adapter.metadata.sites,
            kinds: adapter.kinds(),
            tokens: adapter.metadata.tokens.clone(),
            residuals: adapter.residuals.len(),
            differences: adapter.differences.len(),
            merged: self.merge,
            unnamed: unnamed(&adapter.metadata.tokens, prompts),
        };
        self.files.iter().zip(adapters).map(used).collect()
    }
}

/// Those of `tokens` that no prompt has.
fn unnamed(tokens: &[String], prompts: &[String]) -> Vec<String> {
    let named = |token: &&String| prompts.iter().any(|prompt| prompt.contains(token.as_str()));
    tokens.iter().filter(|token| !named(token)).cloned().collect()
}

/// Of adapters with the same token, lets those have it that use what it stands for: `idle` has each one's
/// tokens of parts that do not count.
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

/// An adapter's file and how strongly it counts; and its looks and its motion, where they are weighed apart.
#[derive(Clone, Debug, PartialEq)]
struct WeightedAdapter {
    path: PathBuf,
    weight: f32,
    identity: Option<f32>,
    motion: Option<f32>,
}

/// The weights that make sense: far beyond them nothing is left of the base.
const MOST: f32 = 100.0;
const RANGE: &str = "a weight must be between -100 and 100";

fn is_weight(number: f32) -> bool {
    // Nor is it NaN.
    number.abs() <= MOST
}

impl fmt::Display for WeightedAdapter {
    /// As the command line takes it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { path, weight, identity, motion } = self;
        write!(f, "{}", path.display())?;
        // A name that looks as if it had a weight must have one.
        if *weight != 1.0 || path.to_string_lossy().contains(':') {
            write!(f, ":{weight}")?;
        }
        identity.map_or(Ok(()), |scale| write!(f, ":identity={scale}"))?;
        motion.map_or(Ok(()), |scale| write!(f, ":motion={scale}"))
    }
}

impl WeightedAdapter {
    /// What a flag names. The weights are text, whatever the name of the file is.
    fn parse(text: OsString) -> Result<Self, String> {
        let shown = text.to_string_lossy();
        let found: Self = shown.parse()?;
        let weights = shown.len() - found.path.as_os_str().len();
        Ok(Self { path: without_end(&text, weights).into(), ..found })
    }
}

/// `text` without its last bytes, which are ASCII.
#[cfg(unix)]
fn without_end(text: &OsStr, bytes: usize) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let bytes = &text.as_bytes()[..text.len() - bytes];
    OsString::from_vec(bytes.to_vec())
}

/// `text` without its last bytes, which are ASCII.
#[cfg(not(unix))]
fn without_end(text: &OsStr, bytes: usize) -> OsString {
    let shown = text.to_string_lossy();
    shown[..shown.len() - bytes].into()
}

impl FromStr for WeightedAdapter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut found = Self { path: text.into(), weight: 1.0, identity: None, motion: None };
        let mut rest = text;
        // A file may be called whatever it is called.
        while let Some((path, last)) = rest.rsplit_once(':').filter(|_| !Path::new(rest).exists()) {
            let (name, value) = last.split_once('=').unwrap_or(("", last));
            match (name, value.trim().parse::<f32>()) {
                _ if path.is_empty() => return Err(format!("{text:?} names no file; use FILE:0.8")),
                ("" | "identity" | "motion", Ok(number)) if !is_weight(number) => {
                    return Err(RANGE.to_owned());
                }
                ("", Ok(number)) => found.weight = number,
                ("identity", Ok(number)) => found.identity = Some(number),
                ("motion", Ok(number)) => found.motion = Some(number),
                // A colon may also belong to the path.
                _ if is_path(last) => break,
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

/// Whether what follows a colon is the rest of a path: of `C:\cat.safetensors`, say.
fn is_path(text: &str) -> bool {
    let named =
        Path::new(text).extension().is_some_and(|own| own.to_string_lossy().starts_with(char::is_alphabetic));
    text.contains(['/', '\\']) || named
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
        for wrong in
            ["half", "inf", "nan", "-inf", "1e9", "-101", "0x", "0x1", "0.5x", "0,5", "50%", "", "looks=1"]
        {
            let message = parse(&format!("a.safetensors:{wrong}")).unwrap_err();
            assert!(message.contains("weight"), "{wrong}: {message}");
        }
        assert!(parse(":0.5").is_err());
    }

    #[test]
    fn names_may_have_colons() {
        let parse = |text: &str| text.parse::<WeightedAdapter>().unwrap();
        let is = |text: &str, path: &str, weight: f32| {
            let found = parse(text);
            assert_eq!((found.path.to_str().unwrap(), found.weight), (path, weight), "{text}");
            // What is kept in a video is read again.
            assert_eq!(parse(&found.to_string()), found);
        };
        is("C:\\loras\\cat.safetensors:0.5", "C:\\loras\\cat.safetensors", 0.5);
        is("C:\\loras\\cat.safetensors", "C:\\loras\\cat.safetensors", 1.0);
        is("my:cat.safetensors", "my:cat.safetensors", 1.0);
        is("my:cat.safetensors:-1", "my:cat.safetensors", -1.0);
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("cat:0.5");
        std::fs::write(&odd, "").unwrap();
        let odd = odd.to_str().unwrap();
        is(odd, odd, 1.0);
        is(&format!("{odd}:2"), odd, 2.0);
    }

    #[cfg(unix)]
    #[test]
    fn names_need_not_be_unicode() {
        use std::os::unix::ffi::OsStringExt;
        let name = |end: &str| OsString::from_vec([b"caf\xe9:1.safetensors", end.as_bytes()].concat());
        let found = WeightedAdapter::parse(name(":0.5:motion=2")).unwrap();
        assert_eq!((found.path, found.weight, found.motion), (name("").into(), 0.5, Some(2.0)));
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
