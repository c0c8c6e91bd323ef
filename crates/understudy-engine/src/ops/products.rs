//! What matrix products round to, which is up to the work that asks for them.

use std::cell::Cell;
use std::marker::PhantomData;

/// What matrix products round their operands to; sums are in f32 always.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// Nothing: single precision.
    #[default]
    F32,
    /// bf16: much faster on GPUs and where the processor has AMX or AVX512-BF16.
    Bf16,
}

thread_local! {
    /// Work runs on the thread that asks for it; what that hands to others is decided before.
    static CURRENT: Cell<Products> = const { Cell::new(Products::F32) };
}

impl Products {
    /// bf16 if `bf16`.
    pub fn rounded(bf16: bool) -> Self {
        if bf16 { Self::Bf16 } else { Self::F32 }
    }

    /// Those of the work on this thread.
    pub fn current() -> Self {
        CURRENT.get()
    }

    /// Has the products of this thread be these until what is returned is dropped.
    pub fn scope(self) -> ProductsScope {
        ProductsScope { before: CURRENT.replace(self), thread: PhantomData }
    }
}

/// As long as it lives, products are as it was asked for; see [`Products::scope`].
#[must_use = "products are as before once it is dropped"]
#[derive(Debug)]
pub struct ProductsScope {
    before: Products,
    /// It stays on its thread.
    thread: PhantomData<*const ()>,
}

impl Drop for ProductsScope {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// Whether matrix products round their operands to bf16; see [`Products`].
pub fn bf16_products() -> bool {
    Products::current() == Products::Bf16
}

pub(super) fn precision() -> understudy_kernels::Precision {
    match Products::current() {
        Products::Bf16 => understudy_kernels::Precision::Bf16,
        Products::F32 => understudy_kernels::Precision::F32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision_is_that_of_the_innermost_scope_and_of_its_thread_alone() {
        assert_eq!(Products::current(), Products::F32);
        let outer = Products::Bf16.scope();
        {
            let _inner = Products::F32.scope();
            assert!(!bf16_products());
        }
        assert!(bf16_products());
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(!bf16_products()));
        });
        drop(outer);
        assert_eq!(Products::current(), Products::F32);
    }
}
