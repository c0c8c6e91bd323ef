//! Naming the device to compute on.

use std::str::FromStr;

use burn::tensor::Device;

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

impl DeviceName {
    /// The device itself.
    ///
    /// # Errors
    /// When the program was built without it.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            #[cfg(feature = "cuda")]
            Self::Cuda(index) => Ok(Device::cuda(index)),
            #[cfg(not(feature = "cuda"))]
            Self::Cuda(_) => Err(DeviceError::NotBuilt("cuda")),
            #[cfg(feature = "vulkan")]
            Self::Vulkan(index) => Ok(Device::vulkan(burn::tensor::DeviceKind::DiscreteGpu(index))),
            #[cfg(not(feature = "vulkan"))]
            Self::Vulkan(_) => Err(DeviceError::NotBuilt("vulkan")),
            #[cfg(feature = "metal")]
            Self::Metal => Ok(Device::metal(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(not(feature = "metal"))]
            Self::Metal => Err(DeviceError::NotBuilt("metal")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
