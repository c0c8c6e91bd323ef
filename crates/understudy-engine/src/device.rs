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
        let (kind, index) = text.split_once(':').unwrap_or((text, "0"));
        let index = index.parse().map_err(|_| unknown())?;
        match kind {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(index)),
            "vulkan" => Ok(Self::Vulkan(index)),
            "metal" => Ok(Self::Metal),
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
