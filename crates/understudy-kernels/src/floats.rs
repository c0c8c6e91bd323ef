//! The memory of results: used again instead of being mapped and zeroed for every one.
//!
//! A training step makes hundreds of large arrays and frees them again. Asking the system for each costs as
//! much as computing it: fresh memory must be zeroed, by one thread. [`Floats`] gives its memory to a pool
//! when it is dropped, and the next one of about that size takes it from there, contents and all.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::par::{self, CHUNK, Shared};

/// Lengths are rounded up to a multiple of this; shorter arrays do not use the pool.
const UNIT: usize = 1 << 12;

/// Gives back to the system what waits to be used again: between phases of a program that need memory of
/// other sizes.
pub fn release_memory() {
    let kept = {
        let mut pool = pool();
        (pool.waiting, pool.peak) = (0, pool.live);
        std::mem::take(&mut pool.kept)
    };
    drop(kept);
    rayon::broadcast(|_| par::release());
    par::release();
}

/// An array of `f32` whose memory is pooled.
pub struct Floats {
    /// At least `len` long. Pooled memory is a multiple of [`UNIT`].
    data: Vec<f32>,
    len: usize,
}

/// What was dropped and waits to be used again.
struct Pool {
    /// By length.
    kept: BTreeMap<usize, Vec<Vec<f32>>>,
    /// Elements in `kept`, elements in use, and the most that were in use at once.
    waiting: usize,
    live: usize,
    peak: usize,
}

/// Elements that the pool may always hold beyond what was once in use.
const SPARE: usize = 8 << 20;

static POOL: Mutex<Pool> = Mutex::new(Pool { kept: BTreeMap::new(), waiting: 0, live: 0, peak: 0 });

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// The most elements it may hold, in use or waiting: a quarter more than were in use at once, so that
    /// parts of a network that need arrays of different lengths, one after the other, find their own.
    fn room(&self) -> usize {
        self.peak + SPARE.max(self.peak / 4)
    }

    /// Memory of at least `size` elements that waits, if there is any not much longer.
    fn take(&mut self, size: usize) -> Option<Vec<f32>> {
        let (&found, list) = self.kept.range_mut(size..=size + size / 4).next()?;
        let data = list.pop();
        if list.is_empty() {
            self.kept.remove(&found);
        }
        self.waiting -= found;
        self.live += found;
        self.peak = self.peak.max(self.live);
        data
    }

    /// Makes room for `size` new elements in use; what it gives is to be freed.
    fn admit(&mut self, size: usize) -> Vec<Vec<f32>> {
        self.live += size;
        self.peak = self.peak.max(self.live);
        let mut freed = Vec::new();
        while self.waiting + self.live > self.room() {
            let Some(mut largest) = self.kept.last_entry() else { break };
            freed.extend(largest.get_mut().pop());
            self.waiting -= *largest.key();
            if largest.get().is_empty() {
                largest.remove();
            }
        }
        freed
    }

    fn put(&mut self, data: Vec<f32>) {
        self.live -= data.len();
        self.waiting += data.len();
        self.kept.entry(data.len()).or_default().push(data);
    }
}

impl Floats {
    /// `len` numbers nobody should read before writing them.
    pub fn unspecified(len: usize) -> Self {
        if len < UNIT {
            return vec![0.0; len].into();
        }
        let size = len.next_multiple_of(UNIT);
        let mut pool = pool();
        let data = match pool.take(size) {
            Some(data) => data,
            None => {
                let freed = pool.admit(size);
                drop(pool);
                drop(freed);
                vec![0.0; size]
            }
        };
        Floats { data, len }
    }

    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let mut floats = Self::unspecified(len);
        let out = Shared::new(&mut floats);
        par::for_each(len.div_ceil(CHUNK), |task| {
            // SAFETY: each task writes its own part.
            unsafe { out.slice(task * CHUNK, CHUNK.min(len - task * CHUNK)) }.fill(0.0);
        });
        floats
    }

    fn pooled(&self) -> bool {
        self.data.len() >= UNIT && self.data.len().is_multiple_of(UNIT)
    }
}

impl From<Vec<f32>> for Floats {
    fn from(mut data: Vec<f32>) -> Self {
        let len = data.len();
        if len >= UNIT && len.is_multiple_of(UNIT) {
            // Not from the pool, so it must not look like it.
            data.reserve_exact(1);
            data.push(0.0);
        }
        Floats { data, len }
    }
}

impl Drop for Floats {
    fn drop(&mut self) {
        if self.pooled() {
            pool().put(std::mem::take(&mut self.data));
        }
    }
}

impl Clone for Floats {
    fn clone(&self) -> Self {
        let mut copy = Self::unspecified(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.data[..self.len]
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.len]
    }
}

impl PartialEq for Floats {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl fmt::Debug for Floats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_zero_though_memory_is_used_again() {
        for _ in 0..3 {
            let mut floats = Floats::zeroed(3 * UNIT + 5);
            assert_eq!(floats.len(), 3 * UNIT + 5);
            assert!(floats.iter().all(|&x| x == 0.0));
            floats.fill(f32::NAN);
        }
    }

    /// Arrays of these sizes, all at once; how many of them were new.
    fn held_at_once(pool: &mut Pool, sizes: &[usize]) -> usize {
        let mut new = 0;
        let arrays: Vec<_> = (sizes.iter())
            .map(|&size| {
                pool.take(size).unwrap_or_else(|| {
                    new += 1;
                    pool.admit(size);
                    vec![0.0; size]
                })
            })
            .collect();
        arrays.into_iter().for_each(|data| pool.put(data));
        new
    }

    #[test]
    fn the_pool_holds_little_more_than_was_in_use() {
        let mut pool = Pool { kept: BTreeMap::new(), waiting: 0, live: 0, peak: 0 };
        const LARGE: usize = SPARE / 2;
        for round in 1..6 {
            held_at_once(&mut pool, &[LARGE, 2 * LARGE, round * LARGE]);
            assert_eq!(pool.live, 0);
            assert!(pool.waiting <= pool.room());
            let held: usize = pool.kept.iter().map(|(size, list)| size * list.len()).sum();
            assert_eq!(held, pool.waiting);
        }
        assert!(pool.peak <= 9 * LARGE && pool.room() <= 12 * LARGE);
    }

    #[test]
    fn a_cycle_of_sizes_asks_for_nothing_once_it_runs() {
        let mut pool = Pool { kept: BTreeMap::new(), waiting: 0, live: 0, peak: 0 };
        // A few small arrays at once, then large ones, as attention and feed-forward have them.
        let parts: [&[usize]; 3] = [&[UNIT; 5], &[4 * UNIT, 4 * UNIT], &[UNIT; 4]];
        let asked: Vec<usize> =
            (0..5).map(|_| parts.iter().map(|sizes| held_at_once(&mut pool, sizes)).sum()).collect();
        assert_eq!(asked, [7, 0, 0, 0, 0]);
    }

    #[test]
    fn what_is_kept_takes_no_longer_memory_than_it_needs() {
        let mut pool = Pool { kept: BTreeMap::new(), waiting: 0, live: 0, peak: 0 };
        held_at_once(&mut pool, &[8 * UNIT]);
        // Block after block something small stays while something large comes and goes.
        for _ in 0..10 {
            assert!(pool.take(UNIT).is_none());
            pool.admit(UNIT);
            assert_eq!(held_at_once(&mut pool, &[8 * UNIT]), 0);
        }
        assert_eq!(pool.live, 10 * UNIT);
    }

    #[test]
    fn foreign_memory_stays_out_of_the_pool() {
        for len in [0, 7, UNIT, 2 * UNIT] {
            let floats = Floats::from(vec![1.5; len]);
            assert!(!floats.pooled());
            assert_eq!(floats.clone(), floats);
        }
    }
}
