//! FVD: how far the clips of one set are from those of another, as sets.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::evaluation::Row;
use crate::features::VideoEmbedder;
use crate::frechet::frechet_distance_with;

/// As the command line names it.
pub const FVD: &str = "fvd";
/// With fewer clips than this on a side a distance says more of their number than of the clips.
const COMPARABLE: usize = 256;

/// The Frechet distance of the features of two sets of clips (Unterthiner et al. 2018).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fvd {
    /// What it is called after its features, e.g. `fvd-styleganv-16f`.
    pub name: String,
    /// The distance; the smaller, the more alike.
    pub distance: f64,
    /// Clips that were compared.
    pub videos: usize,
    /// Clips they were compared with.
    pub references: usize,
}

impl Fvd {
    /// The distance of `videos` from `references`, of which those count that have features of `network`.
    ///
    /// # Errors
    /// When a set has fewer than two.
    pub fn of(videos: &[Row], references: &[Row], network: &dyn VideoEmbedder) -> Result<Self> {
        let features = |rows: &[Row]| -> Vec<Vec<f32>> {
            rows.iter().filter(|row| !row.features.is_empty()).map(|row| row.features.clone()).collect()
        };
        let (own, others) = (features(videos), features(references));
        Ok(Self {
            name: network.name(),
            distance: frechet_distance_with(&own, &others, network.covariance())?,
            videos: own.len(),
            references: others.len(),
        })
    }

    /// Whether there are enough clips for it to stand beside other figures.
    pub fn is_comparable(&self) -> bool {
        self.videos.min(self.references) >= COMPARABLE
    }
}

impl fmt::Display for Fvd {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{:.4} ({} videos, {} references", self.distance, self.videos, self.references)?;
        if self.is_comparable() {
            f.write_str(")")
        } else {
            write!(f, "; not comparable with other figures: {COMPARABLE} of each are needed)")
        }
    }
}
