//! What methods are made of. Nothing here knows a method.

pub(crate) mod data;
mod fingerprint;
pub(crate) mod judge;
mod learners;
pub mod loss;
pub(crate) mod objective;
pub(crate) mod plan;
mod prior;
pub(crate) mod residuals;
pub(crate) mod row;
pub(crate) mod rows;
pub(crate) mod run;
mod samples;
pub(crate) mod settings;
