//! Suites: methods, subjects, prompts and seeds in a file, what is measured of them, and what is claimed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use understudy_engine::random::Random;

use crate::metrics::Metric;

/// A suite as its file states it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// What it is about.
    pub title: String,
    /// Arguments of every `fit`.
    #[serde(default)]
    pub fit: String,
    /// Arguments of every `generate`.
    #[serde(default)]
    pub generate: String,
    /// The first seed of each round of videos.
    pub seeds: Vec<u64>,
    /// Who is fitted.
    pub subjects: Subjects,
    /// What is asked for, in groups.
    pub prompts: Vec<PromptGroup>,
    /// Who is compared.
    pub methods: Vec<Method>,
    /// What should come of it.
    #[serde(default)]
    pub claims: Vec<Claim>,
    /// What is less in a short run.
    #[serde(default)]
    pub short: Short,
}

/// Who is fitted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub enum Subjects {
    /// A folder of folders, each a subject with `class.txt`, `pictures/` or `clip.mp4` or both, and what its
    /// prompts say of it in `words.toml`.
    Folder(String),
    /// Held-out characters of the puppet world with motions of their own.
    Puppets {
        /// The index of the first.
        first: u64,
        /// How many.
        count: u64,
    },
}

/// Prompts of one kind.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptGroup {
    /// Its name.
    pub name: String,
    /// What its videos are scored by.
    pub metrics: Vec<String>,
    /// The prompts: `{}` is the subject, other names in braces are words of the subject or the method.
    pub texts: Vec<String>,
}

/// A way to make the videos.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// Arguments of its `fit`; without them, and without `like`, it is the base alone.
    pub fit: Option<String>,
    /// The method whose adapters it uses.
    pub like: Option<String>,
    /// Arguments of its `fit` in a short run, over all others.
    #[serde(default)]
    pub short: String,
    /// Whether it learns from the subject's `pictures` or its `clip`.
    #[serde(default)]
    pub learns: Learns,
    /// Arguments of its `generate`.
    #[serde(default)]
    pub generate: String,
    /// Words of its prompts, in place of the subject's own.
    #[serde(default)]
    pub words: BTreeMap<String, String>,
    /// The groups of prompts it makes videos of; all if it names none.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// What a method learns from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Learns {
    /// The pictures.
    #[default]
    Pictures,
    /// The clip.
    Clip,
}

/// An inequality between two methods: `left sign factor * right + offset`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// In words.
    pub says: String,
    /// The group of prompts it is about.
    pub group: String,
    /// What it compares.
    pub metric: String,
    /// The method it is about.
    pub left: String,
    /// Whether that is above or below.
    pub sign: Sign,
    /// The method it is compared with.
    pub right: String,
    /// Multiplies the right side.
    #[serde(default = "one")]
    pub factor: f64,
    /// Is added to the right side.
    #[serde(default)]
    pub offset: f64,
}

/// The direction of an inequality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Sign {
    /// The left side is larger.
    #[serde(rename = ">")]
    Above,
    /// The left side is smaller.
    #[serde(rename = "<")]
    Below,
}

/// How much of a suite a short run does, and what it adds to the arguments.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Short {
    /// Subjects at most.
    pub subjects: usize,
    /// Prompts of each group at most.
    pub prompts: usize,
    /// Seeds at most.
    pub seeds: usize,
    /// Arguments of every `fit`, over all others.
    pub fit: String,
    /// Arguments of every `generate`, over all others.
    pub generate: String,
}

impl Default for Short {
    fn default() -> Self {
        Self { subjects: 1, prompts: 1, seeds: 1, fit: String::new(), generate: String::new() }
    }
}

fn one() -> f64 {
    1.0
}

impl Suite {
    /// Reads a suite from TOML.
    ///
    /// # Errors
    /// What is wrong with it, in one line: an unknown entry, a name that nothing has, two of one name, or
    /// nothing to do.
    pub fn parse(text: &str) -> Result<Self, String> {
        let suite: Self = toml::from_str(text).map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            format!("line {line}: {}", error.message().split_whitespace().collect::<Vec<_>>().join(" "))
        })?;
        suite.check()?;
        Ok(suite)
    }

    fn check(&self) -> Result<(), String> {
        let groups: Vec<&str> = self.prompts.iter().map(|group| group.name.as_str()).collect();
        let methods: Vec<&str> = self.methods.iter().map(|method| method.name.as_str()).collect();
        distinct("prompts", &groups)?;
        distinct("methods", &methods)?;
        if self.seeds.is_empty() || self.prompts.iter().any(|group| group.texts.is_empty()) {
            return Err("seeds and the texts of every group of prompts must not be empty".to_owned());
        }
        for group in &self.prompts {
            group.metrics()?;
        }
        for method in &self.methods {
            let own = |other: &&Method| Some(&other.name) == method.like.as_ref() && other.fit.is_some();
            if method.like.is_some() && !self.methods.iter().any(|other| own(&other)) {
                return Err(format!("method {:?}: like names no method that is fitted", method.name));
            }
            for group in &method.groups {
                known(&format!("method {:?}", method.name), group, &groups)?;
            }
        }
        for claim in &self.claims {
            let what = format!("claim {:?}", claim.says);
            known(&what, &claim.group, &groups)?;
            known(&what, &claim.left, &methods)?;
            known(&what, &claim.right, &methods)?;
            let metric: Metric = claim.metric.parse().map_err(|error: crate::Error| error.to_string())?;
            let group = self.prompts.iter().find(|group| group.name == claim.group);
            if !group.is_some_and(|group| group.metrics().is_ok_and(|all| all.contains(&metric))) {
                return Err(format!("{what}: its group is not scored by {metric}"));
            }
        }
        Ok(())
    }

    /// The part of it that a short run does.
    pub fn shortened(mut self) -> Self {
        let Short { subjects, prompts, seeds, fit, generate } = self.short.clone();
        self.seeds.truncate(seeds.max(1));
        self.prompts.iter_mut().for_each(|group| group.texts.truncate(prompts.max(1)));
        if let Subjects::Puppets { count, .. } = &mut self.subjects {
            *count = (*count).min(subjects as u64);
        }
        for method in &mut self.methods {
            if let Some(own) = &mut method.fit {
                *own = format!("{own} {fit} {}", method.short);
            }
            method.generate = format!("{} {generate}", method.generate);
        }
        self
    }
}

impl PromptGroup {
    /// What its videos are scored by.
    ///
    /// # Errors
    /// Names a metric that does not exist.
    pub fn metrics(&self) -> Result<Vec<Metric>, String> {
        self.metrics
            .iter()
            .map(|name| name.parse().map_err(|error: crate::Error| error.to_string()))
            .collect()
    }
}

impl Method {
    /// Whether it makes videos of `group`.
    pub fn makes(&self, group: &str) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|own| own == group)
    }
}

fn distinct(what: &str, names: &[&str]) -> Result<(), String> {
    for (index, name) in names.iter().enumerate() {
        let fine = |c: char| c.is_alphanumeric() || " _.+".contains(c);
        if name.is_empty() || !name.chars().all(fine) {
            return Err(format!(
                "{what}: the name {name:?} may have letters, digits, spaces, and _ . + alone"
            ));
        }
        if names[..index].contains(name) {
            return Err(format!("{what}: {name:?} stands twice"));
        }
    }
    if names.is_empty() { Err(format!("{what}: there are none")) } else { Ok(()) }
}

fn known(what: &str, name: &str, names: &[&str]) -> Result<(), String> {
    if names.contains(&name) {
        Ok(())
    } else {
        Err(format!("{what}: {name:?} is not known; there are {}", names.join(", ")))
    }
}

/// `text` with every `{name}` replaced by what `words` say.
///
/// # Errors
/// Names a word there is not.
pub fn filled(text: &str, words: &BTreeMap<String, String>) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) =
            after.split_once('}').ok_or_else(|| format!("{text:?}: a brace is not closed"))?;
        let word = words.get(name).ok_or_else(|| format!("{text:?}: nothing says what {{{name}}} is"))?;
        out.push_str(before);
        out.push_str(word);
        rest = after;
    }
    out.push_str(rest);
    Ok(out.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// What was measured of a claim: the difference of its sides, positive where it holds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// The mean of the left side.
    pub left: f64,
    /// The mean of the right method, before factor and offset.
    pub right: f64,
    /// By how much it holds, on average.
    pub margin: f64,
    /// The standard error of that, over subjects.
    pub error: f64,
    /// The 95 % interval of the margin.
    pub interval: [f64; 2],
    /// Pairs of videos.
    pub pairs: usize,
}

impl Verdict {
    /// Whether it holds with 95 % confidence.
    pub fn holds(&self) -> bool {
        self.interval[0] > 0.0 && self.errors().is_some()
    }

    /// Standard errors that the margin is from zero; `None` where nothing is spread, as of a single pair.
    pub fn errors(&self) -> Option<f64> {
        (self.error > 1e-9 * self.margin.abs()).then(|| self.margin / self.error)
    }
}

impl Claim {
    /// What the scores of the same videos by both methods say of it; the first entry of each is whose subject
    /// it is. The spread is that of a bootstrap which draws subjects, and of each as many of its videos:
    /// videos of one subject are alike. `None` without pairs.
    pub fn verdict(&self, pairs: &[(usize, f64, f64)]) -> Option<Verdict> {
        let sign = if self.sign == Sign::Above { 1.0 } else { -1.0 };
        let mut subjects: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for (subject, left, right) in pairs {
            let margin = sign * (left - (self.factor * right + self.offset));
            subjects.entry(*subject).or_default().push(margin);
        }
        let subjects: Vec<Vec<f64>> = subjects.into_values().collect();
        let mean = |values: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
            (count > 0).then(|| sum / f64::from(count))
        };
        let margin = mean(&mut subjects.iter().flatten().copied())?;
        let means = resampled(&subjects);
        let centre = mean(&mut means.iter().copied())?;
        let variance = mean(&mut means.iter().map(|value| (value - centre).powi(2)))?;
        let tail = means.len() / 40;
        Some(Verdict {
            left: mean(&mut pairs.iter().map(|pair| pair.1))?,
            right: mean(&mut pairs.iter().map(|pair| pair.2))?,
            margin,
            error: variance.sqrt(),
            interval: [means[tail], means[means.len() - 1 - tail]],
            pairs: pairs.len(),
        })
    }
}

/// Sorted means of resamples of `subjects`, and of the values of each.
fn resampled(subjects: &[Vec<f64>]) -> Vec<f64> {
    const RESAMPLES: usize = 2000;
    let mut random = Random::stream(0, "claims", 0);
    let mut draw = |count: usize| random.below(count as u64) as usize;
    let mut resample = || {
        let (mut sum, mut count) = (0.0, 0);
        for _ in 0..subjects.len() {
            let own = &subjects[draw(subjects.len())];
            for _ in 0..own.len() {
                sum += own[draw(own.len())];
                count += 1;
            }
        }
        sum / f64::from(count)
    };
    let mut means: Vec<f64> = (0..RESAMPLES).map(|_| resample()).collect();
    means.sort_by(f64::total_cmp);
    means
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUITE: &str = r#"
        title = "t"
        seeds = [0, 1]
        subjects = { puppets = { first = 3, count = 4 } }
        [[prompts]]
        name = "edits"
        metrics = ["clip-t", "identity"]
        texts = ["a {} {motion} on the beach", "a {}"]
        [[methods]]
        name = "a"
        fit = "--steps 5"
        learns = "clip"
        words = { motion = "<m>" }
        [[methods]]
        name = "b"
        like = "a"
        generate = "--motion-scale 0"
        [[claims]]
        says = "a is better"
        group = "edits"
        metric = "clip-t"
        left = "a"
        sign = ">"
        right = "b"
    "#;

    #[test]
    fn a_suite_is_read_and_its_faults_are_named() {
        let suite = Suite::parse(SUITE).unwrap();
        assert_eq!((suite.methods.len(), suite.claims[0].factor), (2, 1.0));
        assert_eq!(suite.shortened().prompts[0].texts.len(), 1);
        for (from, to, part) in [
            ("like = \"a\"", "like = \"c\"", "like"),
            ("left = \"a\"", "left = \"x\"", "a, b"),
            ("metric = \"clip-t\"", "metric = \"t-cons\"", "not scored"),
            ("\"identity\"", "\"beauty\"", "beauty"),
            ("name = \"b\"", "name = \"a\"", "twice"),
            ("seeds", "seed", "line"),
        ] {
            let message = Suite::parse(&SUITE.replacen(from, to, 1)).unwrap_err();
            assert!(message.contains(part) && !message.contains('\n'), "{message}");
        }
    }

    #[test]
    fn prompts_are_filled_with_words() {
        let words = [("", "<s> bear"), ("motion", "")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        let words = BTreeMap::from(words);
        assert_eq!(filled("a {} {motion} on the beach", &words).unwrap(), "a <s> bear on the beach");
        assert!(filled("a {place}", &words).unwrap_err().contains("{place}"));
        assert!(filled("a {", &words).is_err());
    }

    #[test]
    fn a_claim_holds_by_its_margin_over_the_spread_of_subjects() {
        let claim = Suite::parse(SUITE).unwrap().claims.remove(0);
        let pairs: Vec<(usize, f64, f64)> =
            (0..40).map(|i| (i / 5, 0.5 + 0.01 * (i % 5) as f64, 0.4 + 0.002 * (i / 5) as f64)).collect();
        let verdict = claim.verdict(&pairs).unwrap();
        assert!((verdict.margin - (0.52 - 0.407)).abs() < 1e-9 && verdict.holds(), "{verdict:?}");
        assert!(verdict.errors().unwrap() > 10.0);
        // One pair has no spread, and proves nothing.
        let single = claim.verdict(&pairs[..1]).unwrap();
        assert!(single.errors().is_none() && !single.holds(), "{single:?}");
        let below = Claim { sign: Sign::Below, factor: 0.5, ..claim.clone() };
        assert!(!below.verdict(&pairs).unwrap().holds());
        // One subject alone that differs is no evidence.
        let one: Vec<_> = (0..40).map(|i| (i / 5, if i < 5 { 1.0 } else { 0.0 }, 0.0)).collect();
        assert!(!claim.verdict(&one).unwrap().holds());
        assert_eq!(claim.verdict(&[]), None);
    }
}
