//! A stack of blocks of which some are not held but read from the store whenever they are needed, so that a
//! network runs that is larger than the memory it runs in.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, spawn};

use crate::weights::{Origin, Weights};

/// Blocks `0..len`, in the order a network runs them. Copies share them.
pub struct Stack<B> {
    inner: Arc<Inner<B>>,
}

type Build<B> = dyn Fn(&Weights) -> B + Send + Sync;

struct Inner<B> {
    /// The blocks; `None` where one is read when it is needed.
    held: Vec<Option<B>>,
    build: Box<Build<B>>,
    /// Where block 0, 1, ... are read from; empty if all are held.
    origins: Vec<Origin>,
    ahead: Mutex<Ahead<B>>,
}

/// The block being read while another computes.
struct Ahead<B> {
    reading: Option<(usize, JoinHandle<B>)>,
    /// The block asked for last.
    last: usize,
}

impl<B: Clone + Send + Sync + 'static> Stack<B> {
    /// `count` blocks from `weights`, block `i` at `i` below. As many as [`Weights::on_host`] says, spread
    /// evenly, are only looked for and not held.
    pub fn new(
        weights: &Weights,
        count: usize,
        build: impl Fn(&Weights) -> B + Send + Sync + 'static,
    ) -> Self {
        let origins: Option<Vec<Origin>> = match weights.on_host() {
            0 => None,
            _ => (0..count).map(|index| weights.at(index).origin()).collect(),
        };
        let streamed = if origins.is_some() { weights.on_host().min(count) } else { 0 };
        let before = |index: usize| index * streamed / count.max(1);
        let block = |index: usize| {
            let weights = weights.at(index);
            if before(index + 1) > before(index) {
                build(&weights.headers());
                None
            } else {
                Some(build(&weights))
            }
        };
        let held = (0..count).map(block).collect();
        let ahead = Mutex::new(Ahead { reading: None, last: 0 });
        let (build, origins) = (Box::new(build), origins.unwrap_or_default());
        Self { inner: Arc::new(Inner { held, build, origins, ahead }) }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.inner.held.len()
    }

    /// How many are held and not read whenever they are needed.
    pub fn held(&self) -> usize {
        self.inner.held.iter().flatten().count()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Block `index`; the next one that is not held is read meanwhile.
    pub fn get(&self, index: usize) -> B {
        if self.inner.origins.is_empty() {
            // All are held.
            return self.inner.held[index].clone().unwrap_or_else(|| self.inner.read(index));
        }
        let mut ahead = self.inner.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let ready = match ahead.reading.take() {
            Some((found, reading)) if found == index => reading.join().ok(),
            // One that waits for its turn keeps waiting.
            other => {
                ahead.reading = other;
                None
            }
        };
        let block = match &self.inner.held[index] {
            Some(block) => block.clone(),
            None => ready.unwrap_or_else(|| self.inner.read(index)),
        };
        let backward = index < ahead.last;
        ahead.last = index;
        let next = self.inner.next(index, backward);
        if ahead.reading.as_ref().map(|(waiting, _)| *waiting) != next {
            let inner = self.inner.clone();
            ahead.reading = next.map(|next| (next, spawn(move || inner.read(next))));
        }
        block
    }
}

impl<B> Inner<B> {
    fn read(&self, index: usize) -> B {
        self.origins[index].build(&self.build)
    }

    /// The block after `index` that is not held, on the way up or down.
    fn next(&self, index: usize, backward: bool) -> Option<usize> {
        let streamed = |at: &usize| self.held[*at].is_none();
        if backward { (0..index).rev().find(streamed) } else { (index + 1..self.held.len()).find(streamed) }
    }
}

impl<B> Clone for Stack<B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<B: fmt::Debug> fmt::Debug for Stack<B> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_list().entries(&self.inner.held).finish()
    }
}
