//! A part of a network that is read when it is first used: what is never used takes neither memory nor time.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::weights::{Origin, Weights};

/// A part that is built when it is first asked for, where its store stays open, and at once where it does not. Copies share
/// it.
pub struct Late<P> {
    inner: Arc<Inner<P>>,
}

struct Inner<P> {
    built: OnceLock<P>,
    later: Option<(Origin, Box<Build<P>>)>,
}

type Build<P> = dyn Fn(&Weights) -> P + Send + Sync;

impl<P> Late<P> {
    /// The part that `build` makes of `weights`. That everything it needs is there and has the right shape is found out now.
    pub fn new(weights: &Weights, build: impl Fn(&Weights) -> P + Send + Sync + 'static) -> Self {
        let inner = match weights.origin() {
            Some(origin) => {
                build(&weights.headers());
                Inner { built: OnceLock::new(), later: Some((origin, Box::new(build))) }
            }
            None => Inner { built: OnceLock::from(build(weights)), later: None },
        };
        Self { inner: Arc::new(inner) }
    }

    /// The part.
    ///
    /// # Panics
    /// Never: a part is built at once or has what it is built from.
    pub fn get(&self) -> &P {
        self.inner.built.get_or_init(|| match &self.inner.later {
            Some((origin, build)) => build(&origin.weights()),
            None => unreachable!("it was built at once"),
        })
    }
}

impl<P> Clone for Late<P> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<P: fmt::Debug> fmt::Debug for Late<P> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.inner.built.fmt(f)
    }
}
