//! The methods, one folder each.

pub(crate) mod lora;
pub(crate) mod set_and_sequence;
pub(crate) mod v_warper;

pub use lora::Lora;
pub use set_and_sequence::SetAndSequence;
pub use v_warper::VWarper;
