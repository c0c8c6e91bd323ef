//! Repositories of weights, fetched once and used offline.
//!
//! A [`Hub`] is a server with Hugging Face's interface and a cache in the layout that `huggingface_hub` has,
//! so what one of them has fetched the other finds: `models--ORG--NAME/` with `blobs/` (files by their hash),
//! `snapshots/` (a folder a commit, links into the blobs) and `refs/` (the commit a branch stood at). A file
//! gets its place only when its hash is right; what was interrupted goes on where it stopped.

mod cache;
mod checksum;
mod error;
mod hub;
mod listing;
mod repository;

pub use cache::Cache;
pub use error::{Error, Result};
pub use hub::{Fetch, Hub};
pub use repository::Repository;
