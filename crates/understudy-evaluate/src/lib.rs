//! The judge: how well generated clips follow their prompts and keep their subject.
//!
//! [`Judges`] embeds frames and prompts; the scores are plain functions of embeddings. Frames are judged as
//! they are shown: as 8-bit pictures, cropped and resized to the side a judge was trained on.
//!
//! - text score: cosine of a clip's and its prompt's CLIP embedding (CLIPScore, Hessel et al. 2021,
//!   unscaled);
//! - identity similarity: mean cosine of identity embeddings over all pairs of frame and reference;
//! - [`retrieval_accuracy`]: how often a clip finds its own prompt among all of them (R-precision);
//! - [`frechet_distance`]: between the features of two sets of clips (Heusel et al. 2017), which is FVD with
//!   those of [`I3dJudge`];
//! - [`FacePolicy`]: how the faces of a video, found and turned upright, become one similarity;
//! - [`Benchmark`]: MSRVTT-Personalization's scores;
//! - [`bootstrap`]: the interval a mean lies in.
//!
//! [`Evaluation`] scores folders of videos by [`Metric`]s, with published networks or the embedded ones, and
//! [`Table`] holds what comes of it. Who finds faces and subjects is behind [`FaceDetector`] and
//! [`Segmenter`]: files beside the videos, or any [`Network`], of which ONNX files are one where the feature
//! `onnx` is on.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod annotations;
mod detect;
mod error;
mod evaluation;
mod faces;
mod features;
mod flow;
mod frechet;
mod fvd;
mod grounded;
mod identity;
mod input;
mod judges;
mod markings;
mod metrics;
mod motion;
mod msrvtt;
mod networks;
#[cfg(feature = "onnx")]
mod onnx;
mod page;
mod preprocess;
mod report;
mod retrieval;
mod scrfd;
mod smoothness;
mod statistics;
mod subjects;
mod suite;
mod table;
mod videos;
mod yolo;

pub use annotations::{Annotations, Mode, Sample};
pub use detect::{Array, Network, Values};
pub use error::{Error, Result};
pub use evaluation::{Evaluation, Networks, Row};
pub use faces::{Face, FaceDetector, FaceFinder, similarity};
pub use features::{I3dJudge, VideoEmbedder};
pub use flow::{FlowJudge, moves};
pub use frechet::{Covariance, frechet_distance, frechet_distance_with};
pub use fvd::{FVD, Fvd};
pub use grounded::GroundedSam;
pub use identity::{FacePolicy, Faces};
pub use judges::Judges;
pub use markings::{MarkingsJudge, TrueMarkings, true_markings};
pub use metrics::{
    Metric, Needs, consecutive_cosine, consistency, mean_cosine, mean_squared_error, temporal_flickering,
};
pub use motion::{MotionJudge, TrueMotion};
pub use msrvtt::Benchmark;
pub use networks::{ClipJudge, DinoJudge, Embedder, IdentityJudge};
#[cfg(feature = "onnx")]
pub use onnx::Onnx;
pub use page::{Strip, suite_page};
pub use preprocess::Preprocess;
pub use report::{About, Scored, html};
pub use retrieval::{cosine, retrieval_accuracy};
pub use scrfd::Scrfd;
pub use smoothness::SmoothnessJudge;
pub use statistics::{Interval, bootstrap};
pub use subjects::{Segment, Segmenter, SubjectFinder};
pub use suite::{Claim, Learns, Method, PromptGroup, Sign, Subjects, Suite, Verdict, filled};
pub use table::{Table, Unfinished};
pub use videos::{Clip, References};
pub use yolo::Yolo;
