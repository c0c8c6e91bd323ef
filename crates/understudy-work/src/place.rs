//! Where a task computes, and how exactly.

use anyhow::Result;
use clap::{Args, ValueEnum};
use understudy_engine::device::DeviceName;

use crate::context::Context;
use crate::named::Named;

/// Where to compute, and how exactly; what is not given is as for whatever the task is a part of.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Device and output")]
pub struct Place {
    /// Where to compute: cpu, cuda:N, vulkan:N or metal [cpu].
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<DeviceName>,
    /// Precision of matrix products; everything else is f32 [f32].
    #[arg(long, value_enum, value_name = "TYPE")]
    pub dtype: Option<Dtype>,
}

/// Precision of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Dtype {
    /// Single precision.
    F32,
    /// Operands rounded to bfloat16, sums in single precision: faster on processors that have it.
    Bf16,
}

/// A task and where to do it.
#[derive(Debug, Args)]
pub struct Placed<T: Args> {
    /// The task.
    #[command(flatten)]
    pub task: T,
    /// Where.
    #[command(flatten)]
    pub place: Place,
}

impl<T: Named> Named for Placed<T> {
    const NAME: &'static str = T::NAME;
}

impl<'a> Context<'a> {
    /// The same elsewhere, or as exactly as it says.
    ///
    /// # Errors
    /// As [`Context::open`].
    pub fn at(&self, place: Place) -> Result<Context<'a>> {
        let device = place.device.unwrap_or(self.device_name);
        self.elsewhere(device, place.dtype.map_or(self.bf16, |dtype| dtype == Dtype::Bf16))
    }
}
