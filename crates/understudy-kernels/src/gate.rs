//! Gated residual: `x + y * gate`, the gate shared by the tokens of a batch item.

use crate::cpu::Isa;
use crate::floats::Floats;
use crate::par::{self, CHUNK, Shared};
use crate::simd::{fma, multiversion};

multiversion! {
    fn forward(x: &[f32], y: &[f32], gate: &[f32], out: &mut [f32]) {
        let c = gate.len();
        for ((x, y), out) in x.chunks_exact(c).zip(y.chunks_exact(c)).zip(out.chunks_exact_mut(c)) {
            for i in 0..c {
                out[i] = fma::<FMA>(y[i], gate[i], x[i]);
            }
        }
    }
}

multiversion! {
    fn backward(y: &[f32], gate: &[f32], dout: &[f32], dy: &mut [f32], dgate: &mut [f32]) {
        let c = gate.len();
        let dgate = &mut dgate[..c];
        for ((y, g), dy) in y.chunks_exact(c).zip(dout.chunks_exact(c)).zip(dy.chunks_exact_mut(c)) {
            for i in 0..c {
                dy[i] = g[i] * gate[i];
                dgate[i] = fma::<FMA>(g[i], y[i], dgate[i]);
            }
        }
    }
}

/// `out = x + y * gate`; `x`, `y`, `out` (batch, tokens, c), `gate` (batch, c).
///
/// # Panics
///
/// If the lengths do not fit.
pub fn gated_add_forward(x: &[f32], y: &[f32], gate: &[f32], batch: usize, out: &mut [f32]) {
    let n = x.len();
    assert!(y.len() == n && out.len() == n, "gated_add: lengths of x, y and out");
    if n == 0 {
        return;
    }
    let (tokens, c) = shape(n, gate.len(), batch);
    let isa = Isa::best();
    let out = Shared::new(out);
    let rows = (CHUNK / c).max(1);
    let chunks = tokens.div_ceil(rows);
    par::for_each(batch * chunks, |task| {
        let (b, row) = (task / chunks, task % chunks * rows);
        let (start, len) = ((b * tokens + row) * c, rows.min(tokens - row) * c);
        // SAFETY: each task writes its own rows.
        let out = unsafe { out.slice(start, len) };
        forward(isa, &x[start..start + len], &y[start..start + len], &gate[b * c..(b + 1) * c], out);
    });
}

/// Gradients of [`gated_add_forward`]; that of `x` is the output's own.
#[derive(Clone, Debug, PartialEq)]
pub struct GatedAddGradients {
    /// (batch, tokens, c)
    pub dy: Floats,
    /// (batch, c)
    pub dgate: Vec<f32>,
}

/// Backward of [`gated_add_forward`]; `y` and `dout` (batch, tokens, c), `gate` (batch, c).
///
/// # Panics
///
/// If the lengths do not fit.
pub fn gated_add_backward(y: &[f32], gate: &[f32], batch: usize, dout: &[f32]) -> GatedAddGradients {
    let n = y.len();
    assert_eq!(dout.len(), n, "gated_add: length of dout");
    let (mut dy, mut dgate) = (Floats::unspecified(n), vec![0.0; gate.len()]);
    if n == 0 {
        return GatedAddGradients { dy, dgate };
    }
    let (tokens, c) = shape(n, gate.len(), batch);
    let isa = Isa::best();
    let rows = (CHUNK / c).max(1);
    let chunks = tokens.div_ceil(rows);
    let mut parts = vec![0.0; batch * chunks * c];
    let (dy_out, parts_out) = (Shared::new(&mut dy), Shared::new(&mut parts));
    par::for_each(batch * chunks, |task| {
        let (b, row) = (task / chunks, task % chunks * rows);
        let (start, len) = ((b * tokens + row) * c, rows.min(tokens - row) * c);
        // SAFETY: each task writes its own rows and its own partial sum.
        let (dy, part) = unsafe { (dy_out.slice(start, len), parts_out.slice(task * c, c)) };
        backward(isa, &y[start..start + len], &gate[b * c..(b + 1) * c], &dout[start..start + len], dy, part);
    });
    for (dgate, parts) in dgate.chunks_exact_mut(c).zip(parts.chunks_exact(chunks * c)) {
        par::sum_parts(parts, dgate);
    }
    GatedAddGradients { dy, dgate }
}

fn shape(n: usize, gate: usize, batch: usize) -> (usize, usize) {
    assert!(batch > 0 && gate > 0 && gate.is_multiple_of(batch), "gated_add: gate is (batch, c)");
    assert!(n.is_multiple_of(gate), "gated_add: x is (batch, tokens, c)");
    (n / gate, gate / batch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{bits, close, dot, finite_difference, random, same_for_any_thread_count, to_f64};

    fn reference(x: &[f64], y: &[f64], gate: &[f64], batch: usize) -> Vec<f64> {
        let c = gate.len() / batch;
        let tokens = x.len() / gate.len();
        (0..x.len()).map(|i| x[i] + y[i] * gate[i / (tokens * c) * c + i % c]).collect()
    }

    #[test]
    fn agrees_with_the_formula_and_its_differences() {
        for (batch, tokens, c) in [(1, 1, 1), (2, 3, 5), (3, 4, 17)] {
            let n = batch * tokens * c;
            let (x, y, gate, dout) = (random(1, n), random(2, n), random(3, batch * c), random(4, n));
            let (xd, yd, gd) = (to_f64(&x), to_f64(&y), to_f64(&gate));
            let mut out = vec![0.0; n];
            gated_add_forward(&x, &y, &gate, batch, &mut out);
            close(&out, &reference(&xd, &yd, &gd, batch), 1e-6);
            let grads = gated_add_backward(&y, &gate, batch, &dout);
            close(&grads.dy, &finite_difference(&yd, |y| dot(&reference(&xd, y, &gd, batch), &dout)), 1e-5);
            close(
                &grads.dgate,
                &finite_difference(&gd, |g| dot(&reference(&xd, &yd, g, batch), &dout)),
                1e-5,
            );
        }
    }

    #[test]
    fn paths_and_threads() {
        let (batch, tokens, c) = (2, 3000, 37);
        let n = batch * tokens * c;
        let (y, gate, dout) = (random(2, n), random(3, batch * c), random(4, n));
        same_for_any_thread_count(
            || gated_add_backward(&y, &gate, batch, &dout),
            |g| [bits(&g.dy), bits(&g.dgate)].concat(),
        );
        let run = |isa| {
            let (mut out, mut dy, mut dgate) = (vec![0.0; 370], vec![0.0; 370], vec![0.0; 37]);
            forward(isa, &y[..370], &dout[..370], &gate[..37], &mut out);
            backward(isa, &y[..370], &gate[..37], &dout[..370], &mut dy, &mut dgate);
            [out, dy, dgate].concat()
        };
        let want = to_f64(&run(Isa::Scalar));
        Isa::available().into_iter().for_each(|isa| close(&run(isa), &want, 1e-6));
    }
}
