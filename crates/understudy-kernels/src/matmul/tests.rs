use super::*;
use crate::testing::{bits, close, random, same_for_any_thread_count};

fn naive(a: MatRef, b: MatRef) -> Vec<f64> {
    let mut c = vec![0.0; a.rows * b.cols];
    for i in 0..a.rows {
        for j in 0..b.cols {
            c[i * b.cols + j] = (0..a.cols)
                .map(|p| {
                    a.data[i * a.row_stride + p * a.col_stride] as f64
                        * b.data[p * b.row_stride + j * b.col_stride] as f64
                })
                .sum();
        }
    }
    c
}

/// Values bf16 holds exactly, so that both precisions have the same reference.
fn exact(seed: u64, len: usize) -> Vec<f32> {
    random(seed, len).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect()
}

#[test]
fn all_shapes_transposes_and_precisions() {
    let shapes = [
        (1, 1, 1),
        (1, 64, 33),
        (17, 5, 1),
        (3, 100, 65),
        (64, 64, 64),
        (130, 70, 90),
        (20, 1100, 37),
        (5, 9000, 6),
    ];
    for (m, k, n) in shapes {
        let (a, b) = (exact(1, m * k), exact(2, k * n));
        for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
            let a = if ta { MatRef::new(&a, k, m).t() } else { MatRef::new(&a, m, k) };
            let b = if tb { MatRef::new(&b, n, k).t() } else { MatRef::new(&b, k, n) };
            let want = naive(a, b);
            for precision in [Precision::F32, Precision::Bf16] {
                let mut c = vec![f32::NAN; m * n];
                matmul(a, b, &mut c, false, precision);
                close(&c, &want, 1e-5);
                matmul(a, b, &mut c, true, precision);
                close(&c, &want.iter().map(|w| 2.0 * w).collect::<Vec<_>>(), 1e-5);
            }
            let mut c = vec![f32::NAN; m * n];
            matmul_packed(a, &PackedB::new(b), &mut c, false);
            close(&c, &want, 1e-5);
        }
    }
}

#[test]
fn strided_views() {
    let data = exact(3, 4000);
    let a = MatRef { data: &data, rows: 19, cols: 40, row_stride: 97, col_stride: 2 };
    let b = MatRef { data: &data[7..], rows: 40, cols: 21, row_stride: 50, col_stride: 2 };
    for precision in [Precision::F32, Precision::Bf16] {
        let mut c = vec![0.0; 19 * 21];
        matmul(a, b, &mut c, false, precision);
        close(&c, &naive(a, b), 1e-5);
    }
}

#[test]
fn every_path_agrees() {
    let (m, k, n) = (70, 600, 50);
    let (a, b) = (random(1, m * k), random(2, k * n));
    let (a, b) = (MatRef::new(&a, m, k), MatRef::new(&b, k, n));
    let rounded = |x: MatRef| x.data.iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect::<Vec<_>>();
    let (ra, rb) = (rounded(a), rounded(b));
    let want = naive(MatRef::new(&ra, m, k), MatRef::new(&rb, k, n));
    for path in Bf16Path::available() {
        let mut c = vec![0.0; m * n];
        let out = Output::new(&mut c, n, false);
        panels::matmul_bf16(path, a, panels::Right::Plain(b), &out, Threads::Pool);
        close(&c, &want, 1e-5);
    }
}

#[test]
fn batches_and_broadcast() {
    let (batch, m, k, n) = (5, 9, 20, 7);
    let (a, b) = (exact(1, batch * m * k), exact(2, k * n));
    let a = BatchRef::new(&a, batch, m, k);
    let b = BatchRef { batch, batch_stride: 0, ..BatchRef::new(&b, 1, k, n) };
    for precision in [Precision::F32, Precision::Bf16] {
        let mut c = vec![0.0; batch * m * n];
        matmul_batched(a, b, &mut c, false, precision);
        let want: Vec<f64> = (0..batch).flat_map(|i| naive(a.get(i), b.get(i))).collect();
        close(&c, &want, 1e-5);
    }
}

#[test]
fn thread_count_does_not_matter() {
    for (m, k, n) in [(300, 700, 200), (513, 64, 1030), (40, 5000, 33), (1, 3000, 2000)] {
        let (a, b) = (random(1, m * k), random(2, k * n));
        for (precision, transpose) in [
            (Precision::F32, false),
            (Precision::F32, true),
            (Precision::Bf16, false),
            (Precision::Bf16, true),
        ] {
            let a = if transpose { MatRef::new(&a, k, m).t() } else { MatRef::new(&a, m, k) };
            let b = if transpose { MatRef::new(&b, n, k).t() } else { MatRef::new(&b, k, n) };
            same_for_any_thread_count(
                || {
                    let mut c = vec![0.0; m * n];
                    matmul(a, b, &mut c, false, precision);
                    c
                },
                |c| bits(c),
            );
        }
    }
}

#[test]
fn one_thread_and_pool_give_the_same_bits() {
    for (m, k, n) in [(300, 700, 200), (70, 33, 1030), (200, 2000, 65)] {
        let (a, b) = (random(1, m * k), random(2, k * n));
        for precision in [Precision::F32, Precision::Bf16] {
            let [one, pool] = [Threads::One, Threads::Pool].map(|threads| {
                let mut c = vec![0.0; m * n];
                matmul_with(MatRef::new(&a, m, k), MatRef::new(&b, k, n), &mut c, false, precision, threads);
                bits(&c)
            });
            assert!(one == pool, "{m} {k} {n} {precision:?}");
        }
    }
}

#[test]
#[should_panic(expected = "columns of a and rows of b")]
fn wrong_shapes_panic() {
    let x = [0.0; 6];
    matmul(MatRef::new(&x, 2, 3), MatRef::new(&x, 2, 3), &mut [0.0; 6], false, Precision::F32);
}
