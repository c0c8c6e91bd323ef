//! Stands for `cubecl-llvm`, whose build script downloads LLVM, so that the CUDA backend builds without a network and without
//! a toolkit. `cubecl-cuda` compiles against these names; with its feature `cpp`, which this workspace turns on, kernels go
//! through NVRTC and nothing here is ever called. Asked to compile all the same, it says so.

use cubecl_environment::backtrace::BackTrace;
use cubecl_core::ir::nvidia::SmArch;
use cubecl_core::prelude::KernelDefinition;
use cubecl_server::compiler::{CompilationError, Compiler};
use cubecl_server::kernel::BufferIOAttr;

/// What concerns NVIDIA's GPUs.
pub mod nvptx {
    /// Versions of the PTX language.
    pub mod ptx_version {
        use std::fmt;

        /// A version of PTX; there is none here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// None: no PTX is emitted.
            pub fn for_driver(_: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {}
            }
        }
    }
}

/// What concerns all targets.
pub mod shared {
    /// Which features the LLVM backend honours.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// A kind of GPU.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            /// NVIDIA's.
            Nvptx,
        }

        /// Nothing is taken away: the C++ backend honours all that the device has.
        pub fn restrict_features(_: &mut DeviceProperties, _: GpuTarget) {}
    }
}

/// What is compiled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// NVIDIA's GPUs.
    #[default]
    Nvptx,
}

/// A compiler that compiles nothing.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// What it would compile for.
    pub target: LlvmTarget,
}

/// What a kernel would be compiled with.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// An AMD architecture; none.
    pub arch: Option<()>,
    /// An NVIDIA architecture.
    pub sm_arch: Option<SmArch>,
    /// The PTX version; none.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether scalars are passed in the parameter block.
    pub grid_constants: bool,
    /// Settings of targets that are not here.
    pub others: (),
}

/// A compiled module; there is none.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// PTX.
    pub ptx: Vec<core::ffi::c_char>,
    /// The kernel's symbol.
    pub entrypoint: String,
    /// What is logged of it.
    pub ir: String,
    /// Bytes of shared memory a launch needs.
    pub shared_memory_size: usize,
    /// How each buffer is used.
    pub io: Vec<BufferIOAttr>,
}

/// What compiling would give.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// A module.
    NvptxCode(NvptxModule),
    /// What other targets give.
    Other,
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn compile(&mut self, _: KernelDefinition, _: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        let reason = "built without LLVM: turn on cubecl's feature cuda-cpp".to_owned();
        Err(CompilationError::Validation { reason, backtrace: BackTrace::capture() })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}

impl core::fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::NvptxCode(module) => f.write_str(&module.ir),
            Self::Other => Ok(()),
        }
    }
}
