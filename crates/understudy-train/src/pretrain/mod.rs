//! The recipes that train `nano` and its judges on the puppet world.

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
mod masks;
mod posture;
mod reader;
mod recipe;
mod records;
mod vocabulary;

pub use autoencoder::{Autoencoder, AutoencoderRecipe, Phase, measure_latents};
pub use clips::{ClipBatch, Clips};
pub use contrast::{Contrast, ContrastRecipe};
pub use denoiser::{Denoiser, DenoiserRecipe};
pub use grid::frames_grid;
pub use identity::{IdentityEncoder, IdentityRecipe, Strangers, picture, verification_accuracy};
pub use latents::LatentCache;
pub use markings::{MarkingsReader, MarkingsRecipe};
pub use posture::{PostureReader, PostureRecipe};
pub use recipe::Recipe;
pub use vocabulary::{tokenizer, vocabulary_size};
