//! Elementary functions on one `f32`, without branches so that loops over them vectorize.

use crate::simd::fma;

/// `exp(x)`: relative error below 2e-7; 0 below -87.3, held at about 1.6e38 above 88; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    // x = n ln 2 + r with |r| <= ln 2 / 2; adding 1.5 * 2^23 rounds to an integer that sits in the low
    // mantissa bits.
    const MAGIC: f32 = 12_582_912.0;
    const LN2_HI: f32 = 0.693_359_4;
    const LN2_LO: f32 = -2.121_944_4e-4;
    let x0 = x;
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let t = fma::<FMA>(x, std::f32::consts::LOG2_E, MAGIC);
    let n = t - MAGIC;
    let r = fma::<FMA>(n, -LN2_HI, x);
    let r = fma::<FMA>(n, -LN2_LO, r);
    // Taylor's series to degree 7 is within 1 ulp on the reduced range.
    let mut p = 1.0 / 5040.0;
    p = fma::<FMA>(p, r, 1.0 / 720.0);
    p = fma::<FMA>(p, r, 1.0 / 120.0);
    p = fma::<FMA>(p, r, 1.0 / 24.0);
    p = fma::<FMA>(p, r, 1.0 / 6.0);
    p = fma::<FMA>(p, r, 0.5);
    p = fma::<FMA>(p, r, 1.0);
    p = fma::<FMA>(p, r, 1.0);
    let scale = f32::from_bits((t.to_bits().wrapping_add(127)) << 23);
    let y = p * scale;
    if x0 < -87.3 { 0.0 } else { y }
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(crate) fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

/// `tanh(x)`: an odd polynomial near 0, where the formula by `exp` cancels.
#[inline(always)]
pub(crate) fn tanh<const FMA: bool>(x: f32) -> f32 {
    let z = x * x;
    // Taylor's series 1 - z/3 + 2z^2/15 - ..., which at |x| < 0.3 is exact to f32 with these terms.
    let mut p = -1382.0 / 155_925.0;
    p = fma::<FMA>(p, z, 62.0 / 2835.0);
    p = fma::<FMA>(p, z, -17.0 / 315.0);
    p = fma::<FMA>(p, z, 2.0 / 15.0);
    p = fma::<FMA>(p, z, -1.0 / 3.0);
    let small = fma::<FMA>(p * z, x, x);
    let a = x.abs();
    let large = 1.0 - 2.0 / (exp::<FMA>(2.0 * a) + 1.0);
    let large = if x < 0.0 { -large } else { large };
    if a < 0.3 { small } else { large }
}

/// Complementary error function of `z >= 0`, relative error about 3e-7 for results above 1e-6.
///
/// Chebyshev fit from Press et al., "Numerical Recipes", section 6.2.
#[inline(always)]
pub(crate) fn erfc_positive<const FMA: bool>(z: f32) -> f32 {
    let t = 1.0 / fma::<FMA>(0.5, z, 1.0);
    let mut p = 0.170_872_77;
    p = fma::<FMA>(p, t, -0.822_152_2);
    p = fma::<FMA>(p, t, 1.488_515_9);
    p = fma::<FMA>(p, t, -1.135_204);
    p = fma::<FMA>(p, t, 0.278_868_08);
    p = fma::<FMA>(p, t, -0.186_288_06);
    p = fma::<FMA>(p, t, 0.096_784_18);
    p = fma::<FMA>(p, t, 0.374_091_96);
    p = fma::<FMA>(p, t, 1.000_023_7);
    p = fma::<FMA>(p, t, -1.265_512_2);
    t * exp::<FMA>(fma::<FMA>(-z, z, p))
}

/// Distribution function of the standard normal.
#[inline(always)]
pub(crate) fn normal_cdf<const FMA: bool>(x: f32) -> f32 {
    let tail = 0.5 * erfc_positive::<FMA>(x.abs() * std::f32::consts::FRAC_1_SQRT_2);
    if x < 0.0 { tail } else { 1.0 - tail }
}
