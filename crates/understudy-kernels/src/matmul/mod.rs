//! Matrix products in f32 and with bf16 operands.

mod packed;
mod panels;
#[cfg(test)]
mod tests;

use std::ops::Range;

use crate::activation::{Activation, finish};
use crate::cpu::{Bf16Path, Isa};
use crate::par::{self, Shared};
pub use packed::{PackedB, PackedRef};
pub(crate) use panels::{pack_lanes, panels_len};

/// Arithmetic of a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Precision {
    /// Operands and sums in f32. Large products are computed from bf16 parts of the operands where there is
    /// AMX, as exact as in f32 otherwise, but that of numbers below 1e-33 parts are lost.
    F32,
    /// Operands rounded to bf16 (to nearest even), products summed in f32.
    ///
    /// Fast where the processor has AMX or AVX512-BF16; elsewhere it gives the same rounding at about the
    /// speed of f32.
    Bf16,
}

/// A view of an `f32` matrix: element `(i, j)` is `data[i * row_stride + j * col_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct MatRef<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Distance between rows, in elements.
    pub row_stride: usize,
    /// Distance between columns, in elements.
    pub col_stride: usize,
}

impl<'a> MatRef<'a> {
    /// A contiguous row-major matrix.
    ///
    /// # Panics
    ///
    /// If `data` is shorter than `rows * cols`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        let matrix = MatRef { data, rows, cols, row_stride: cols, col_stride: 1 };
        matrix.check();
        matrix
    }

    /// The transpose, without a copy.
    pub fn t(self) -> Self {
        MatRef {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    fn check(&self) {
        if self.rows > 0 && self.cols > 0 {
            let last = (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride;
            assert!(
                last < self.data.len(),
                "a {}x{} matrix with strides ({}, {}) needs {} elements, not {}",
                self.rows,
                self.cols,
                self.row_stride,
                self.col_stride,
                last + 1,
                self.data.len()
            );
        }
    }
}

/// A view of equally shaped `f32` matrices: element `(b, i, j)` is
/// `data[b * batch_stride + i * row_stride + j * col_stride]`. A `batch_stride` of 0 repeats one matrix.
#[derive(Clone, Copy, Debug)]
pub struct BatchRef<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Number of matrices.
    pub batch: usize,
    /// Rows of each.
    pub rows: usize,
    /// Columns of each.
    pub cols: usize,
    /// Distance between matrices, in elements.
    pub batch_stride: usize,
    /// Distance between rows, in elements.
    pub row_stride: usize,
    /// Distance between columns, in elements.
    pub col_stride: usize,
}

impl<'a> BatchRef<'a> {
    /// Contiguous row-major matrices, one after another.
    ///
    /// # Panics
    ///
    /// If `data` is shorter than `batch * rows * cols`.
    pub fn new(data: &'a [f32], batch: usize, rows: usize, cols: usize) -> Self {
        assert!(data.len() >= batch * rows * cols, "batched matrix: too few elements");
        BatchRef { data, batch, rows, cols, batch_stride: rows * cols, row_stride: cols, col_stride: 1 }
    }

    /// Each matrix transposed, without a copy.
    pub fn t(self) -> Self {
        BatchRef {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    fn get(&self, index: usize) -> MatRef<'a> {
        let matrix = MatRef {
            data: &self.data[index * self.batch_stride..],
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            col_stride: self.col_stride,
        };
        matrix.check();
        matrix
    }
}

/// Whether a product may use the pool, or runs inside a task that already does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Threads {
    One,
    Pool,
}

/// `c = a b`, or `c += a b` with `accumulate`; `a` (m, k), `b` (k, n), `c` (m, n) contiguous.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn matmul(a: MatRef, b: MatRef, c: &mut [f32], accumulate: bool, precision: Precision) {
    if precision == Precision::Bf16 || !in_parts(a.rows, a.cols, b.cols) {
        return matmul_with(a, b, c, accumulate, precision, Threads::Pool);
    }
    check_product(a, b);
    assert_eq!(c.len(), a.rows * b.cols, "matmul: elements of c");
    let (ld, right) = (b.cols, panels::Right::Plain(b));
    let out = Output::new(c, ld, accumulate);
    panels::matmul_tiles(Bf16Path::Amx, panels::Numbers::InParts, a, right, &out, Threads::Pool);
}

/// [`matmul`] on the calling thread or on the pool.
pub(crate) fn matmul_with(
    a: MatRef,
    b: MatRef,
    c: &mut [f32],
    accumulate: bool,
    precision: Precision,
    threads: Threads,
) {
    assert_eq!(c.len(), a.rows * b.cols, "matmul: elements of c");
    if c.is_empty() {
        return;
    }
    if a.cols == 0 {
        if !accumulate {
            c.fill(0.0);
        }
        return;
    }
    let ld = b.cols;
    matmul_into(a, b, &Output::new(c, ld, accumulate), precision, threads);
}

/// The product of non-empty operands into rows that may lie apart.
pub(crate) fn matmul_into(a: MatRef, b: MatRef, out: &Output, precision: Precision, threads: Threads) {
    check_product(a, b);
    assert!(a.rows > 0 && a.cols > 0 && b.cols > 0, "matmul: empty operand");
    // The last element written, which `at` checks.
    out.c.at((a.rows - 1) * out.ld + b.cols);
    match precision {
        Precision::F32 => matmul_f32(a, b, out, threads),
        Precision::Bf16 => {
            panels::matmul_bf16(Bf16Path::best(), a, panels::Right::Plain(b), out, threads);
        }
    }
}

fn check_product(a: MatRef, b: MatRef) {
    a.check();
    b.check();
    assert_eq!(a.cols, b.rows, "matmul: columns of a and rows of b");
}

/// Whether [`matmul`] computes an f32 product from bf16 parts of its operands by AMX: it must be there, and
/// the work outweigh the packing. Products within a task of another kernel stay plain: they are small, or
/// pack one operand again and again.
fn in_parts(m: usize, k: usize, n: usize) -> bool {
    const LEAST: usize = 64;
    m.min(n).min(k) >= LEAST && Bf16Path::best() == Bf16Path::Amx
}

/// What becomes of a product: `f(a b + bias)`, of which either may be left out. Each part of the product is
/// finished by the task that computed it, while it is in the cache.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epilogue<'a> {
    /// Added to every row, as long as one.
    pub bias: Option<&'a [f32]>,
    /// What is applied then.
    pub activation: Option<Activation>,
}

/// Where a product goes: a row-major matrix with rows `ld` apart, overwritten or added to, and finished.
pub(crate) struct Output<'a> {
    c: Shared<'a, f32>,
    ld: usize,
    accumulate: bool,
    epilogue: Epilogue<'a>,
}

impl<'a> Output<'a> {
    pub(crate) fn new(c: &'a mut [f32], ld: usize, accumulate: bool) -> Self {
        Output { c: Shared::new(c), ld, accumulate, epilogue: Epilogue::default() }
    }

    /// Finishes a part of the output whose sums are whole.
    ///
    /// # Safety
    ///
    /// No other task may touch this part.
    unsafe fn finish(&self, rows: Range<usize>, columns: Range<usize>) {
        let Epilogue { bias, activation } = self.epilogue;
        if bias.is_none() && activation.is_none() {
            return;
        }
        let isa = Isa::best();
        for row in rows {
            // SAFETY: the caller's promise.
            let row = unsafe { self.c.slice(row * self.ld + columns.start, columns.len()) };
            finish(isa, activation, bias.map(|bias| &bias[columns.clone()]), row);
        }
    }

    /// The columns from `column` on.
    fn columns(&self, column: usize) -> Output<'a> {
        Output { c: self.c.skip(column), ..*self }
    }
}

/// `gemm` splits rows and columns over threads and never the inner dimension, and cuts the inner dimension by
/// shape and cache size alone, so the result does not depend on the number of threads.
fn matmul_f32(a: MatRef, b: MatRef, out: &Output, threads: Threads) {
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::Pool => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: the checks of `matmul_into` keep every index inside its slice, and the output is borrowed
    // mutably.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.c.at(0),
            1,
            out.ld as isize,
            out.accumulate,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// [`matmul`] with a right-hand side packed before. With [`Precision::F32`] only the left operand has more
/// digits than bf16.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn matmul_packed(a: MatRef, b: PackedRef, c: &mut [f32], accumulate: bool, precision: Precision) {
    let length = c.len();
    packed_into(a, b, Output::new(c, b.cols(), accumulate), precision, length);
}

/// `c = f(a b + bias)` with a right-hand side packed before: see [`matmul_packed`] and [`Epilogue`].
///
/// # Panics
///
/// If the shapes do not fit.
pub fn matmul_packed_then(a: MatRef, b: PackedRef, c: &mut [f32], epilogue: Epilogue, precision: Precision) {
    assert!(epilogue.bias.is_none_or(|bias| bias.len() == b.cols()), "matmul: length of the bias");
    let length = c.len();
    packed_into(a, b, Output { epilogue, ..Output::new(c, b.cols(), false) }, precision, length);
}

/// The product into an output of `length` elements.
fn packed_into(a: MatRef, b: PackedRef, out: Output, precision: Precision, length: usize) {
    a.check();
    assert_eq!(a.cols, b.rows(), "matmul: columns of a and rows of b");
    assert_eq!(length, a.rows * b.cols(), "matmul: elements of c");
    if length == 0 {
        return;
    }
    if a.cols == 0 {
        // SAFETY: no task runs.
        unsafe {
            if !out.accumulate {
                out.c.slice(0, length).fill(0.0);
            }
            out.finish(0..a.rows, 0..b.cols());
        }
        return;
    }
    let right = panels::Right::Packed(b);
    match (precision, Bf16Path::best()) {
        (Precision::Bf16, path) => panels::matmul_bf16(path, a, right, &out, Threads::Pool),
        (Precision::F32, Bf16Path::Amx) => {
            panels::matmul_tiles(Bf16Path::Amx, panels::Numbers::InParts, a, right, &out, Threads::Pool);
        }
        (Precision::F32, _) => packed::matmul_widened(a, b, &out),
    }
}

/// `c[i] = a[i] b[i]` (or `+=`) for every matrix of a batch; `c` (batch, m, n) contiguous.
///
/// # Panics
///
/// If the shapes do not fit.
pub fn matmul_batched(a: BatchRef, b: BatchRef, c: &mut [f32], accumulate: bool, precision: Precision) {
    assert_eq!(a.batch, b.batch, "matmul: batch sizes");
    assert_eq!(a.cols, b.rows, "matmul: columns of a and rows of b");
    let size = a.rows * b.cols;
    assert_eq!(c.len(), a.batch * size, "matmul: elements of c");
    if size == 0 {
        return;
    }
    // Either way gives the same bits; one matrix a task saves the inner forks when there are enough of them.
    if a.batch >= rayon::current_num_threads() {
        let out = Shared::new(c);
        par::for_each(a.batch, |i| {
            // SAFETY: each task writes its own matrix.
            let c = unsafe { out.slice(i * size, size) };
            matmul_with(a.get(i), b.get(i), c, accumulate, precision, Threads::One);
        });
    } else {
        for (i, c) in c.chunks_exact_mut(size).enumerate() {
            matmul_with(a.get(i), b.get(i), c, accumulate, precision, Threads::Pool);
        }
    }
}
