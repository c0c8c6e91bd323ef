//! The families, one folder each.

pub mod animatediff;
pub mod wan;
