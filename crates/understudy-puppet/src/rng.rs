//! Counter-based random numbers.
//!
//! Every decision in the world is a function of (seed, stream, index, draw number) in integer arithmetic, so
//! that all machines and all thread counts make the same scenarios.

/// The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): a bijection of 64-bit words with good
/// avalanche.
pub(crate) const fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a generator is used for. Streams with different names are independent.
#[derive(Clone, Copy)]
pub(crate) enum Stream {
    Identity = 1,
    Motion = 2,
    Idiosyncratic = 3,
    Scenario = 4,
    Caption = 5,
    Portrait = 6,
    Backdrop = 7,
    Explicit = 8,
}

/// A SplitMix64 sequence whose start is a hash of (stream, seed, index).
pub(crate) struct Rng {
    state: u64,
}

impl Rng {
    pub(crate) fn new(stream: Stream, seed: u64, index: u64) -> Self {
        let start = mix(GOLDEN.wrapping_mul(stream as u64) ^ mix(seed));
        Self { state: mix(start.wrapping_add(mix(index ^ GOLDEN))) }
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// A number in `0..bound` (0 if `bound` is 0), by multiplication and shift; the bias is below 2^-32.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        (((self.word() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// A number in `low..=high`.
    pub(crate) fn between(&mut self, low: u32, high: u32) -> u32 {
        low + self.below(high - low + 1)
    }

    /// True in `percent` of 100 draws.
    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<T: Copy, const N: usize>(&mut self, choices: &[T; N]) -> T {
        const { assert!(N > 0) };
        choices[self.below(N as u32) as usize]
    }

    /// One of `choices`, each with its relative weight.
    pub(crate) fn weighted<T: Copy, const N: usize>(&mut self, choices: &[(T, u32); N]) -> T {
        const { assert!(N > 0) };
        let mut left = self.below(choices.iter().map(|(_, weight)| weight).sum());
        for &(choice, weight) in choices {
            if left < weight {
                return choice;
            }
            left -= weight;
        }
        choices[N - 1].0
    }
}
