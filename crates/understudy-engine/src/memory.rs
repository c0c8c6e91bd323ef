//! Pooled memory of kernels as the memory of burn's tensors.

use std::mem::MaybeUninit;

use burn_std::{AccessError, AccessPolicy, AllocationController, AllocationProperty, Bytes};
use understudy_kernels::Floats;

/// Gives freed memory that waits to be used again back to the system. It pays between phases that need memory
/// of other sizes.
pub use understudy_kernels::release_memory as release;

/// The bytes of `floats`, whose memory goes back to the pool with the last tensor that uses it.
pub(crate) fn bytes(floats: Floats) -> Bytes {
    let length = size_of_val(&*floats);
    // SAFETY: the controller's memory has `length` bytes, all of them initialized.
    unsafe { Bytes::from_controller(Box::new(Pooled(floats)), length) }
}

struct Pooled(Floats);

impl AllocationController for Pooled {
    fn alloc_align(&self) -> usize {
        align_of::<f32>()
    }

    fn property(&self) -> AllocationProperty {
        AllocationProperty::Other
    }

    unsafe fn memory_mut(&mut self, _: AccessPolicy) -> Result<&mut [MaybeUninit<u8>], AccessError> {
        let length = size_of_val(&*self.0);
        // SAFETY: any f32 is so many bytes, and the caller writes initialized bytes only, which are some f32.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), length) })
    }

    fn memory(&self, _: AccessPolicy) -> Result<&[MaybeUninit<u8>], AccessError> {
        // SAFETY: any f32 is so many bytes.
        Ok(unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(&*self.0)) })
    }
}
