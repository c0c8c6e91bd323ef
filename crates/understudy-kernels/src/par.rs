//! Parallel loops and scratch memory.

use rayon::prelude::*;
use std::cell::RefCell;
use std::marker::PhantomData;

/// Elements one task of an elementwise kernel handles; fixed, so that chunk borders never depend on the
/// thread count.
pub(crate) const CHUNK: usize = 1 << 14;

/// Runs `f(0), f(1), ..., f(tasks - 1)` on the current pool, in any order.
pub(crate) fn for_each(tasks: usize, f: impl Fn(usize) + Send + Sync) {
    if tasks <= 1 {
        (0..tasks).for_each(f);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(f);
    }
}

/// A pointer into a slice that several tasks write at disjoint places.
pub(crate) struct Shared<'a, T>(*mut T, usize, PhantomData<&'a mut [T]>);

// SAFETY: the pointer is only used through `slice` and `at`, whose callers promise that no two tasks overlap.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Shared(slice.as_mut_ptr(), slice.len(), PhantomData)
    }

    /// The part from `start` on, which may be the end.
    pub(crate) fn skip(&self, start: usize) -> Self {
        Shared(self.at(start), self.1 - start, PhantomData)
    }

    /// The part `start..start + len`.
    ///
    /// # Safety
    ///
    /// No other task may touch this part while the returned slice lives.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(start <= self.1 && len <= self.1 - start, "part out of range");
        // SAFETY: in range by the assertion; not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }

    /// The address of element `index`, which must lie in the slice or one past its end.
    pub(crate) fn at(&self, index: usize) -> *mut T {
        assert!(index <= self.1, "address out of range");
        // SAFETY: in range by the assertion.
        unsafe { self.0.add(index) }
    }
}

/// Most scratch a thread keeps between calls, in bytes a buffer.
const KEEP_BYTES: usize = 64 << 20;

/// Buffers a thread keeps for later calls, so that large scratch is not mapped anew each time.
pub(crate) trait Scratch: Sized + Copy + Default + 'static {
    fn with_pool<R>(f: impl FnOnce(&mut Vec<Vec<Self>>) -> R) -> R;
}

macro_rules! scratch_pool {
    ($($ty:ty),*) => {$(
        impl Scratch for $ty {
            fn with_pool<R>(f: impl FnOnce(&mut Vec<Vec<Self>>) -> R) -> R {
                thread_local! { static POOL: RefCell<Vec<Vec<$ty>>> = const { RefCell::new(Vec::new()) }; }
                POOL.with(|pool| f(&mut pool.borrow_mut()))
            }
        }
    )*};
}
scratch_pool!(f32, u16);

/// Frees what the calling thread keeps.
pub(crate) fn release() {
    f32::with_pool(Vec::clear);
    u16::with_pool(Vec::clear);
}

/// Scratch of `len` elements with unspecified contents, given back to the thread's pool when dropped.
pub(crate) struct Buffer<T: Scratch> {
    data: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Scratch> Buffer<T> {
    pub(crate) fn new(len: usize) -> Self {
        // One cache line more than needed, so that the used part can begin on one.
        let line = 64 / size_of::<T>();
        let need = len + line;
        let mut data = T::with_pool(|pool| {
            let best = (0..pool.len()).filter(|&i| pool[i].len() >= need).min_by_key(|&i| pool[i].len());
            match best {
                Some(i) => pool.swap_remove(i),
                None => Vec::new(),
            }
        });
        if data.len() < need {
            data = vec![T::default(); need.next_multiple_of(1024)];
        }
        let start = data.as_ptr().align_offset(64).min(line);
        Buffer { data, start, len }
    }
}

impl<T: Scratch> Drop for Buffer<T> {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        if data.len() * size_of::<T>() <= KEEP_BYTES {
            T::with_pool(|pool| {
                pool.push(data);
                if pool.len() > 8 {
                    let smallest = (0..pool.len()).min_by_key(|&i| pool[i].len()).unwrap_or(0);
                    pool.swap_remove(smallest);
                }
            });
        }
    }
}

impl<T: Scratch> std::ops::Deref for Buffer<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.data[self.start..self.start + self.len]
    }
}

impl<T: Scratch> std::ops::DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.start..self.start + self.len]
    }
}

/// Adds `parts` (several vectors of `out.len()`, one after another) into `out` in order.
pub(crate) fn sum_parts(parts: &[f32], out: &mut [f32]) {
    let width = out.len();
    if width == 0 {
        return;
    }
    for part in parts.chunks_exact(width) {
        for (o, p) in out.iter_mut().zip(part) {
            *o += p;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        let mut seen = vec![0u8; 37];
        let shared = Shared::new(&mut seen);
        for_each(37, |i| {
            // SAFETY: each task writes its own element.
            unsafe { shared.slice(i, 1)[0] += 1 }
        });
        assert!(seen.iter().all(|&n| n == 1));
    }

    #[test]
    fn buffers_are_aligned_and_reused() {
        for len in [1, 100, 5000] {
            let buffer = Buffer::<f32>::new(len);
            assert_eq!(buffer.len(), len);
            assert_eq!(buffer.as_ptr() as usize % 64, 0);
        }
        let outer = Buffer::<u16>::new(64);
        let inner = Buffer::<u16>::new(64);
        assert_ne!(outer.as_ptr(), inner.as_ptr());
    }
}
