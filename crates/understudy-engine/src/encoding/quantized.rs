//! GGUF's block quantizations: small integers with scales for every block.
//!
//! The layouts are those of ggml (`ggml-quants`), here read only. `K` kinds have blocks of 256 numbers in
//! sub-blocks with scales of their own.

use half::f16;

/// A block layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// 32 numbers of 4 bits around 0.
    Q4_0,
    /// 32 numbers of 4 bits from a minimum.
    Q4_1,
    /// 32 numbers of 5 bits around 0.
    Q5_0,
    /// 32 numbers of 5 bits from a minimum.
    Q5_1,
    /// 32 numbers of 8 bits.
    Q8_0,
    /// 256 numbers of 2 bits.
    Q2K,
    /// 256 numbers of 3 bits.
    Q3K,
    /// 256 numbers of 4 bits.
    Q4K,
    /// 256 numbers of 5 bits.
    Q5K,
    /// 256 numbers of 6 bits.
    Q6K,
    /// 32 numbers of 4 bits that stand for uneven steps.
    Iq4Nl,
    /// 256 of these, in sub-blocks.
    Iq4Xs,
}

impl Quantization {
    /// As ggml names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
        }
    }

    /// Numbers and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
            Self::Iq4Nl => (32, 18),
            Self::Iq4Xs => (256, 136),
        }
    }

    /// Appends the numbers of whole blocks to `values`.
    pub(super) fn decode(self, bytes: &[u8], values: &mut Vec<f32>) {
        for block in bytes.chunks_exact(self.block().1) {
            match self {
                Self::Q4_0 => four_bits(block, 2, |q| q - 8.0, values),
                Self::Q4_1 => four_bits(block, 4, |q| q, values),
                Self::Q5_0 => five_bits(block, 2, |q| q - 16.0, values),
                Self::Q5_1 => five_bits(block, 4, |q| q, values),
                Self::Q8_0 => {
                    let scale = half_at(block, 0);
                    values.extend(block[2..].iter().map(|&q| scale * f32::from(q as i8)));
                }
                Self::Q2K => two_bits_k(block, values),
                Self::Q3K => three_bits_k(block, values),
                Self::Q4K => four_bits_k(block, values),
                Self::Q5K => five_bits_k(block, values),
                Self::Q6K => six_bits_k(block, values),
                Self::Iq4Nl => uneven(&block[2..], half_at(block, 0), values),
                Self::Iq4Xs => uneven_k(block, values),
            }
        }
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// A scale, and a minimum where the header has room for one.
fn header(block: &[u8], length: usize) -> (f32, f32) {
    (half_at(block, 0), if length == 4 { half_at(block, 2) } else { 0.0 })
}

/// Low halves of 16 bytes, then their high halves.
fn four_bits(block: &[u8], start: usize, centre: impl Fn(f32) -> f32, values: &mut Vec<f32>) {
    let (scale, least) = header(block, start);
    let quants = &block[start..];
    let nibbles = quants.iter().map(|q| q & 15).chain(quants.iter().map(|q| q >> 4));
    values.extend(nibbles.map(|q| centre(f32::from(q)) * scale + least));
}

/// The same with a fifth bit for each number in four bytes before them.
fn five_bits(block: &[u8], start: usize, centre: impl Fn(f32) -> f32, values: &mut Vec<f32>) {
    let (scale, least) = header(block, start);
    let high = u32::from_le_bytes([block[start], block[start + 1], block[start + 2], block[start + 3]]);
    let quants = &block[start + 4..];
    let nibbles = quants.iter().map(|q| q & 15).chain(quants.iter().map(|q| q >> 4));
    values.extend(nibbles.enumerate().map(|(index, q)| {
        let fifth = (high >> index & 1) as u8;
        centre(f32::from(q | fifth << 4)) * scale + least
    }));
}

/// 16 scales and minima of 4 bits, 64 bytes of numbers, a scale and a minimum of these.
fn two_bits_k(block: &[u8], values: &mut Vec<f32>) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (scale, least) = (half_at(block, 80), half_at(block, 82));
    for (part, &pair) in scales.iter().enumerate() {
        // Halves of 128 numbers, in each four shifts, in each two runs of 16.
        let (half, shift, run) = (part / 8, part % 8 / 2 * 2, part % 2);
        let (d, m) = (scale * f32::from(pair & 15), least * f32::from(pair >> 4));
        let from = half * 32 + run * 16;
        values.extend(quants[from..from + 16].iter().map(|q| d * f32::from(q >> shift & 3) - m));
    }
}

/// 32 bytes of third bits, 64 of two bits, 16 scales of 6 bits in 12 bytes, a scale.
fn three_bits_k(block: &[u8], values: &mut Vec<f32>) {
    let (high, quants, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let scale = half_at(block, 108);
    for part in 0..16 {
        let (half, group, run) = (part / 8, part % 8 / 2, part % 2);
        let low = if part < 8 { scales[part] & 15 } else { scales[part - 8] >> 4 };
        let top = scales[8 + part % 4] >> (2 * (part / 4)) & 3;
        let d = scale * (f32::from(low | top << 4) - 32.0);
        let bit = 1_u8 << (half * 4 + group);
        let (from, mask) = (half * 32 + run * 16, run * 16);
        values.extend((0..16).map(|l| {
            let offset = if high[mask + l] & bit == 0 { 4.0 } else { 0.0 };
            d * (f32::from(quants[from + l] >> (2 * group) & 3) - offset)
        }));
    }
}

/// Scale and minimum `index` of eight, 6 bits each, packed in 12 bytes.
fn six_bit_pair(packed: &[u8], index: usize) -> (f32, f32) {
    let (scale, least) = match index {
        0..4 => (packed[index] & 63, packed[index + 4] & 63),
        _ => (
            packed[index + 4] & 15 | packed[index - 4] >> 6 << 4,
            packed[index + 4] >> 4 | packed[index] >> 6 << 4,
        ),
    };
    (f32::from(scale), f32::from(least))
}

/// A scale and a minimum, eight packed pairs of these, 128 bytes of numbers.
fn four_bits_k(block: &[u8], values: &mut Vec<f32>) {
    let (scale, least) = header(block, 4);
    let (packed, quants) = (&block[4..16], &block[16..]);
    for part in 0..8 {
        let (d, m) = six_bit_pair(packed, part);
        let (run, shift) = (&quants[part / 2 * 32..part / 2 * 32 + 32], part % 2 * 4);
        values.extend(run.iter().map(|q| scale * d * f32::from(q >> shift & 15) - least * m));
    }
}

/// The same with a fifth bit for each number in 32 bytes before them.
fn five_bits_k(block: &[u8], values: &mut Vec<f32>) {
    let (scale, least) = header(block, 4);
    let (packed, high, quants) = (&block[4..16], &block[16..48], &block[48..]);
    for part in 0..8 {
        let (d, m) = six_bit_pair(packed, part);
        let (run, shift) = (&quants[part / 2 * 32..part / 2 * 32 + 32], part % 2 * 4);
        values.extend(run.iter().zip(high).map(|(q, high)| {
            let number = q >> shift & 15 | (high >> part & 1) << 4;
            scale * d * f32::from(number) - least * m
        }));
    }
}

/// What 4 bits stand for where steps are uneven, finer around 0.
const UNEVEN: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0, 89.0, 113.0,
];

/// Low halves of 16 bytes, then their high halves.
fn uneven(quants: &[u8], scale: f32, values: &mut Vec<f32>) {
    let nibbles = quants.iter().map(|q| q & 15).chain(quants.iter().map(|q| q >> 4));
    values.extend(nibbles.map(|q| scale * UNEVEN[usize::from(q)]));
}

/// A scale, the high two bits of eight scales of 6 bits, their low four bits, 128 bytes of numbers.
fn uneven_k(block: &[u8], values: &mut Vec<f32>) {
    let scale = half_at(block, 0);
    let high = u16::from_le_bytes([block[2], block[3]]);
    let (low, quants) = (&block[4..8], &block[8..]);
    for (part, quants) in quants.chunks_exact(16).enumerate() {
        let own = low[part / 2] >> (4 * (part % 2)) & 15 | ((high >> (2 * part) & 3) as u8) << 4;
        uneven(quants, scale * (f32::from(own) - 32.0), values);
    }
}

/// 128 bytes of low bits, 64 of high bits, 16 scales of 8 bits, a scale.
fn six_bits_k(block: &[u8], values: &mut Vec<f32>) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let scale = half_at(block, 208);
    for part in 0..8 {
        // Halves of 128 numbers, in each four runs of 32 with two scales.
        let (half, run) = (part / 4, part % 4);
        let (from, shift) = (half * 64 + run % 2 * 32, run / 2 * 4);
        values.extend((0..32).map(|l| {
            let number = low[from + l] >> shift & 15 | (high[half * 32 + l] >> (2 * run) & 3) << 4;
            let own = f32::from(scales[half * 8 + run * 2 + l / 16] as i8);
            scale * own * (f32::from(number) - 32.0)
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uneven_steps_are_looked_up() {
        // A scale of 2, and the bytes 0x10, 0x32, ...
        let mut block = vec![0x00, 0x40];
        block.extend((0..16_u8).map(|index| (index % 8 * 2) | (index % 8 * 2 + 1) << 4));
        let mut values = Vec::new();
        Quantization::Iq4Nl.decode(&block, &mut values);
        assert_eq!(values.len(), 32);
        assert_eq!((values[0], values[7], values[16], values[23]), (-254.0, 178.0, -208.0, 226.0));

        // Sub-block 0 has scale 33 - 32, sub-block 1 has 2 - 32, the others 0 - 32.
        let mut block = vec![0x00, 0x40, 0b10, 0x00, 0x21, 0, 0, 0];
        block.extend([0x88_u8; 128]);
        let mut values = Vec::new();
        Quantization::Iq4Xs.decode(&block, &mut values);
        assert_eq!(values.len(), 256);
        assert_eq!((values[0], values[31], values[32], values[64]), (2.0, 2.0, -60.0, -64.0));
    }
}
