//! Deterministic random numbers.
//!
//! Every number is a pure function of `(seed, stream, index)` through the counter-based generator
//! Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), so noise is the
//! same on every machine and device and does not depend on threads. Normals use the portable `libm`, whose
//! results do not vary with the platform's C library.

use burn::tensor::{Device, Shape, Tensor, TensorData};
use rayon::prelude::*;

use crate::hash::Fnv;

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];

/// Four random words for one counter and key.
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let first = u64::from(counter[0]) * u64::from(MULTIPLIERS[0]);
        let second = u64::from(counter[2]) * u64::from(MULTIPLIERS[1]);
        counter = [
            (second >> 32) as u32 ^ counter[1] ^ key[0],
            second as u32,
            (first >> 32) as u32 ^ counter[3] ^ key[1],
            first as u32,
        ];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

/// A stream of random numbers, identified by a seed and a stream number.
///
/// Streams with different numbers are independent; [`Random::stream`] derives one per purpose and step, so
/// that a resumed run draws exactly what an uninterrupted one would have drawn.
#[derive(Clone, Debug)]
pub struct Random {
    seed: u64,
    stream: u64,
    position: u64,
}

impl Random {
    /// The stream `stream` of `seed`, from its beginning.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { seed, stream, position: 0 }
    }

    /// A stream for a named purpose and a step number.
    pub fn stream(seed: u64, purpose: &str, step: u64) -> Self {
        Self::new(seed, Fnv::of(purpose.bytes()).wrapping_add(step.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    fn block(&self, index: u64) -> [u32; 4] {
        let counter = [index as u32, (index >> 32) as u32, self.stream as u32, (self.stream >> 32) as u32];
        philox(counter, [self.seed as u32, (self.seed >> 32) as u32])
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let [low, high, ..] = self.block(self.position);
        self.position += 1;
        u64::from(low) | u64::from(high) << 32
    }

    /// A number in `[0, 1)`, with 53 random bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// An integer in `0..bound`; `bound` must not be zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// A standard normal number.
    pub fn normal(&mut self) -> f64 {
        let block = self.block(self.position);
        self.position += 1;
        normal_pair([block[0], block[1]])[0]
    }

    /// `count` standard normal numbers, the same for every number of threads.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        let start = self.position;
        self.position += count.div_ceil(4) as u64;
        let mut values = vec![0.0; count];
        values.par_chunks_mut(4).with_min_len(4096).enumerate().for_each(|(index, chunk)| {
            let [a, b, c, d] = self.block(start + index as u64);
            let [first, second] = [normal_pair([a, b]), normal_pair([c, d])];
            let four = [first[0], first[1], second[0], second[1]];
            for (value, normal) in chunk.iter_mut().zip(four) {
                *value = normal as f32;
            }
        });
        values
    }

    /// A tensor of standard normal noise.
    pub fn normal_tensor<const D: usize>(&mut self, shape: [usize; D], device: &Device) -> Tensor<D> {
        let values = self.normals(shape.iter().product());
        Tensor::from_data(TensorData::new(values, Shape::from(shape)), device)
    }

    /// A random permutation of `0..count` (Fisher-Yates).
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last as u64 + 1) as usize);
        }
        order
    }
}

/// Box and Muller's pair of normals from two random words.
fn normal_pair([first, second]: [u32; 2]) -> [f64; 2] {
    // Shifted by a half so that the logarithm never sees zero.
    let radius = libm::sqrt(-2.0 * libm::log((f64::from(first) + 0.5) / 4_294_967_296.0));
    let angle = std::f64::consts::TAU * (f64::from(second) + 0.5) / 4_294_967_296.0;
    [radius * libm::cos(angle), radius * libm::sin(angle)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published known-answer vectors of Philox 4x32-10.
    #[test]
    fn philox_matches_its_known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }

    #[test]
    fn normals_do_not_depend_on_threads_and_have_unit_variance() {
        let draw = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| Random::new(7, 3).normals(100_001))
        };
        let one = draw(1);
        assert_eq!(one, draw(3));
        let mean = one.iter().map(|&x| f64::from(x)).sum::<f64>() / one.len() as f64;
        let variance = one.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / one.len() as f64;
        assert!(mean.abs() < 0.01 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }

    #[test]
    fn noise_is_pinned() {
        let values = Random::stream(42, "noise", 0).normals(3);
        assert_eq!(values, Random::stream(42, "noise", 0).normals(3));
        assert_ne!(values, Random::stream(42, "noise", 1).normals(3));
        assert_ne!(values, Random::stream(43, "noise", 0).normals(3));
    }
}
