//! What the judges say of the demo, as a table and as JSON.

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
    /// How much the character moves, from frame to frame.
    pub motion: f64,
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
    motion_before: Interval,
    motion_after: Interval,
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
        let motion = |scores: &Scores| scores.motion;
        Ok(Self {
            class: class.to_owned(),
            seconds: elapsed.as_secs_f32(),
            identity_before: mean(&before, identity)?,
            identity_after: mean(&after, identity)?,
            text_before: mean(&before, text)?,
            text_after: mean(&after, text)?,
            motion_before: mean(&before, motion)?,
            motion_after: mean(&after, motion)?,
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
        let length = |row: &Row| row.shown.prompt.replace("{}", &self.class).len();
        let width = self.rows.iter().map(length).max().unwrap_or(0).max("95 % interval".len());
        writeln!(f, "{:width$}  seed   identity           text             motion", "")?;
        writeln!(f, "{:width$}         before   after   before   after   before   after", "prompt")?;
        let pairs = |own: [f64; 6]| -> String {
            own.chunks(2).map(|pair| format!("   {:>6.3}  {:>6.3}", pair[0], pair[1])).collect()
        };
        for Row { shown, before: one, after: two } in &self.rows {
            let own = [one.identity, two.identity, one.text, two.text, one.motion, two.motion];
            let prompt = shown.prompt.replace("{}", &self.class);
            writeln!(f, "{prompt:width$}  {:>4}{}", shown.seed, pairs(own))?;
        }
        let Self { identity_before, identity_after, text_before, text_after, .. } = self;
        let means = [
            identity_before,
            identity_after,
            text_before,
            text_after,
            &self.motion_before,
            &self.motion_after,
        ];
        writeln!(f, "{:width$}      {}", "mean", pairs(means.map(|own| own.mean)))?;
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
