//! What a task works with: where it computes, who hears of it, and whether it is to go on.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, bail};
use burn::tensor::{Device, FloatDType};
use understudy_engine::device::DeviceName;
use understudy_engine::ops::{Products, ProductsScope};

use crate::bases::Bases;
use crate::event::Event;

/// Asks a task to end after its current step. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks for it; whether that had been asked for before.
    pub fn ask(&self) -> bool {
        self.0.swap(true, Ordering::SeqCst)
    }

    /// Whether it was asked for.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether to go on.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.is_asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// What a task works with.
pub struct Context<'a> {
    /// Where it computes, by name.
    pub device_name: DeviceName,
    /// Where it computes.
    pub device: Device,
    /// Whether operands of matrix products are rounded to bfloat16.
    pub bf16: bool,
    /// Bases that are loaded.
    pub bases: Arc<Bases>,
    /// Ends it.
    pub stop: Stop,
    tell: &'a (dyn Fn(&Event) + Sync),
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { device_name, bf16, stop, .. } = self;
        f.debug_struct("Context")
            .field("device", device_name)
            .field("bf16", bf16)
            .field("stop", stop)
            .finish_non_exhaustive()
    }
}

impl<'a> Context<'a> {
    /// On a device, with or without products in bfloat16; `tell` hears of everything that happens.
    ///
    /// # Errors
    /// When the program was built without the device, or the device does not have the precision.
    pub fn open(device_name: DeviceName, bf16: bool, tell: &'a (dyn Fn(&Event) + Sync)) -> Result<Self> {
        let device = opened(device_name, bf16)?;
        Ok(Self { device_name, device, bf16, bases: Arc::default(), stop: Stop::default(), tell })
    }

    /// The same on another device, or in another precision. Bases stay with their device.
    pub(crate) fn elsewhere(&self, device_name: DeviceName, bf16: bool) -> Result<Self> {
        let (device, bases) = if device_name == self.device_name {
            (self.device.clone(), self.bases.clone())
        } else {
            (opened(device_name, bf16)?, Arc::default())
        };
        Ok(Self { device_name, device, bf16, bases, stop: self.stop.clone(), tell: self.tell })
    }

    /// The same, where the last base stays loaded between tasks.
    pub fn keeping_bases(&self) -> Self {
        Self {
            device_name: self.device_name,
            device: self.device.clone(),
            bf16: self.bf16,
            bases: Arc::new(Bases::keeping()),
            stop: self.stop.clone(),
            tell: self.tell,
        }
    }

    /// Has the products of this thread be in the context's precision, as long as what is returned lives.
    pub fn precision(&self) -> ProductsScope {
        Products::rounded(self.bf16).scope()
    }

    /// Tells of an event.
    pub fn tell(&self, event: &Event) {
        (self.tell)(event);
    }

    /// Tells of something that is to be known.
    pub fn note(&self, message: impl Into<String>) {
        self.tell(&Event::Note { message: message.into() });
    }

    /// Whether to go on.
    pub fn flow(&self) -> ControlFlow<()> {
        self.stop.flow()
    }
}

/// The device, found to have the precision.
fn opened(device_name: DeviceName, bf16: bool) -> Result<Device> {
    let device = device_name.open()?;
    if bf16 && device_name != DeviceName::Cpu && !device.supports_dtype(FloatDType::BF16) {
        bail!("this device has no bf16; leave out --dtype bf16, or use another --device");
    }
    Ok(device)
}
