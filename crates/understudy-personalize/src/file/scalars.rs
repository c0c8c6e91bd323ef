//! How the alphas of a file were stored, noted for the way back from dialects that have no scalars.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use understudy_engine::encoding::Encoding;
use understudy_engine::safetensors::{Precision, StoredTensor};

use super::{AdapterFile, Alpha};

/// How the alphas of a file were stored, all alike.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Scalars {
    encoding: String,
    shape: Vec<usize>,
    /// Sites with a residual and without an alpha.
    without: BTreeSet<String>,
}

impl Scalars {
    /// Those of `file`, if it has some and they are alike.
    pub(super) fn of(file: &AdapterFile) -> Option<Self> {
        let mut stored = file.alphas.values().map(|alpha| alpha.stored.as_ref());
        let StoredTensor { encoding, shape, .. } = stored.next()??;
        let alike = |own: Option<&StoredTensor>| {
            own.is_some_and(|own| own.encoding == *encoding && own.shape == *shape)
        };
        let sites = file.residual_sites();
        let without = sites.into_iter().filter(|site| !file.alphas.contains_key(site)).collect();
        let said = Self { encoding: encoding.name(), shape: shape.clone(), without };
        (stored.all(alike) && said.precision().is_some()).then_some(said)
    }

    fn precision(&self) -> Option<Precision> {
        let all = [Precision::F32, Precision::Bf16, Precision::F16];
        all.into_iter().find(|precision| Encoding::from(*precision).name() == self.encoding)
    }

    /// An alpha as it was.
    pub(super) fn restored(&self, site: &str, alpha: Option<Alpha>) -> Option<Alpha> {
        let alpha = alpha.filter(|_| !self.without.contains(site))?;
        let one = self.shape.iter().all(|extent| *extent == 1);
        let stored = self.precision().filter(|_| one);
        let stored = stored.map(|precision| StoredTensor::new(&[alpha.value], self.shape.clone(), precision));
        Some(Alpha { value: alpha.value, stored: alpha.stored.or(stored) })
    }
}
