//! Text as programs write it, with a byte order mark or without.

pub use understudy_files::decoded;
