//! Gradient of a convolution with respect to its weight and bias.

use super::{Conv3dShape, columns, direct_weight};
use crate::cpu::{Bf16Path, Isa};
use crate::matmul::{MatRef, Output, Precision, Threads, matmul_into};
use crate::par::{self, Buffer, Shared};
use crate::simd::{multiversion, sum1};

/// Partial sums of the weight gradient take at most this many elements in all.
const PARTIAL: usize = 16 << 20;
/// Most partial sums.
const GROUPS: usize = 32;

multiversion! {
    fn sum(x: &[f32]) -> f32 {
        sum1(x, |v| v)
    }
}

/// Gradients of [`conv3d_forward`](super::conv3d_forward) with respect to weight and bias: `x` its input,
/// `dy` shaped as its output; gives `dweight` (out_channels, in_channels, kd, kh, kw) and `dbias`
/// (out_channels).
///
/// # Panics
///
/// If a length does not fit `shape`.
pub fn conv3d_backward_weight(
    x: &[f32],
    dy: &[f32],
    shape: &Conv3dShape,
    precision: Precision,
) -> (Vec<f32>, Vec<f32>) {
    assert_eq!(x.len(), shape.input_len(), "conv3d: length of x");
    assert_eq!(dy.len(), shape.output_len(), "conv3d: length of dy");
    let mut dweight = vec![0.0; shape.weight_len()];
    let dbias = bias_gradient(dy, shape);
    if dweight.is_empty() || dy.is_empty() {
        return (dweight, dbias);
    }
    let gather = shape.forward_gather();
    if precision == Precision::Bf16 && shape.stride == [1; 3] {
        direct_weight::run(Bf16Path::best(), &gather, x, dy, PARTIAL, &mut dweight);
        return (dweight, dbias);
    }
    let (co, depth) = (shape.out_channels, shape.in_channels * shape.taps());
    let step = gather.rows_per_task(depth);
    let chunks = gather.rows().div_ceil(step);
    let tasks = shape.batch * chunks;
    let groups = (PARTIAL / dweight.len()).clamp(1, GROUPS).min(tasks);
    let mut parts = Buffer::<f32>::new(groups * dweight.len());
    let (parts_out, size) = (Shared::new(&mut parts), dweight.len());
    let (width, positions) = (gather.count[2], gather.to.positions());
    par::for_each(groups, |group| {
        // SAFETY: each task writes its own partial sum.
        let part = unsafe { parts_out.slice(group * size, size) };
        part.fill(0.0);
        let out = Output::new(part, depth, true);
        for task in group * tasks / groups..(group + 1) * tasks / groups {
            let (item, first) = (task / chunks, task % chunks * step);
            let rows = step.min(gather.rows() - first);
            let mut matrix = Buffer::<f32>::new(depth * rows * width);
            let x = &x[item * gather.from.len()..(item + 1) * gather.from.len()];
            columns::fill(&gather, x, first, rows, &mut matrix);
            let dy = MatRef {
                data: &dy[item * gather.to.len() + first * width..],
                rows: co,
                cols: rows * width,
                row_stride: positions,
                col_stride: 1,
            };
            let threads = if groups == 1 { Threads::Pool } else { Threads::One };
            matmul_into(dy, MatRef::new(&matrix, depth, rows * width).t(), &out, precision, threads);
        }
    });
    par::sum_parts(&parts, &mut dweight);
    (dweight, dbias)
}

fn bias_gradient(dy: &[f32], shape: &Conv3dShape) -> Vec<f32> {
    let isa = Isa::best();
    let (co, positions) = (shape.out_channels, shape.output().iter().product::<usize>());
    let mut parts = vec![0.0; shape.batch * co];
    let out = Shared::new(&mut parts);
    par::for_each(shape.batch * co, |i| {
        // SAFETY: each task writes its own element.
        unsafe { out.slice(i, 1)[0] = sum(isa, &dy[i * positions..(i + 1) * positions]) };
    });
    let mut dbias = vec![0.0; co];
    par::sum_parts(&parts, &mut dbias);
    dbias
}
