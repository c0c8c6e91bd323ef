//! The recipes that train `nano` and its judges on the puppet world.

mod alignment;
mod autoencoder;
mod check;
mod clips;
mod contrast;
mod denoiser;
mod export;
mod grid;
mod identity;
mod latents;
mod markings;
mod parts;
mod perception;
mod posture;
mod reader;
mod recipe;
mod records;
mod truth;
mod vocabulary;
mod window;

pub use alignment::AlignmentRecipe;
pub use autoencoder::{Autoencoder, AutoencoderRecipe, Difference, Phase, measure_latents};
pub use clips::{ClipBatch, Clips};
pub use contrast::{Contrast, ContrastRecipe};
pub use denoiser::{Denoiser, DenoiserRecipe};
pub use grid::frames_grid;
pub use identity::{IdentityEncoder, IdentityRecipe, Strangers, picture, verification_accuracy};
pub use latents::LatentCache;
pub use markings::{MarkingsReader, MarkingsRecipe};
pub use parts::{PartsReader, PartsRecipe};
pub use perception::PerceptionRecipe;
pub use posture::{PostureReader, PostureRecipe};
pub use recipe::Recipe;
pub use vocabulary::{tokenizer, vocabulary_size};
