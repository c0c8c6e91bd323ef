//! The embedding rows of tokens while they are trained.

use burn::tensor::{Device, Tensor, TensorData};
use understudy_engine::parameters::{Leaves, Parameters};
use understudy_pipeline::TokenEmbeddings;

use super::row::RowStart;

/// The name of the first row's offset among the parameters.
const TOKEN: &str = "token";

/// The rows of tokens that a stage trains, and of those that stay as they are.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The tokens that are trained, each with where its row starts.
    pub trained: Vec<(String, RowStart)>,
    /// Tokens that stay as they are, and their rows `(tokens, dim)`; they come first.
    pub fixed: Option<(Vec<String>, Tensor<2>)>,
    /// How far a row moves for each of its offset; at 0 it stays.
    pub rate: f32,
}

impl Rows {
    /// Whether any is trained.
    pub fn are_trained(&self) -> bool {
        self.rate > 0.0
    }

    /// Adds the offsets, all zero, to `parameters`.
    pub(super) fn initialize(&self, parameters: &mut Parameters, device: &Device) {
        for (index, (_, start)) in self.trained.iter().enumerate().filter(|_| self.are_trained()) {
            let dim = start.row.dims()[0];
            let zeros = Tensor::<1>::from_data(TensorData::new(vec![0.0_f32; dim], [dim]), device);
            parameters.insert_tensor(offset_name(index), zeros);
        }
    }

    /// The trained rows `(tokens, dim)` before training.
    pub fn starting(&self) -> Tensor<2> {
        Tensor::cat(self.trained.iter().map(|(_, start)| start.row.clone().unsqueeze_dim(0)).collect(), 0)
    }

    /// The trained rows `(tokens, dim)` under `parameters`.
    pub fn under(&self, parameters: &Parameters) -> Tensor<2> {
        let row =
            |(index, (_, start)): (usize, &(String, RowStart))| match parameters.get(&offset_name(index)) {
                Some(offset) => start.moved(offset.value.clone(), self.rate),
                None => start.row.clone().unsqueeze_dim(0),
            };
        Tensor::cat(self.trained.iter().enumerate().map(row).collect(), 0)
    }

    /// The trained rows as tracked views of `leaves`, where they are among these.
    pub(super) fn tracked(&self, leaves: &Leaves) -> Option<Tensor<2>> {
        let row = |(index, (_, start)): (usize, &(String, RowStart))| {
            let offset = leaves.tensor::<1>(&offset_name(index), [start.row.dims()[0]])?;
            Some(start.moved(offset, self.rate))
        };
        let rows: Option<Vec<_>> = self.trained.iter().enumerate().map(row).collect();
        rows.map(|rows| Tensor::cat(rows, 0))
    }

    /// All tokens with their rows, where the trained ones have `rows`.
    pub fn embeddings(&self, rows: Tensor<2>) -> TokenEmbeddings {
        let trained = self.trained.iter().map(|(token, _)| token.clone());
        match &self.fixed {
            None => TokenEmbeddings { tokens: trained.collect(), rows },
            Some((tokens, fixed)) => TokenEmbeddings {
                tokens: tokens.iter().cloned().chain(trained).collect(),
                rows: Tensor::cat(vec![fixed.clone(), rows], 0),
            },
        }
    }
}

/// The offset of row `index` among the parameters.
fn offset_name(index: usize) -> String {
    if index == 0 { TOKEN.to_owned() } else { format!("{TOKEN}.{index}") }
}
