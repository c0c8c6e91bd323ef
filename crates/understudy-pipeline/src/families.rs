//! The families, one folder each.

pub mod wan;
