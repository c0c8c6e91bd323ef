//! What 8-bit numbers are multiplied by: scales that stand beside a tensor, as quantizing programs write
//! them.

use super::{Checkpoint, Entry};
use crate::error::WeightError;

/// How optimum-quanto calls the numbers of a tensor.
const PART: &str = "._data";
/// A side of DeepSeek's square blocks.
const SQUARE: usize = 128;

/// Scales of a tensor, seen as a matrix of its first extent by the others: one for every tile of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Scales {
    /// The scales, row by row of tiles.
    values: Vec<f32>,
    /// Rows and columns of a tile.
    tile: [usize; 2],
    /// Tiles beside each other.
    across: usize,
}

impl Scales {
    /// The `values` of `shape` beside a tensor of shape `of`: one for all, one a row, one a run of a row
    /// (rows, runs, 1) as musubi-tuner has them, or one a square of 128 by 128 numbers; `None` if they are
    /// none of these.
    fn new(values: Vec<f32>, shape: &[usize], of: &[usize]) -> Option<Self> {
        let rows = of.first().copied().unwrap_or(1);
        let columns: usize = of.iter().skip(1).product();
        if rows == 0 || columns == 0 {
            return None;
        }
        let ones = shape.iter().rev().take_while(|&&extent| extent == 1).count();
        let grid = &shape[..shape.len() - ones];
        let squares = |length: usize| length.div_ceil(SQUARE);
        let (tile, across) = match *grid {
            [] => ([rows, columns], 1),
            [down] if down == rows => ([1, columns], 1),
            [1, down] if down == rows => ([1, columns], 1),
            [down, across] if down == rows && columns.is_multiple_of(across) => {
                ([1, columns / across], across)
            }
            [down] if down == squares(rows) && columns <= SQUARE => ([SQUARE, columns], 1),
            [down, across] if down == squares(rows) && across == squares(columns) => {
                ([SQUARE, SQUARE], across)
            }
            _ => return None,
        };
        Some(Self { values, tile, across })
    }

    /// Multiplies `row` of the matrix.
    pub(super) fn apply(&self, row: usize, values: &mut [f32]) {
        let scales = &self.values[row / self.tile[0] * self.across..][..self.across];
        for (run, scale) in values.chunks_mut(self.tile[1]).zip(scales) {
            run.iter_mut().for_each(|value| *value *= scale);
        }
    }

    /// Multiplies all `rows` of it.
    pub(super) fn apply_all(&self, rows: usize, values: &mut [f32]) {
        let columns = (values.len() / rows.max(1)).max(1);
        for (row, values) in values.chunks_mut(columns).enumerate() {
            self.apply(row, values);
        }
    }
}

/// What stands beside a tensor, by the last word of its name.
enum Beside {
    /// Scales of the tensor `.0`.
    Scales(String),
    /// What running in 8 bits would need, and reading does not.
    Note,
    /// How ComfyUI stored the layer.
    Layout,
    /// A second scale, or a table: of formats of four bits.
    FourBits,
}

fn beside(name: &str) -> Option<Beside> {
    // optimum-quanto has a tensor's own name before its parts.
    if let Some(own) = name.strip_suffix("._scale") {
        return Some(Beside::Scales(own.to_owned()));
    }
    let (layer, last) = name.rsplit_once('.').unwrap_or(("", name));
    match last {
        "scale_weight" | "weight_scale" | "weight_scale_inv" => Some(Beside::Scales(if layer.is_empty() {
            "weight".to_owned()
        } else {
            format!("{layer}.weight")
        })),
        "scale_input" | "input_scale" | "output_scale" | "scale_output" | "scaled_fp8" => Some(Beside::Note),
        "comfy_quant" => Some(Beside::Layout),
        "weight_scale_2" | "absmax" | "quant_map" | "nested_absmax" => Some(Beside::FourBits),
        _ if last.starts_with("bitsandbytes__") => Some(Beside::FourBits),
        _ => None,
    }
}

impl Checkpoint {
    /// Gives tensors the scales that stand beside them, which are no tensors of their own.
    ///
    /// # Errors
    /// When scales fit no tensor, or numbers are stored in a way that is not read.
    pub(super) fn attach_scales(&mut self) -> Result<(), WeightError> {
        self.join_parts()?;
        for name in self.entries.keys().cloned().collect::<Vec<_>>() {
            match beside(&name) {
                // Where no number has 8 bits such a name may be anything.
                Some(Beside::Scales(of)) if self.has_eight_bits => self.attach(&name, &of)?,
                Some(Beside::FourBits) => return Err(self.four_bits(&name)),
                Some(Beside::Layout) => {
                    self.check_layout(&name)?;
                    self.entries.remove(&name);
                }
                Some(Beside::Note) if self.has_eight_bits => drop(self.entries.remove(&name)),
                Some(Beside::Scales(_) | Beside::Note) | None => {}
            }
        }
        Ok(())
    }

    /// Gives optimum-quanto's tensors, which are in parts, their names.
    fn join_parts(&mut self) -> Result<(), WeightError> {
        let parts: Vec<String> = self.entries.keys().filter(|name| name.ends_with(PART)).cloned().collect();
        for part in parts {
            if let Some(entry) = self.entries.remove(&part)
                && let Err(reason) = self.insert(part.trim_end_matches(PART).to_owned(), entry)
            {
                return Err(self.in_file(&part, reason));
            }
        }
        self.has_eight_bits = self.entries.values().any(|entry| entry.encoding.is_eight_bits());
        Ok(())
    }

    fn in_file(&self, tensor: &str, reason: String) -> WeightError {
        WeightError::Tensor { name: tensor.to_owned(), reason: format!("in {}: {reason}", self.name) }
    }

    /// The scales `name` for the tensor `of`.
    fn attach(&mut self, name: &str, of: &str) -> Result<(), WeightError> {
        let Some(Entry { encoding, shape, .. }) = self.entries.get(of) else {
            return Err(self.in_file(name, format!("there is no {of} that it could be the scales of")));
        };
        let shape = shape.clone();
        if !encoding.takes_scales() {
            let kind = encoding.name();
            let reason =
                format!("{of} is stored as {kind}, of which scaled numbers are not read; use {WHOLE}");
            return Err(self.in_file(name, reason));
        }
        let (values, own) = self.values(name)?;
        let Some(scales) = Scales::new(values, &own, &shape) else {
            let reason = format!(
                "scales of shape {own:?} do not fit {of} of shape {shape:?}; what is read is one scale for all, one a \
                 row, one a run of a row (rows, runs, 1), or one for 128 by 128 numbers; use {WHOLE}"
            );
            return Err(self.in_file(name, reason));
        };
        if let Some(entry) = self.entries.get_mut(of) {
            entry.scales = Some(scales);
        }
        self.entries.remove(name);
        Ok(())
    }

    fn four_bits(&self, name: &str) -> WeightError {
        self.in_file(name, format!("numbers of four bits (nvfp4, nf4) are not read; use {WHOLE}"))
    }

    /// That ComfyUI's note `name` says of its layer what is read here: 8-bit floats, or integers.
    fn check_layout(&self, name: &str) -> Result<(), WeightError> {
        #[derive(serde::Deserialize)]
        struct Layout {
            format: String,
        }
        let stored = self.stored(name)?;
        let Ok(Layout { format }) = serde_json::from_slice(&stored.bytes) else { return Ok(()) };
        if format.starts_with("float8") || format.starts_with("int8") {
            return Ok(());
        }
        Err(self.in_file(name, format!("numbers stored as {format} are not read; use {WHOLE}")))
    }
}

/// What to use where a quantization is not read.
const WHOLE: &str = "a file in bf16, fp16, fp8 with such scales, or GGUF";

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(values: &[f32], shape: &[usize], of: [usize; 2]) -> Option<Vec<f32>> {
        let scales = Scales::new(values.to_vec(), shape, &of)?;
        let mut ones = vec![1.0; of[0] * of[1]];
        scales.apply_all(of[0], &mut ones);
        Some(ones)
    }

    #[test]
    fn scales_are_of_all_of_rows_or_of_blocks() {
        assert_eq!(scaled(&[2.0], &[], [1, 2]).unwrap(), [2.0, 2.0]);
        assert_eq!(scaled(&[2.0], &[1, 1, 1], [1, 2]).unwrap(), [2.0, 2.0]);
        for shape in [&[2][..], &[2, 1], &[2, 1, 1], &[1, 2]] {
            assert_eq!(scaled(&[2.0, 3.0], shape, [2, 2]).unwrap(), [2.0, 2.0, 3.0, 3.0]);
        }
        for shape in [&[2, 2, 1][..], &[2, 2]] {
            let found = scaled(&[1.0, 2.0, 3.0, 4.0], shape, [2, 4]).unwrap();
            assert_eq!(found, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]);
        }
        let squares = scaled(&[1.0, 2.0, 3.0, 4.0], &[2, 2], [130, 200]).unwrap();
        let at = |row: usize, column: usize| squares[row * 200 + column];
        assert_eq!([at(127, 127), at(127, 128), at(128, 127), at(129, 199)], [1.0, 2.0, 3.0, 4.0]);
        for (count, shape) in [(3, &[3][..]), (6, &[2, 3]), (4, &[2, 2, 2]), (2, &[2])] {
            assert_eq!(scaled(&vec![1.0; count], shape, [4, 4]), None, "{shape:?}");
        }
    }
}
