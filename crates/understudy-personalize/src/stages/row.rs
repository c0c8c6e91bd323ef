//! The embedding row of a subject's token, as it is trained.

use burn::tensor::Tensor;
use understudy_pipeline::Base;

use crate::error::{Error, Result};

/// Where a row starts, and how far it may go.
///
/// What is trained is an offset in units of the start's root mean square, so that one learning rate suits the
/// embeddings of every text encoder.
#[derive(Clone, Debug)]
pub struct RowStart {
    /// The row before training, `(dim)`.
    pub row: Tensor<1>,
    /// Root mean square of the class noun's row.
    unit: f32,
    /// Length the row may not exceed: beyond it a token drowns the words around it.
    longest: f32,
}

impl RowStart {
    /// At the class noun, the mean row of its pieces; the row may grow to `norm` times its length.
    ///
    /// # Errors
    /// When the tokenizer cannot read the noun.
    pub fn of_class(base: &Base, class: &str, norm: f32) -> Result<Self> {
        const LONGEST: usize = 512;
        let encoder = base.networks.text.as_ref();
        let mut tokens = encoder.tokenizer().encode(&[class], LONGEST)?;
        // The last of them is the end of the text.
        let pieces = tokens.lengths[0].saturating_sub(1);
        if pieces == 0 {
            let reason = format!("{class:?} means nothing to this base's tokenizer; use another word");
            return Err(Error::Subject { field: "class", reason });
        }
        let [rows, channels] = encoder.table();
        let last = (rows as u32).saturating_sub(1);
        tokens.ids[0].truncate(pieces);
        tokens.ids[0].iter_mut().for_each(|id| *id = (*id).min(last));
        tokens.lengths[0] = pieces;
        let row = encoder.embed(&tokens).narrow(1, 0, pieces).mean_dim(1).reshape([channels]);
        let length = length(&row).max(f32::MIN_POSITIVE);
        let unit = length / (channels as f32).sqrt();
        Ok(Self { row, unit, longest: length * norm })
    }

    /// The same bounds from another row.
    pub fn at(&self, row: Tensor<1>) -> Self {
        Self { row, ..self.clone() }
    }

    /// The row `(1, dim)` at `offset (dim)`, moved by `rate` units for each of the offset's. Gradients flow
    /// to the offset.
    pub fn moved(&self, offset: Tensor<1>, rate: f32) -> Tensor<2> {
        let row = self.row.clone() + offset * (self.unit * rate);
        let row = if length(&row) > self.longest {
            row.clone() * (row.powi_scalar(2).sum().sqrt().recip() * self.longest)
        } else {
            row
        };
        row.unsqueeze_dim(0)
    }
}

fn length(row: &Tensor<1>) -> f32 {
    let row = row.clone();
    let row = if row.is_tracked() { row.without_autodiff() } else { row };
    row.powi_scalar(2).sum().sqrt().into_scalar::<f32>()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use understudy_engine::host::values;

    use super::*;

    fn tensor(values: &[f32]) -> Tensor<1> {
        Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), &Device::flex())
    }

    /// The sum of the row's numbers, each times another weight.
    fn loss(start: &RowStart, offset: Tensor<1>) -> Tensor<1> {
        (start.moved(offset, 0.5).reshape([-1]) * tensor(&[0.3, -1.0, 2.0])).sum()
    }

    /// Also where the row is as long as it may be, and is turned only.
    #[test]
    fn gradients_of_an_offset_are_those_of_differences() {
        const STEP: f32 = 1e-2;
        for longest in [10.0, 1.5] {
            let start = RowStart { row: tensor(&[1.0, 2.0, -0.5]), unit: 0.8, longest };
            let offset = [0.4, -0.7, 0.2];
            let leaf = tensor(&offset).autodiff().require_grad();
            let start_in_graph = RowStart { row: start.row.clone().autodiff(), ..start.clone() };
            let weights = tensor(&[0.3, -1.0, 2.0]).autodiff();
            let total = (start_in_graph.moved(leaf.clone(), 0.5).reshape([-1]) * weights).sum();
            let gradient = values(leaf.grad(&total.backward()).unwrap());
            for index in 0..3 {
                let at = |step: f32| {
                    let mut moved = offset;
                    moved[index] += step;
                    loss(&start, tensor(&moved)).into_scalar::<f32>()
                };
                let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                assert!((gradient[index] - difference).abs() < 1e-3, "{} and {difference}", gradient[index]);
            }
            let length = length(&start.moved(tensor(&offset), 0.5).reshape([-1]));
            assert!(length <= longest + 1e-5, "{length}");
        }
    }
}
