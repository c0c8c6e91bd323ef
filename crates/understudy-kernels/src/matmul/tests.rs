use super::*;
use crate::activation::activation_forward;
use crate::testing::{bits, close, random, same_for_any_thread_count, sizes};

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
    let random = sizes(7, 20, [90, 150, 90]).into_iter().map(|[m, k, n]| (m, k, n));
    for (m, k, n) in shapes.into_iter().chain(random) {
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
            let packed = PackedB::exact(b).unwrap();
            // The transpose of what is packed transposed is the same matrix.
            let twice = PackedB::new(b.t());
            for right in [packed.view(), twice.t()] {
                for precision in [Precision::F32, Precision::Bf16] {
                    let mut c = vec![f32::NAN; m * n];
                    matmul_packed(a, right, &mut c, false, precision);
                    close(&c, &want, 1e-5);
                    matmul_packed(a, right, &mut c, true, precision);
                    close(&c, &want.iter().map(|w| 2.0 * w).collect::<Vec<_>>(), 1e-5);
                }
                let mut c = vec![f32::NAN; m * n];
                packed::matmul_widened(a, right, &Output::new(&mut c, n, false));
                close(&c, &want, 1e-5);
            }
        }
    }
}

#[test]
fn what_bf16_holds_is_packed_without_loss() {
    for (k, n) in [(1, 1), (33, 17), (70, 48)] {
        let values = exact(5, k * n);
        let packed = PackedB::exact(MatRef::new(&values, n, k).t()).unwrap();
        assert_eq!([packed.rows(), packed.cols()], [k, n]);
        assert_eq!(packed.unpacked_transpose(), values);
        let mut more = values;
        *more.last_mut().unwrap() = 1.0 + f32::EPSILON;
        assert!(PackedB::exact(MatRef::new(&more, k, n)).is_none());
        assert!(PackedB::exact(MatRef::new(&more, n, k).t()).is_none());
    }
}

#[test]
fn a_packed_side_changes_no_bit() {
    for (m, k, n) in [(70, 1100, 80), (64, 64, 600), (300, 4200, 65)] {
        let (a, b) = (random(1, m * k), exact(2, k * n));
        let (a, b) = (MatRef::new(&a, m, k), MatRef::new(&b, n, k).t());
        let (packed, twice) = (PackedB::new(b), PackedB::new(b.t()));
        for precision in [Precision::F32, Precision::Bf16] {
            // Without AMX the plain product of f32 cuts its columns elsewhere.
            if precision == Precision::F32 && Bf16Path::best() != Bf16Path::Amx {
                continue;
            }
            let mut want = vec![0.0; m * n];
            matmul(a, b, &mut want, false, precision);
            for right in [packed.view(), twice.t()] {
                let mut c = vec![0.0; m * n];
                matmul_packed(a, right, &mut c, false, precision);
                assert!(bits(&c) == bits(&want), "{m} {k} {n} {precision:?}");
            }
        }
        for right in [packed.view(), twice.t()] {
            same_for_any_thread_count(
                || {
                    let mut c = vec![0.0; m * n];
                    packed::matmul_widened(a, right, &Output::new(&mut c, n, false));
                    c
                },
                |c| bits(c),
            );
        }
    }
}

#[test]
fn a_product_is_finished_where_it_is_computed() {
    let biased = |c: &[f32], bias: Option<&[f32]>, n: usize| -> Vec<f32> {
        let bias = |column: usize| bias.map_or(0.0, |bias| bias[column]);
        c.iter().enumerate().map(|(index, value)| value + bias(index % n)).collect()
    };
    for (m, k, n) in [(1, 1, 1), (5, 0, 7), (70, 1100, 80), (300, 4200, 65), (20, 96, 600)] {
        let (a, b, bias) = (random(1, m * k), exact(2, k * n), random(3, n));
        let (a, packed) = (MatRef::new(&a, m, k), PackedB::new(MatRef::new(&b, k, n)));
        let twice = PackedB::new(MatRef::new(&b, k, n).t());
        for precision in [Precision::F32, Precision::Bf16] {
            for right in [packed.view(), twice.t()] {
                let mut plain = vec![f32::NAN; m * n];
                matmul_packed(a, right, &mut plain, false, precision);
                for bias in [None, Some(&bias[..])] {
                    for activation in [None, Some(Activation::GeluTanh), Some(Activation::Silu)] {
                        let mut want = biased(&plain, bias, n);
                        if let Some(kind) = activation {
                            let inner = want.clone();
                            activation_forward(kind, &inner, &mut want);
                        }
                        let mut c = vec![f32::NAN; m * n];
                        matmul_packed_then(a, right, &mut c, Epilogue { bias, activation }, precision);
                        assert!(bits(&c) == bits(&want), "{m} {k} {n} {precision:?} {activation:?}");
                    }
                }
            }
        }
        let mut c = vec![f32::NAN; m * n];
        let out = Output::new(&mut c, n, false);
        let out = Output { epilogue: Epilogue { bias: Some(&bias), activation: None }, ..out };
        if k > 0 {
            packed::matmul_widened(a, packed.view(), &out);
            let want = naive(a, MatRef::new(&b, k, n));
            let want: Vec<f64> = want.iter().enumerate().map(|(at, x)| x + bias[at % n] as f64).collect();
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

/// What rounding operands in any order of sums may cost: the largest `|error| / sum |a| |b|`.
fn relative_error(a: MatRef, b: MatRef, c: &[f32]) -> f64 {
    let absolute = |x: MatRef| x.data.iter().map(|x| x.abs()).collect::<Vec<_>>();
    let (size_a, size_b) = (absolute(a), absolute(b));
    let sizes = naive(MatRef { data: &size_a, ..a }, MatRef { data: &size_b, ..b });
    let errors = naive(a, b)
        .into_iter()
        .zip(c)
        .zip(sizes)
        .map(|((want, got), size)| (want - f64::from(*got)).abs() / size);
    errors.fold(0.0, f64::max)
}

#[test]
fn products_in_parts_are_as_exact_as_in_f32() {
    if Bf16Path::best() != Bf16Path::Amx {
        return;
    }
    for (m, k, n) in [(32, 32, 32), (33, 70, 47), (130, 700, 90), (7, 2049, 40)] {
        // Numbers of all sizes, so that parts differ in their exponents.
        let wide = |seed, count| -> Vec<f32> {
            let scales = random(seed + 10, count);
            random(seed, count).iter().zip(scales).map(|(x, scale)| x * (20.0 * scale).exp2()).collect()
        };
        for (a, b) in [(random(1, m * k), random(2, k * n)), (wide(3, m * k), wide(4, k * n))] {
            for (ta, tb) in [(false, false), (true, false), (false, true), (true, true)] {
                let a = if ta { MatRef::new(&a, k, m).t() } else { MatRef::new(&a, m, k) };
                let b = if tb { MatRef::new(&b, n, k).t() } else { MatRef::new(&b, k, n) };
                let product = |compute: &dyn Fn(&Output)| {
                    let mut c = vec![f32::NAN; m * n];
                    compute(&Output::new(&mut c, n, false));
                    c
                };
                let right = panels::Right::Plain;
                let numbers = panels::Numbers::InParts;
                let ours = product(&|out| {
                    panels::matmul_tiles(Bf16Path::Amx, numbers, a, right(b), out, Threads::Pool);
                });
                let plain = product(&|out| matmul_f32(a, b, out, Threads::Pool));
                let (ours, plain) = (relative_error(a, b, &ours), relative_error(a, b, &plain));
                assert!(
                    ours < 1e-6 && ours < 2.0 * plain + 6e-8,
                    "{m} {k} {n} {ta} {tb}: {ours:e} {plain:e}"
                );
            }
        }
    }
}

#[test]
fn large_products_add_to_what_is_there_and_do_not_depend_on_threads() {
    let (m, k, n) = (300, 1300, 200);
    let (a, b, start) = (random(1, m * k), random(2, k * n), random(3, m * n));
    let (a, b) = (MatRef::new(&a, m, k), MatRef::new(&b, k, n));
    let want: Vec<f64> =
        naive(a, b).iter().zip(&start).map(|(product, start)| product + f64::from(*start)).collect();
    let mut c = start.clone();
    matmul(a, b, &mut c, true, Precision::F32);
    close(&c, &want, 1e-5);
    same_for_any_thread_count(
        || {
            let mut c = start.clone();
            matmul(a, b, &mut c, true, Precision::F32);
            c
        },
        |c| bits(c),
    );
}

#[test]
fn what_is_not_finite_stays_so_in_parts() {
    if Bf16Path::best() != Bf16Path::Amx {
        return;
    }
    let b = [f32::MAX, f32::INFINITY, f32::NAN, 1e-3];
    let mut c = [0.0; 4];
    let right = panels::Right::Plain(MatRef::new(&b, 1, 4));
    let out = Output::new(&mut c, 4, false);
    panels::matmul_tiles(
        Bf16Path::Amx,
        panels::Numbers::InParts,
        MatRef::new(&[1.0], 1, 1),
        right,
        &out,
        Threads::One,
    );
    assert_eq!([c[0], c[3]], [f32::MAX, 1e-3]);
    // Infinity times the other parts, which are zero, is no number.
    assert!(!c[1].is_finite() && c[2].is_nan());
}
