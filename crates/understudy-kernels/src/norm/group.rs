//! Group normalization of pictures whose channels lie together, with the activation that follows it.

use crate::cpu::Isa;
use crate::floats::Floats;
use crate::math::sigmoid;
use crate::par::{self, Buffer, Shared};
use crate::simd::{fma, multiversion};

/// What a group normalization is made with.
#[derive(Clone, Copy, Debug)]
pub struct GroupNormParams<'a> {
    /// Batch items.
    pub batch: usize,
    /// Groups the channels are cut into.
    pub groups: usize,
    /// Scale of every channel.
    pub weight: &'a [f32],
    /// Shift of every channel.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// Whether `z sigmoid(z)` follows.
    pub silu: bool,
}

/// Gradients of a group normalization.
#[derive(Clone, Debug)]
pub struct GroupNormGradients {
    /// Of the input.
    pub dx: Floats,
    /// Of the weight.
    pub dweight: Vec<f32>,
    /// Of the bias.
    pub dbias: Vec<f32>,
}

/// Positions of one task.
const SPAN: usize = 128;

multiversion! {
    /// The sums over positions of `x - shift` and of its square, each (channels).
    fn moments(x: &[f32], shift: &[f32], sums: &mut [f32], squares: &mut [f32]) {
        for x in x.chunks_exact(shift.len()) {
            for (((&x, &shift), sum), square) in x.iter().zip(shift).zip(sums.iter_mut()).zip(squares.iter_mut()) {
                let x = x - shift;
                *sum += x;
                *square = fma::<FMA>(x, x, *square);
            }
        }
    }
}

multiversion! {
    fn apply(x: &[f32], gain: &[f32], offset: &[f32], silu: bool, y: &mut [f32]) {
        let channels = gain.len();
        for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
            for (((&x, y), &gain), &offset) in x.iter().zip(y.iter_mut()).zip(gain).zip(offset) {
                *y = fma::<FMA>(x, gain, offset);
            }
            if silu {
                for y in y.iter_mut() {
                    *y *= sigmoid::<FMA>(*y);
                }
            }
        }
    }
}

/// The slope of `z sigmoid(z)`, or 1.
#[inline(always)]
fn slope<const FMA: bool>(z: f32, silu: bool) -> f32 {
    if !silu {
        return 1.0;
    }
    let s = sigmoid::<FMA>(z);
    s * fma::<FMA>(z, 1.0 - s, 1.0)
}

multiversion! {
    /// The sums over positions of the gradient before the activation, and of its product with `(x - mean) *
    /// rstd`.
    fn slopes(
        x: &[f32], dy: &[f32], affine: [&[f32]; 2], statistics: [&[f32]; 2], silu: bool, sums: &mut [f32],
        products: &mut [f32],
    ) {
        let ([gain, offset], [mean, rstd]) = (affine, statistics);
        let n = gain.len();
        for (x, dy) in x.chunks_exact(n).zip(dy.chunks_exact(n)) {
            for c in 0..n {
                let g = dy[c] * slope::<FMA>(fma::<FMA>(x[c], gain[c], offset[c]), silu);
                sums[c] += g;
                products[c] = fma::<FMA>(g, (x[c] - mean[c]) * rstd[c], products[c]);
            }
        }
    }
}

multiversion! {
    /// `dx = gain * g - a - (x - mean) * b` with `g` the gradient before the activation.
    fn gradient(
        x: &[f32], dy: &[f32], affine: [&[f32]; 2], mean: &[f32], shares: [&[f32]; 2], silu: bool, dx: &mut [f32],
    ) {
        let ([gain, offset], [a, b]) = (affine, shares);
        let n = gain.len();
        for ((x, dy), dx) in x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
            for c in 0..n {
                let g = dy[c] * slope::<FMA>(fma::<FMA>(x[c], gain[c], offset[c]), silu);
                dx[c] = gain[c] * g - a[c] - (x[c] - mean[c]) * b[c];
            }
        }
    }
}

impl GroupNormParams<'_> {
    fn channels(&self) -> usize {
        self.weight.len()
    }

    /// Elements of an item.
    fn item(&self, x: &[f32]) -> usize {
        let c = self.channels();
        assert!(
            c > 0 && c.is_multiple_of(self.groups.max(1)),
            "group_norm: {c} channels in {} groups",
            self.groups
        );
        assert_eq!(self.bias.len(), c, "group_norm: length of bias");
        assert!(
            self.batch > 0 && x.len().is_multiple_of(self.batch * c),
            "group_norm: x is (batch, positions, channels)"
        );
        x.len() / self.batch
    }

    /// For each item the two sums over positions that `span(item, part, first, second)` makes of parts of an
    /// item, added in order: (batch, 2, channels).
    fn sums(
        &self,
        item: usize,
        span: impl Fn(usize, std::ops::Range<usize>, &mut [f32], &mut [f32]) + Sync,
    ) -> Vec<f64> {
        let c = self.channels();
        let len = SPAN * c;
        let spans = item.div_ceil(len);
        let mut parts = Buffer::<f32>::new(self.batch * spans * 2 * c);
        let out = Shared::new(&mut parts);
        par::for_each(self.batch * spans, |task| {
            let (index, first) = (task / spans, task % spans * len);
            // SAFETY: each task writes its own part.
            let part = unsafe { out.slice(task * 2 * c, 2 * c) };
            part.fill(0.0);
            let (sums, others) = part.split_at_mut(c);
            span(index, index * item + first..index * item + item.min(first + len), sums, others);
        });
        let mut total = vec![0.0; self.batch * 2 * c];
        for (task, part) in parts.chunks_exact(2 * c).enumerate() {
            let total = &mut total[task / spans * 2 * c..][..2 * c];
            total.iter_mut().zip(part).for_each(|(total, &part)| *total += part as f64);
        }
        total
    }

    /// The means of groups (batch, channels) of so many values `of` the group that begins at a channel.
    fn spread(&self, totals: &[f64], positions: usize) -> Vec<f32> {
        let width = self.channels() / self.groups;
        let mean = |group: &[f64]| (group.iter().sum::<f64>() / (width * positions) as f64) as f32;
        totals.chunks_exact(width).flat_map(|group| std::iter::repeat_n(mean(group), width)).collect()
    }

    /// Means and inverse deviations, each (batch, channels).
    fn statistics(&self, x: &[f32]) -> [Vec<f32>; 2] {
        let (isa, item, c) = (Isa::best(), self.item(x), self.channels());
        let half = |totals: &[f64], which: usize| -> Vec<f64> {
            totals.chunks_exact(2 * c).flat_map(|total| total[which * c..][..c].to_vec()).collect()
        };
        let zeros = vec![0.0; c];
        let sums = self.sums(item, |_, part, sums, others| moments(isa, &x[part], &zeros, sums, others));
        let mean = self.spread(&half(&sums, 0), item / c);
        let sums = self.sums(item, |index, part, sums, others| {
            moments(isa, &x[part], &mean[index * c..][..c], sums, others)
        });
        let mut rstd = self.spread(&half(&sums, 1), item / c);
        rstd.iter_mut().for_each(|variance| *variance = 1.0 / (*variance + self.eps).sqrt());
        [mean, rstd]
    }

    /// What the input is multiplied by and what is added, each (batch, channels).
    fn affine(&self, mean: &[f32], rstd: &[f32]) -> [Vec<f32>; 2] {
        let gain: Vec<f32> =
            rstd.iter().zip(self.weight.iter().cycle()).map(|(rstd, weight)| rstd * weight).collect();
        let offset = mean.iter().zip(&gain).zip(self.bias.iter().cycle());
        let offset = offset.map(|((mean, gain), bias)| bias - mean * gain).collect();
        [gain, offset]
    }

    /// Runs `f(item, part)` for parts of all items, on all threads.
    fn for_each_part(&self, item: usize, f: impl Fn(usize, std::ops::Range<usize>) + Send + Sync) {
        let len = SPAN * self.channels();
        let spans = item.div_ceil(len);
        par::for_each(self.batch * spans, |task| {
            let (index, first) = (task / spans, task % spans * len);
            f(index, index * item + first..index * item + item.min(first + len));
        });
    }
}

/// `x` (batch, positions, channels), every group of an item's channels with zero mean and unit variance,
/// times the weight, plus the bias, and what follows; gives the result, the means and the inverse deviations,
/// these (batch, channels).
///
/// # Panics
///
/// If the lengths do not fit.
pub fn group_norm_forward(x: &[f32], params: &GroupNormParams) -> (Floats, [Vec<f32>; 2]) {
    let (isa, item, c) = (Isa::best(), params.item(x), params.channels());
    let [mean, rstd] = params.statistics(x);
    let [gain, offset] = params.affine(&mean, &rstd);
    let mut y = Floats::unspecified(x.len());
    let out = Shared::new(&mut y);
    params.for_each_part(item, |index, part| {
        // SAFETY: each task writes its own part.
        let y = unsafe { out.slice(part.start, part.len()) };
        let of = |values: &Vec<f32>| index * c..index * c + c.min(values.len());
        apply(isa, &x[part], &gain[of(&gain)], &offset[of(&offset)], params.silu, y);
    });
    (y, [mean, rstd])
}

/// Backward of [`group_norm_forward`] from its input and its statistics.
///
/// # Panics
///
/// If the lengths do not fit.
pub fn group_norm_backward(
    x: &[f32],
    params: &GroupNormParams,
    [mean, rstd]: [&[f32]; 2],
    dy: &[f32],
) -> GroupNormGradients {
    let (isa, item, c) = (Isa::best(), params.item(x), params.channels());
    assert_eq!(dy.len(), x.len(), "group_norm: length of dy");
    let [gain, offset] = params.affine(mean, rstd);
    let of = |values: &[f32], index: usize| values[index * c..][..c].to_vec();
    let totals = params.sums(item, |index, part, sums, products| {
        let [gain, offset, mean, rstd] = [&gain, &offset, mean, rstd].map(|values| &values[index * c..][..c]);
        slopes(isa, &x[part.clone()], &dy[part], [gain, offset], [mean, rstd], params.silu, sums, products);
    });
    let (mut dbias, mut dweight) = (vec![0.0; c], vec![0.0; c]);
    let [mut a, mut b] = [Vec::new(), Vec::new()];
    for total in totals.chunks_exact(2 * c) {
        let (sums, products) = total.split_at(c);
        dbias.iter_mut().zip(sums).for_each(|(d, &sum)| *d += sum as f32);
        dweight.iter_mut().zip(products).for_each(|(d, &sum)| *d += sum as f32);
        let weighted = |sums: &[f64]| -> Vec<f64> {
            sums.iter().zip(params.weight).map(|(sum, &weight)| sum * weight as f64).collect()
        };
        a.extend(params.spread(&weighted(sums), item / c));
        b.extend(params.spread(&weighted(products), item / c));
    }
    a.iter_mut().zip(rstd).for_each(|(a, rstd)| *a *= rstd);
    b.iter_mut().zip(rstd).for_each(|(b, rstd)| *b *= rstd * rstd);
    let mut dx = Floats::unspecified(x.len());
    let out = Shared::new(&mut dx);
    params.for_each_part(item, |index, part| {
        // SAFETY: each task writes its own part.
        let dx = unsafe { out.slice(part.start, part.len()) };
        let [gain, offset, mean, a, b] = [&gain, &offset, mean, &a, &b].map(|values| of(values, index));
        gradient(isa, &x[part.clone()], &dy[part], [&gain, &offset], &mean, [&a, &b], params.silu, dx);
    });
    GroupNormGradients { dx, dweight, dbias }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bits, close, dot, finite_difference, random, same_for_any_thread_count, to_f64};

    fn reference(
        x: &[f64],
        batch: usize,
        groups: usize,
        weight: &[f64],
        bias: &[f64],
        silu: bool,
    ) -> Vec<f64> {
        let (c, item) = (weight.len(), x.len() / batch);
        let group = |at: usize| at / item * groups + at % c / (c / groups);
        let count = (item / groups) as f64;
        let (mut mean, mut variance) = (vec![0.0; batch * groups], vec![0.0; batch * groups]);
        (0..x.len()).for_each(|at| mean[group(at)] += x[at] / count);
        (0..x.len()).for_each(|at| variance[group(at)] += (x[at] - mean[group(at)]).powi(2) / count);
        let value = |at: usize| {
            let z = (x[at] - mean[group(at)]) / (variance[group(at)] + 1e-5).sqrt() * weight[at % c]
                + bias[at % c];
            if silu { z / (1.0 + (-z).exp()) } else { z }
        };
        (0..x.len()).map(value).collect()
    }

    #[test]
    fn agrees_with_the_formula_and_its_differences() {
        for (batch, positions, c, groups) in [(1, 3, 4, 2), (2, 7, 6, 3), (1, 300, 2, 1)] {
            for silu in [false, true] {
                let (x, g) = (random(1, batch * positions * c), random(2, batch * positions * c));
                let (weight, bias) = (random(3, c), random(4, c));
                let params = GroupNormParams { batch, groups, weight: &weight, bias: &bias, eps: 1e-5, silu };
                let [xd, wd, bd] = [&x, &weight, &bias].map(|v| to_f64(v));
                let (y, [mean, rstd]) = group_norm_forward(&x, &params);
                close(&y, &reference(&xd, batch, groups, &wd, &bd, silu), 5e-6);
                let found = group_norm_backward(&x, &params, [&mean, &rstd], &g);
                let value =
                    |x: &[f64], w: &[f64], b: &[f64]| dot(&reference(x, batch, groups, w, b, silu), &g);
                close(&found.dx, &finite_difference(&xd, |x| value(x, &wd, &bd)), 5e-5);
                close(&found.dweight, &finite_difference(&wd, |w| value(&xd, w, &bd)), 5e-5);
                close(&found.dbias, &finite_difference(&bd, |b| value(&xd, &wd, b)), 5e-5);
            }
        }
    }

    #[test]
    fn a_far_mean_costs_no_digits() {
        let x: Vec<f32> = random(1, 400).iter().map(|x| x + 100.0).collect();
        let (weight, bias) = (vec![1.0; 4], vec![0.0; 4]);
        let params =
            GroupNormParams { batch: 1, groups: 2, weight: &weight, bias: &bias, eps: 1e-5, silu: false };
        let want = reference(&to_f64(&x), 1, 2, &[1.0; 4], &[0.0; 4], false);
        close(&group_norm_forward(&x, &params).0, &want, 1e-4);
    }

    #[test]
    fn paths_and_threads() {
        let (x, g, weight, bias) =
            (random(1, 2 * 700 * 12), random(2, 2 * 700 * 12), random(3, 12), random(4, 12));
        let params =
            GroupNormParams { batch: 2, groups: 4, weight: &weight, bias: &bias, eps: 1e-5, silu: true };
        same_for_any_thread_count(
            || {
                let (y, [mean, rstd]) = group_norm_forward(&x, &params);
                let found = group_norm_backward(&x, &params, [&mean, &rstd], &g);
                [&y[..], &found.dx, &found.dweight, &found.dbias].concat()
            },
            |v| bits(v),
        );
        let run = |isa| {
            let n = 12 * 9;
            let (mut y, mut dx, mut sums) = (vec![0.0; n], vec![0.0; n], vec![0.0; 48]);
            let (first, rest) = sums.split_at_mut(12);
            let (second, rest) = rest.split_at_mut(12);
            let (third, fourth) = rest.split_at_mut(12);
            moments(isa, &x[..n], &bias, first, second);
            apply(isa, &x[..n], &weight, &bias, true, &mut y);
            slopes(isa, &x[..n], &g[..n], [&weight, &bias], [&bias, &weight], true, third, fourth);
            gradient(isa, &x[..n], &g[..n], [&weight, &bias], &bias, [&weight, &bias], true, &mut dx);
            [y, dx, sums].concat()
        };
        let want = to_f64(&run(Isa::Scalar));
        Isa::available().into_iter().for_each(|isa| close(&run(isa), &want, 5e-6));
    }
}
