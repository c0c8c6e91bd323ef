//! Finding places of one picture in another.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use understudy_engine::attach::AttentionInputs;
use understudy_engine::host::values;

/// Similarities of a block of places: 4 MB of them.
const SIMILARITIES: usize = 1 << 20;

/// How much every place of sample `index` attends to `words`, the mean over heads, of which one is looked at
/// at a time.
pub(super) fn attention_to(inputs: &AttentionInputs, index: usize, words: &[usize]) -> Vec<f32> {
    let [_, heads, tokens, dim] = inputs.query.dims();
    let mut shares = vec![0.0; tokens];
    for head in 0..heads {
        let part = |tensor: &Tensor<4>| {
            let own = tensor.clone().narrow(0, index, 1).narrow(1, head, 1);
            own.squeeze_dims::<2>(&[0, 1])
        };
        let scores = part(&inputs.query).matmul(part(&inputs.key).transpose()) / (dim as f32).sqrt();
        let count = scores.dims()[1];
        let own = values(softmax(scores, 1));
        for (share, row) in shares.iter_mut().zip(own.chunks_exact(count)) {
            *share += words.iter().map(|word| row[*word]).sum::<f32>() / heads as f32;
        }
    }
    shares
}

/// Rows of a matrix about their mean, each of length one. What all places of a picture have in common, such
/// as what attention sinks are made of, says nothing of where a place belongs.
pub(super) fn descriptors(rows: Tensor<2>) -> Tensor<2> {
    let mean = rows.clone().mean_dim(0);
    let rows = rows - mean;
    let length = rows.clone().square().sum_dim(1).sqrt().clamp_min(1e-12);
    rows / length
}

/// What matches what, as far as it has been looked at.
#[derive(Debug)]
pub(super) struct Best {
    /// For every place the place of the references it looks most like.
    pub(super) forth: Vec<usize>,
    /// For every place of the references the place it looks most like, and how much.
    back: Vec<(usize, f32)>,
}

impl Best {
    /// Of places and places of the references by their descriptors, `(places, channels)` each. Similarities
    /// are there for a block of places at a time, never all at once.
    pub(super) fn of(places: &Tensor<2>, references: &Tensor<2>) -> Self {
        let [count, _] = places.dims();
        let [others, _] = references.dims();
        let mut found = Self { forth: Vec::with_capacity(count), back: vec![(0, f32::NEG_INFINITY); others] };
        let block = (SIMILARITIES / others.max(1)).clamp(1, count.max(1));
        let references = references.clone().transpose();
        for first in (0..count).step_by(block) {
            let own = places.clone().narrow(0, first, block.min(count - first));
            found.add(&values(own.matmul(references.clone())));
        }
        found
    }

    /// Looks at the rows of similarities of the next places.
    fn add(&mut self, similarities: &[f32]) {
        for row in similarities.chunks_exact(self.back.len().max(1)) {
            let place = self.forth.len();
            let mut highest = (0, f32::NEG_INFINITY);
            for (column, (&value, back)) in row.iter().zip(&mut self.back).enumerate() {
                if value > highest.1 {
                    highest = (column, value);
                }
                if value > back.1 {
                    *back = (place, value);
                }
            }
            self.forth.push(highest.0);
        }
    }

    /// The place that the references' place `target` looks most like.
    pub(super) fn back(&self, target: usize) -> usize {
        self.back[target].0
    }
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
    use burn::tensor::Device;
    use understudy_engine::random::Random;

    use super::*;

    #[test]
    fn matches_by_blocks_are_those_of_the_whole() {
        // More similarities than a block has.
        let mut random = Random::new(3, 0);
        let mut rows = |count| descriptors(random.normal_tensor([count, 16], &Device::flex()));
        let (places, references) = (rows(2100), rows(1300));
        let found = Best::of(&places, &references);
        let all = values(places.matmul(references.transpose()));
        let highest = |of: &mut dyn Iterator<Item = f32>| {
            of.enumerate()
                .fold((0, f32::MIN), |best, (at, value)| if value > best.1 { (at, value) } else { best })
                .0
        };
        for place in [0, 805, 806, 807, 2099] {
            assert_eq!(found.forth[place], highest(&mut all[place * 1300..][..1300].iter().copied()));
        }
        for target in [0, 1299] {
            assert_eq!(found.back(target), highest(&mut all[target..].iter().step_by(1300).copied()));
        }
    }

    #[test]
    fn a_match_that_does_not_lead_back_is_not_used() {
        // Every place looks like the reference's first, which leads back to one of them only.
        let mut best = Best { forth: Vec::new(), back: vec![(0, f32::NEG_INFINITY); 2] };
        best.add(&[9.0, 1.0, 8.0, 2.0]);
        best.add(&[7.0, 3.0]);
        assert_eq!((best.forth.as_slice(), best.back(0), best.back(1)), (&[0, 0, 0][..], 0, 2));
        assert_eq!(distance(0, 5, 3), 5.0_f32.sqrt());
        assert_eq!(scaled(&[2.0, 4.0, 3.0]), [0.0, 1.0, 0.5]);
        assert_eq!(pooled(&[1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], [1, 1, 1, 2, 4], [1, 2]), [0.75, 0.5]);
    }
}
