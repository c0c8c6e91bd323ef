//! What of an adapter file is no plain residual: LoHa, LoKr, and DoRA's magnitudes on any of them.

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::patch::{Change, Delta, Factors, Magnitude};
use understudy_engine::safetensors::StoredTensor;

use crate::adapter::Residual;
use crate::file::AdapterFile;
use crate::names::Part;

/// What a change is called.
pub(crate) fn name(change: &Change) -> &'static str {
    match (&change.delta, &change.magnitude) {
        (Delta::LowRank(_), None) => "LoRA",
        (Delta::LowRank(_), Some(_)) => "DoRA",
        (Delta::Hadamard(_), None) => "LoHa",
        (Delta::Hadamard(_), Some(_)) => "LoHa with DoRA",
        (Delta::Kronecker(_), None) => "LoKr",
        (Delta::Kronecker(_), Some(_)) => "LoKr with DoRA",
    }
}

/// The change that `file` has for `site`.
///
/// # Errors
/// Says which tensor is missing or has a shape that does not fit the others.
pub(crate) fn read(file: &AdapterFile, site: &str, device: &Device) -> Result<Change, String> {
    let parts = Parts { file, site, device };
    let has = |name| file.has(site, Part::Product(name));
    let (delta, scale) = if has("hada_w1_a") {
        (parts.hadamard()?, file.scale_of(site)?)
    } else if has("lokr_w1") || has("lokr_w1_a") {
        (parts.kronecker()?, file.scale_of(site)?)
    } else {
        let Residual { down, up, alpha, .. } = Residual::read(file, site, device)?;
        let scale = alpha / down.dims()[0] as f32;
        (Delta::LowRank(Factors { up, down }), scale)
    };
    let magnitude = parts.magnitude(delta.dims())?;
    Ok(Change { delta, scale, magnitude })
}

/// The tensors of one site.
struct Parts<'a> {
    file: &'a AdapterFile,
    site: &'a str,
    device: &'a Device,
}

impl Parts<'_> {
    fn stored(&self, part: Part) -> Option<(&StoredTensor, String)> {
        let place = (self.site.to_owned(), part);
        Some((self.file.parts.get(&place)?, self.file.key_of(&place)))
    }

    /// A tensor as a matrix whose rows are its first dimension.
    fn matrix(&self, name: &'static str) -> Result<Option<Tensor<2>>, String> {
        let Some((stored, key)) = self.stored(Part::Product(name)) else { return Ok(None) };
        let rows = stored.shape.first().copied().unwrap_or(0);
        let columns = stored.shape.iter().skip(1).product::<usize>();
        if stored.shape.len() < 2 || rows == 0 || columns == 0 {
            return Err(format!("tensor {key} has shape {:?}, not (rows, columns)", stored.shape));
        }
        let values = stored.values().map_err(|reason| format!("tensor {key}: {reason}"))?;
        Ok(Some(Tensor::from_data(TensorData::new(values, [rows, columns]), self.device)))
    }

    fn needed(&self, name: &'static str) -> Result<Tensor<2>, String> {
        self.matrix(name)?.ok_or_else(|| format!("{}: its {name} is missing", self.site))
    }

    /// Two factors, `up (outputs, rank)` and `down (rank, inputs)`; with a core of Tucker's, `(rank, rank,
    /// kernel)`, the first is `(rank, outputs)` and the core goes into the second.
    fn factors(&self, up: &'static str, down: &'static str, core: &'static str) -> Result<Factors, String> {
        let (up, down) = (self.needed(up)?, self.needed(down)?);
        let factors = match self.stored(Part::Product(core)) {
            None => Factors { up, down },
            Some((stored, key)) => {
                let values = stored.values().map_err(|reason| format!("tensor {key}: {reason}"))?;
                let (up, down) = (
                    up.transpose(),
                    with_core(down, &values, &stored.shape).ok_or_else(|| self.misfit(&key, stored))?,
                );
                Factors { up, down }
            }
        };
        let [[_, left], [right, _]] = [factors.up.dims(), factors.down.dims()];
        if left == right {
            Ok(factors)
        } else {
            Err(format!("{}: its factors have ranks {left} and {right}; export it again", self.site))
        }
    }

    fn misfit(&self, key: &str, stored: &StoredTensor) -> String {
        format!("tensor {key} has shape {:?}, which does not fit the others of {}", stored.shape, self.site)
    }

    fn hadamard(&self) -> Result<Delta, String> {
        let one = self.factors("hada_w1_a", "hada_w1_b", "hada_t1")?;
        let other = self.factors("hada_w2_a", "hada_w2_b", "hada_t2")?;
        if one.dims() == other.dims() {
            Ok(Delta::Hadamard([one, other]))
        } else {
            Err(format!(
                "{}: its two products have shapes {:?} and {:?}",
                self.site,
                one.dims(),
                other.dims()
            ))
        }
    }

    fn kronecker(&self) -> Result<Delta, String> {
        let half = |whole, factors: [&'static str; 3]| match self.matrix(whole)? {
            Some(matrix) => Ok::<_, String>(matrix),
            None => {
                let Factors { up, down } = self.factors(factors[0], factors[1], factors[2])?;
                Ok(up.matmul(down))
            }
        };
        let left = half("lokr_w1", ["lokr_w1_a", "lokr_w1_b", "lokr_t1"])?;
        let right = half("lokr_w2", ["lokr_w2_a", "lokr_w2_b", "lokr_t2"])?;
        Ok(Delta::Kronecker([left, right]))
    }

    /// The magnitudes of a weight `[outputs, inputs]`: of outputs where the first dimension is theirs.
    fn magnitude(&self, [outputs, inputs]: [usize; 2]) -> Result<Option<Magnitude>, String> {
        let Some((stored, key)) = self.stored(Part::Magnitude) else { return Ok(None) };
        let values = stored.values().map_err(|reason| format!("tensor {key}: {reason}"))?;
        let count = values.len();
        let norms = Tensor::from_data(TensorData::new(values, [count]), self.device);
        let first = stored.shape.first().copied().unwrap_or(1);
        let of_inputs = count > 0 && inputs.is_multiple_of(count) && (first == 1 || first == count);
        if count == outputs && first == outputs {
            Ok(Some(Magnitude::Outputs(norms)))
        } else if of_inputs {
            Ok(Some(Magnitude::Inputs(norms)))
        } else {
            Err(self.misfit(&key, stored))
        }
    }
}

/// `down (rank, inputs)` with `core (ranks, rank, kernel ...)` before it: `(ranks, inputs kernel)`.
pub(crate) fn with_core(down: Tensor<2>, core: &[f32], shape: &[usize]) -> Option<Tensor<2>> {
    let &[ranks, rank, ref kernel @ ..] = shape else { return None };
    let ([own, inputs], kernel) = (down.dims(), kernel.iter().product::<usize>());
    if own != rank || ranks == 0 || kernel == 0 {
        return None;
    }
    let core = Tensor::<3>::from_data(TensorData::new(core.to_vec(), [ranks, rank, kernel]), &down.device());
    // (ranks, kernel, rank) times (rank, inputs).
    let by_kernel = core.swap_dims(1, 2).reshape([ranks * kernel, rank]).matmul(down);
    Some(by_kernel.reshape([ranks, kernel, inputs]).swap_dims(1, 2).reshape([ranks, inputs * kernel]))
}
