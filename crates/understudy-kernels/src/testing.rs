//! What the unit tests share: random numbers, comparisons, thread pools.

/// Values in about [-1, 1), the same for the same seed.
pub(crate) fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1 << 23) as f32) - 1.0
        })
        .collect()
}

/// So many lists of sizes, each from 1 to its bound, the same for the same seed.
pub(crate) fn sizes<const D: usize>(seed: u64, count: usize, most: [usize; D]) -> Vec<[usize; D]> {
    let share = random(seed, count * D);
    let size = |at: usize, most: usize| 1 + ((share[at] + 1.0) / 2.0 * most as f32) as usize % most;
    (0..count).map(|list| std::array::from_fn(|index| size(list * D + index, most[index]))).collect()
}

/// Asserts `|got - want| <= tolerance * (scale + |want|)` with the scale the root mean square of `want`.
#[track_caller]
pub(crate) fn close(got: &[f32], want: &[f64], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "lengths");
    let rms = (want.iter().map(|w| w * w).sum::<f64>() / want.len().max(1) as f64).sqrt();
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let bound = tolerance * (rms + w.abs()) + 1e-30;
        assert!((g as f64 - w).abs() <= bound, "element {i}: got {g}, want {w}, rms {rms}");
    }
}

pub(crate) fn to_f64(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| v as f64).collect()
}

/// Runs `f` in pools of 1, 2 and 3 threads and asserts that the results agree bit for bit.
#[track_caller]
pub(crate) fn same_for_any_thread_count<T: Send>(f: impl Fn() -> T + Sync, bits: impl Fn(&T) -> Vec<u32>) {
    let mut first: Option<Vec<u32>> = None;
    for threads in [1, 2, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let got = bits(&pool.install(&f));
        match &first {
            None => first = Some(got),
            Some(want) => assert!(*want == got, "{threads} threads give another result"),
        }
    }
}

pub(crate) fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

/// Gradient of a scalar function of `x` by central differences.
pub(crate) fn finite_difference(x: &[f64], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    let h = 1e-5;
    (0..x.len())
        .map(|i| {
            let at = x[i];
            x[i] = at + h;
            let up = f(&x);
            x[i] = at - h;
            let down = f(&x);
            x[i] = at;
            (up - down) / (2.0 * h)
        })
        .collect()
}

pub(crate) fn dot(a: &[f64], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, &y)| x * y as f64).sum()
}
