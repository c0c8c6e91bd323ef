//! A part of a network that is read when it is first used: what is never used takes neither memory nor time.

use std::fmt;
use std::sync::{Arc, OnceLock};

use crate::weights::{Lost, Origin, Weights};

/// A part that is built when it is first asked for, where its store stays open, and at once where it does
/// not. Copies share it.
pub struct Late<P> {
    inner: Arc<Inner<P>>,
}

struct Inner<P> {
    built: OnceLock<P>,
    later: Option<(Origin, Box<Build<P>>)>,
}

type Build<P> = dyn Fn(&Weights) -> P + Send + Sync;

impl<P> Late<P> {
    /// The part that `build` makes of `weights`. That everything it needs is there and has the right shape is
    /// found out now.
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

    /// What could not be read any more of the network it belongs to.
    pub fn lost(&self) -> Option<&Lost> {
        self.inner.later.as_ref().map(|(origin, _)| origin.lost())
    }

    /// The part.
    ///
    /// # Panics
    /// Never: a part is built at once or has what it is built from.
    pub fn get(&self) -> &P {
        self.inner.built.get_or_init(|| match &self.inner.later {
            Some((origin, build)) => origin.build(build),
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::error::WeightError;
    use crate::host::values;
    use crate::weights::{Init, WeightSource};

    /// A source that notes what is read of it.
    #[derive(Default)]
    struct Store {
        read: Mutex<Vec<String>>,
    }

    impl WeightSource for Store {
        fn get(&self, name: &str, shape: &[usize], _: Init) -> Result<Option<Tensor<1>>, WeightError> {
            self.read.lock().unwrap().push(name.to_owned());
            let count = shape.iter().product::<usize>();
            Ok((name == "half.weight").then(|| Tensor::full([count], 3.0, &Device::flex())))
        }

        fn holds(&self, name: &str, _: &[usize]) -> Result<bool, WeightError> {
            Ok(name == "half.weight")
        }

        fn names(&self) -> Vec<String> {
            vec!["half.weight".to_owned()]
        }

        fn describe(&self) -> String {
            "a store".to_owned()
        }
    }

    fn part(weights: &Weights) -> Tensor<2> {
        weights.tensor("weight", [2, 2], Init::Zeros)
    }

    #[test]
    fn what_stays_open_is_read_when_it_is_used_and_once() {
        let store = Arc::new(Store::default());
        let weights = Weights::streamed(store.clone(), &Device::flex(), 0);
        let late = Late::new(&weights.at("half"), part);
        weights.finish().unwrap();
        assert!(store.read.lock().unwrap().is_empty());
        let copy = late.clone();
        assert_eq!(values(copy.get().clone()), [3.0; 4]);
        late.get();
        assert_eq!(*store.read.lock().unwrap(), ["half.weight"]);
        // What is not there is found out at once.
        let weights = Weights::streamed(store, &Device::flex(), 0);
        Late::new(&weights.at("other"), part);
        assert!(weights.finish().unwrap_err().to_string().contains("other.weight"));
    }

    #[test]
    fn what_is_borrowed_is_read_at_once() {
        let store = Store::default();
        let weights = Weights::new(&store, &Device::flex());
        let late = Late::new(&weights.at("half"), part);
        assert_eq!(*store.read.lock().unwrap(), ["half.weight"]);
        assert_eq!(values(late.get().clone()), [3.0; 4]);
    }
}
