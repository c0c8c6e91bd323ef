//! What the judges say, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use understudy_evaluate::{Interval, bootstrap};

/// The judges' scores of one video.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Scores {
    /// Mean cosine of identity embeddings to the subject's pictures.
    pub identity: f64,
    /// Cosine of the CLIP embeddings of video and prompt.
    pub text: f64,
}

/// What a video was asked to show.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shown {
    /// The prompt; `{}` is the subject.
    pub prompt: String,
    /// The seed.
    pub seed: u64,
}

/// Everything that was measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Results {
    class: String,
    seconds: f32,
    /// Means and their 95 % bootstrap intervals.
    identity_before: Interval,
    identity_after: Interval,
    text_before: Interval,
    text_after: Interval,
    /// One row a prompt and seed.
    pub rows: Vec<Row>,
}

/// One prompt and seed, before and after.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What it shows.
    #[serde(flatten)]
    pub shown: Shown,
    /// Without the adapter.
    pub before: Scores,
    /// With it.
    pub after: Scores,
}

const CONFIDENCE: f64 = 0.95;

impl Results {
    /// Of scores in the order of `shown`.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(
        class: &str,
        shown: Vec<Shown>,
        before: Vec<Scores>,
        after: Vec<Scores>,
        elapsed: Duration,
    ) -> Result<Self> {
        let mean = |scores: &[Scores], value: fn(&Scores) -> f64| {
            bootstrap(&scores.iter().map(value).collect::<Vec<_>>(), CONFIDENCE, 0)
        };
        let (identity, text) = (|scores: &Scores| scores.identity, |scores: &Scores| scores.text);
        Ok(Self {
            class: class.to_owned(),
            seconds: elapsed.as_secs_f32(),
            identity_before: mean(&before, identity)?,
            identity_after: mean(&after, identity)?,
            text_before: mean(&before, text)?,
            text_after: mean(&after, text)?,
            rows: shown
                .into_iter()
                .zip(before.into_iter().zip(after))
                .map(|(shown, (before, after))| Row { shown, before, after })
                .collect(),
        })
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let prompt = |row: &Row| row.shown.prompt.replace("{}", &self.class);
        let width =
            self.rows.iter().map(|row| prompt(row).len()).max().unwrap_or(0).max("95 % interval".len());
        writeln!(f, "{:width$}  seed   identity           text", "")?;
        writeln!(f, "{:width$}         before   after   before   after", "prompt")?;
        for row in &self.rows {
            let Row { shown, before, after } = row;
            writeln!(
                f,
                "{:width$}  {:>4}   {:>6.3}  {:>6.3}   {:>6.3}  {:>6.3}",
                prompt(row),
                shown.seed,
                before.identity,
                after.identity,
                before.text,
                after.text
            )?;
        }
        writeln!(
            f,
            "{:width$}         {:>6.3}  {:>6.3}   {:>6.3}  {:>6.3}",
            "mean",
            self.identity_before.mean,
            self.identity_after.mean,
            self.text_before.mean,
            self.text_after.mean
        )?;
        let interval = |interval: &Interval| format!("{:.2} to {:.2}", interval.low, interval.high);
        writeln!(
            f,
            "identity, 95 %: before {}, after {}; all of it took {:.0} s",
            interval(&self.identity_before),
            interval(&self.identity_after),
            self.seconds
        )
    }
}
