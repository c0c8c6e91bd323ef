//! The judge: how well generated clips follow their prompts and keep their subject.
//!
//! [`Judges`] embeds frames and prompts; the scores are plain functions of embeddings. Frames are judged as they
//! are shown: as 8-bit pictures, cropped and resized to the side a judge was trained on.
//!
//! - text score: cosine of a clip's and its prompt's CLIP embedding (CLIPScore, Hessel et al. 2021, unscaled);
//! - identity similarity: mean cosine of identity embeddings over all pairs of frame and reference;
//! - [`retrieval_accuracy`]: how often a clip finds its own prompt among all of them (R-precision);
//! - [`frechet_distance`]: between the features of two sets of clips (Heusel et al. 2017);
//! - [`bootstrap`]: the interval a mean lies in.
//!
//! [`Evaluation`] scores folders of videos by [`Metric`]s, with published networks or the embedded ones, and [`Table`]
//! holds what comes of it.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod error;
mod evaluation;
mod flow;
mod frechet;
mod input;
mod judges;
mod metrics;
mod motion;
mod networks;
mod page;
mod preprocess;
mod report;
mod retrieval;
mod statistics;
mod suite;
mod table;
mod videos;

pub use error::{Error, Result};
pub use evaluation::{Evaluation, Networks, Row};
pub use flow::{FlowJudge, moves};
pub use frechet::frechet_distance;
pub use judges::Judges;
pub use metrics::{Metric, Needs, consecutive_cosine, consistency, mean_cosine, temporal_flickering};
pub use motion::{MotionJudge, TrueMotion};
pub use networks::{ClipJudge, DinoJudge, Embedder, IdentityJudge};
pub use page::{Strip, suite_page};
pub use preprocess::Preprocess;
pub use report::{Scored, html};
pub use retrieval::{cosine, retrieval_accuracy};
pub use statistics::{Interval, bootstrap};
pub use suite::{Claim, Learns, Method, PromptGroup, Sign, Subjects, Suite, Verdict, filled};
pub use table::{Table, Unfinished};
pub use videos::{Clip, References};
