//! Finding places of one picture in another.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use understudy_engine::attach::AttentionInputs;
use understudy_engine::host::values;

/// How much every place of sample `index` attends to `words`, the mean over heads.
pub(super) fn attention_to(inputs: &AttentionInputs, index: usize, words: &[usize]) -> Vec<f32> {
    let part = |tensor: &Tensor<4>| tensor.clone().narrow(0, index, 1);
    let (query, key) = (part(&inputs.query), part(&inputs.key));
    let [_, _, tokens, dim] = query.dims();
    let scores = query.matmul(key.swap_dims(2, 3)) / (dim as f32).sqrt();
    let count = scores.dims()[3];
    let shares = values(softmax(scores, 3).mean_dim(1).reshape([tokens, count]));
    shares.chunks_exact(count).map(|row| words.iter().map(|word| row[*word]).sum()).collect()
}

/// Rows of a matrix about their mean, each of length one. What all places of a picture have in common, such as what
/// attention sinks are made of, says nothing of where a place belongs.
pub(super) fn descriptors(rows: Tensor<2>) -> Tensor<2> {
    let mean = rows.clone().mean_dim(0);
    let rows = rows - mean;
    let length = rows.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    rows / length
}

/// For every row of `similarity` its largest column, and for every column its largest row.
pub(super) fn best(similarity: &[f32], rows: usize) -> (Vec<usize>, Vec<usize>) {
    let columns = similarity.len() / rows.max(1);
    let mut forth = vec![0; rows];
    let mut back = vec![0; columns];
    for (row, line) in similarity.chunks_exact(columns.max(1)).enumerate() {
        for (column, value) in line.iter().enumerate() {
            if *value > line[forth[row]] {
                forth[row] = column;
            }
            if *value > similarity[back[column] * columns + column] {
                back[column] = row;
            }
        }
    }
    (forth, back)
}

/// How far apart two places of a frame are.
pub(super) fn distance(one: usize, other: usize, columns: usize) -> f32 {
    let apart = |a: usize, b: usize| a.abs_diff(b) as f32;
    apart(one / columns, other / columns).hypot(apart(one % columns, other % columns))
}

/// `values` between the least, 0, and the most, 1.
pub(super) fn scaled(values: &[f32]) -> Vec<f32> {
    let (least, most) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(least, most), value| {
        (least.min(*value), most.max(*value))
    });
    values.iter().map(|value| (value - least) / (most - least).max(f32::MIN_POSITIVE)).collect()
}

pub(super) fn foreground(shares: &[f32], threshold: f32) -> Vec<bool> {
    shares.iter().map(|share| *share > threshold).collect()
}

/// The means of a mask of latent places over patches.
pub(super) fn pooled(
    mask: &[f32],
    [_, _, _, height, width]: [usize; 5],
    [rows, columns]: [usize; 2],
) -> Vec<f32> {
    let [tall, wide] = [height / rows, width / columns];
    let mean = |place: usize| {
        let (top, left) = (place / columns * tall, place % columns * wide);
        let line = |row: usize| &mask[(top + row) * width + left..][..wide];
        (0..tall).flat_map(line).sum::<f32>() / (tall * wide) as f32
    };
    (0..rows * columns).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_that_does_not_lead_back_is_not_used() {
        // Every place looks like the reference's first, which leads back to one of them only.
        let similarity = [9.0, 1.0, 8.0, 2.0, 7.0, 3.0];
        assert_eq!(best(&similarity, 3), (vec![0, 0, 0], vec![0, 2]));
        assert_eq!(distance(0, 5, 3), 5.0_f32.sqrt());
        assert_eq!(scaled(&[2.0, 4.0, 3.0]), [0.0, 1.0, 0.5]);
        assert_eq!(pooled(&[1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], [1, 1, 1, 2, 4], [1, 2]), [0.75, 0.5]);
    }
}
