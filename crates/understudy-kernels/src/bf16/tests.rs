use super::*;
use crate::cpu::Isa;
use crate::testing::random;

fn naive(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f64> {
    let r = |x: f32| f32::from_bits(round(x) << 16) as f64;
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            c[i * n + j] = (0..k).map(|p| r(a[i * k + p]) * r(b[p * n + j])).sum();
        }
    }
    c
}

#[test]
fn every_path_multiplies_odd_shapes() {
    for (m, k, n) in [(1, 1, 1), (16, 32, 16), (32, 64, 32), (33, 70, 47), (5, 31, 18), (40, 33, 64)] {
        let (a, b) = (random(1, m * k), random(2, k * n));
        let want = naive(&a, &b, m, k, n);
        let tiles = k.div_ceil(DEPTH);
        for isa in Isa::available() {
            let pack = |side, src: &[f32], lanes: usize, strides: (usize, usize)| {
                let mut out = vec![7u16; lanes.div_ceil(LANES) * tiles * TILE];
                for (i, tile) in out.chunks_exact_mut(TILE).enumerate() {
                    let (l, d) = (i / tiles * LANES, i % tiles * DEPTH);
                    let src = &src[l * strides.0 + d * strides.1..];
                    pack_tile(isa, side, src, strides, LANES.min(lanes - l), DEPTH.min(k - d), tile);
                }
                out
            };
            // The same operands stored transposed must pack to the same tiles.
            let at: Vec<f32> = (0..k * m).map(|i| a[i % m * k + i / m]).collect();
            let left = pack(Side::Left, &a, m, (k, 1));
            assert_eq!(left, pack(Side::Left, &at, m, (1, m)));
            let right = pack(Side::Right, &b, n, (1, n));
            let bt: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
            assert_eq!(right, pack(Side::Right, &bt, n, (k, 1)));
            let panels = |data| Panels { data, stride: tiles * TILE };
            for path in Bf16Path::available() {
                let mut c = vec![1.0; m * n];
                for accumulate in [false, true] {
                    // SAFETY: `c` holds the whole output.
                    unsafe {
                        multiply(
                            path,
                            panels(&left),
                            panels(&right),
                            tiles,
                            c.as_mut_ptr(),
                            n,
                            (m, n),
                            accumulate,
                        )
                    };
                }
                let want: Vec<f64> = want.iter().map(|w| 2.0 * w).collect();
                crate::testing::close(&c, &want, 2e-6);
            }
        }
    }
}

#[test]
fn rounding_is_to_nearest_even_and_keeps_nan() {
    for x in
        [0.0, -0.0, 1.0, 1.003_906_2, 1.011_718_8, 3e38, f32::MAX, f32::INFINITY, 1e-40, f32::NAN, -f32::NAN]
    {
        let want = half::bf16::from_f32(x);
        let got = half::bf16::from_bits(round(x) as u16);
        assert!(got == want || got.is_nan() && want.is_nan(), "{x}: {got} {want}");
    }
}
