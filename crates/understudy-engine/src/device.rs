//! Naming the device to compute on.

use std::fmt;
use std::str::FromStr;

use burn::tensor::{Device, Tensor};

/// A device as the command line names it: `cpu`, `cuda:N`, `vulkan:N` or `metal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceName {
    /// The pure-Rust CPU engine with this project's kernels.
    #[default]
    Cpu,
    /// An NVIDIA GPU by index.
    Cuda(usize),
    /// A GPU through Vulkan by index.
    Vulkan(usize),
    /// An Apple GPU.
    Metal,
}

/// A device that cannot be used.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum DeviceError {
    /// The name is none of the known ones.
    #[error("unknown device {0:?}; use cpu, cuda:N, vulkan:N or metal")]
    Unknown(String),
    /// The program was built without it.
    #[error("this program was built without {0}; build it with `--features {0}` or use --device cpu")]
    NotBuilt(&'static str),
    /// A first computation on it failed.
    #[error("{name} cannot be used: {reason}; {advice}, or use --device cpu")]
    Unusable {
        /// As it is named.
        name: String,
        /// What its driver said.
        reason: String,
        /// What it needs.
        advice: &'static str,
    },
}

impl FromStr for DeviceName {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        let unknown = || DeviceError::Unknown(text.to_owned());
        let (kind, index) = text.split_once(':').map_or((text, None), |(kind, index)| (kind, Some(index)));
        let number = || index.unwrap_or("0").parse().map_err(|_| unknown());
        match kind {
            "cpu" if index.is_none() => Ok(Self::Cpu),
            "metal" if index.is_none() => Ok(Self::Metal),
            "cuda" => number().map(Self::Cuda),
            "vulkan" => number().map(Self::Vulkan),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for DeviceName {
    /// As the command line takes it.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Vulkan(index) => write!(f, "vulkan:{index}"),
            Self::Metal => f.write_str("metal"),
        }
    }
}

impl DeviceName {
    /// The device itself.
    ///
    /// # Errors
    /// When the program was built without it, or a first small computation on it fails: its driver or a
    /// library is missing.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => tried(
                &format!("cuda:{index}"),
                || Device::cuda(index),
                "it needs NVIDIA's driver, libnvrtc and CUDA's headers (CUDA_PATH names their folder)",
            ),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(DeviceError::NotBuilt("cuda")),
            #[cfg(feature = "vulkan")]
            Self::Vulkan(index) => tried(
                &format!("vulkan:{index}"),
                || Device::vulkan(burn::tensor::DeviceKind::DiscreteGpu(index)),
                "it needs a GPU with a Vulkan driver",
            ),
            #[cfg(not(feature = "vulkan"))]
            Self::Vulkan(_) => Err(DeviceError::NotBuilt("vulkan")),
            #[cfg(feature = "metal")]
            Self::Metal => tried(
                "metal",
                || Device::metal(burn::tensor::DeviceKind::DefaultDevice),
                "it needs a Mac with a GPU; without one use --device cpu",
            ),
            #[cfg(not(feature = "metal"))]
            Self::Metal => Err(DeviceError::NotBuilt("metal")),
        }
    }
}

/// The device that `open` gives, after a first small computation on it. Backends find out what is missing
/// only then, and panic.
#[cfg_attr(not(feature = "gpu"), allow(dead_code))]
fn tried(name: &str, open: impl FnOnce() -> Device, advice: &'static str) -> Result<Device, DeviceError> {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let device = open();
        Tensor::<1>::ones([8], &device).sum().into_data();
        device
    }));
    std::panic::set_hook(hook);
    found.map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("its backend failed");
        let reason = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or(text);
        DeviceError::Unusable { name: name.to_owned(), reason: reason.to_owned(), advice }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_said_in_one_line() {
        assert_eq!(tried("cpu", Device::flex, ""), Ok(Device::flex()));
        let missing = || panic!("no library of that name\nsearched here\nand there");
        let message = tried("cuda:0", missing, "it needs a driver").unwrap_err().to_string();
        let expected =
            "cuda:0 cannot be used: no library of that name; it needs a driver, or use --device cpu";
        assert_eq!(message, expected);
    }

    #[test]
    fn devices_are_named_as_on_the_command_line() {
        assert_eq!("cpu".parse(), Ok(DeviceName::Cpu));
        assert_eq!("cuda".parse(), Ok(DeviceName::Cuda(0)));
        assert_eq!("vulkan:2".parse(), Ok(DeviceName::Vulkan(2)));
        assert_eq!("metal".parse(), Ok(DeviceName::Metal));
        for wrong in ["", "gpu", "cpu:3", "metal:0", "cuda:x", "cuda:", "cuda:0:1"] {
            assert_eq!(wrong.parse::<DeviceName>(), Err(DeviceError::Unknown(wrong.to_owned())));
        }
    }
}
