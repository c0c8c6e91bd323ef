//! The memory of results: used again instead of being mapped and zeroed for every one.
//!
//! A training step makes hundreds of large arrays and frees them again. Asking the system for each costs as much as
//! computing it: fresh memory must be zeroed, by one thread. [`Floats`] gives its memory to a pool when it is dropped,
//! and the next one of about that size takes it from there, contents and all.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::par::{self, CHUNK, Shared};

/// Lengths are rounded up to a multiple of this; shorter arrays do not use the pool.
const UNIT: usize = 1 << 12;

/// Gives back to the system what waits to be used again: between phases of a program that need memory of other sizes.
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
    /// Elements in `kept`, elements in use, and the most that were in use at once. `waiting + live <= peak`: the pool
    /// never holds memory the program did not need before.
    waiting: usize,
    live: usize,
    peak: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { kept: BTreeMap::new(), waiting: 0, live: 0, peak: 0 });

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// Memory of at least `size` elements that waits, if there is any not much longer. Where there is no room for more, longer
    /// memory serves, too: it would have to be freed for `size` new elements, and asked for again a moment later.
    fn take(&mut self, size: usize) -> Option<Vec<f32>> {
        const MUCH_LONGER: usize = 8;
        let most = match self.waiting + self.live + size > self.peak {
            true => MUCH_LONGER * size,
            false => size + size / 4,
        };
        let (&found, list) = self.kept.range_mut(size..=most).next()?;
        let data = list.pop();
        if list.is_empty() {
            self.kept.remove(&found);
        }
        self.waiting -= found;
        self.live += found;
        data
    }

    /// Makes room for `size` new elements in use; what it gives is to be freed.
    fn admit(&mut self, size: usize) -> Vec<Vec<f32>> {
        self.live += size;
        self.peak = self.peak.max(self.live);
        let mut freed = Vec::new();
        while self.waiting + self.live > self.peak {
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

    #[test]
    fn the_pool_holds_no_more_than_was_in_use() {
        let mut pool = Pool { kept: BTreeMap::new(), waiting: 0, live: 0, peak: 0 };
        for round in 1..6 {
            let sizes = [UNIT, 2 * UNIT, round * UNIT];
            let arrays = sizes.map(|size| {
                pool.take(size).unwrap_or_else(|| {
                    pool.admit(size);
                    vec![0.0; size]
                })
            });
            arrays.into_iter().for_each(|data| pool.put(data));
            assert_eq!(pool.live, 0);
            assert!(pool.waiting <= pool.peak);
            let held: usize = pool.kept.iter().map(|(size, list)| size * list.len()).sum();
            assert_eq!(held, pool.waiting);
        }
        assert!(pool.peak <= 9 * UNIT);
    }

    #[test]
    fn a_cycle_of_sizes_asks_for_nothing_once_it_runs() {
        let mut pool = Pool { kept: BTreeMap::new(), waiting: 0, live: 0, peak: 0 };
        let (mut asked, mut held) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let mut new = 0;
            // A few small arrays at once, then a large one, as attention and feed-forward have them.
            for (size, count) in [(UNIT, 5), (4 * UNIT, 1), (UNIT, 4)] {
                let arrays: Vec<_> = (0..count)
                    .map(|_| {
                        pool.take(size).unwrap_or_else(|| {
                            new += 1;
                            pool.admit(size);
                            vec![0.0; size]
                        })
                    })
                    .collect();
                arrays.into_iter().for_each(|data| pool.put(data));
            }
            asked.push(new);
            held.push(pool.waiting);
        }
        assert_eq!(asked[2..], [0, 0, 0], "{asked:?}");
        assert!(held.iter().all(|held| *held <= 9 * UNIT), "{held:?}");
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
