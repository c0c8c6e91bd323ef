//! One body, three instruction sets.
//!
//! [`multiversion!`] compiles a plain loop three times (scalar, AVX2 with FMA, AVX-512) and picks one by
//! [`Isa`]; the compiler vectorizes each. Inside the body the constant `FMA` says whether fused multiply-add
//! is an instruction.

/// Defines `fn name(isa: Isa, args...)` from a body that is compiled for each instruction set.
macro_rules! multiversion {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name(isa: $crate::cpu::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[inline(always)]
            #[allow(unused, clippy::too_many_arguments)]
            fn body<const FMA: bool>($($arg: $ty),*) $(-> $ret)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx2($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")]
            #[allow(clippy::too_many_arguments)]
            fn avx512($($arg: $ty),*) $(-> $ret)? {
                body::<true>($($arg),*)
            }

            match isa {
                $crate::cpu::Isa::Scalar => body::<false>($($arg),*),
                // SAFETY: this `Isa` exists only on machines that have the features.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Isa::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::cpu::Isa::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(not(target_arch = "x86_64"))]
                _ => body::<false>($($arg),*),
            }
        }
    };
}
pub(crate) use multiversion;

/// Width of the running sums: two AVX-512 registers.
const LANES: usize = 32;

#[inline(always)]
fn fold(acc: [f32; LANES]) -> f32 {
    let mut acc = acc;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            acc[i] += acc[i + width];
        }
        width /= 2;
    }
    acc[0]
}

/// Sum of `f(x)`, in an order that depends on the length alone.
#[inline(always)]
pub(crate) fn sum1(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut acc = [0f32; LANES];
    let mut blocks = x.chunks_exact(LANES);
    for block in &mut blocks {
        for l in 0..LANES {
            acc[l] += f(block[l]);
        }
    }
    for (a, &v) in acc.iter_mut().zip(blocks.remainder()) {
        *a += f(v);
    }
    fold(acc)
}

/// Sum of `f(x, y)` over two slices of equal length.
#[inline(always)]
pub(crate) fn sum2(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut acc = [0f32; LANES];
    let mut xs = x.chunks_exact(LANES);
    let mut ys = y.chunks_exact(LANES);
    for (a, b) in (&mut xs).zip(&mut ys) {
        for l in 0..LANES {
            acc[l] += f(a[l], b[l]);
        }
    }
    for (acc, (&a, &b)) in acc.iter_mut().zip(xs.remainder().iter().zip(ys.remainder())) {
        *acc += f(a, b);
    }
    fold(acc)
}

/// Largest element, or minus infinity for an empty slice. NaN is passed over.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    let mut acc = [f32::NEG_INFINITY; LANES];
    let mut blocks = x.chunks_exact(LANES);
    for block in &mut blocks {
        for l in 0..LANES {
            acc[l] = if block[l] > acc[l] { block[l] } else { acc[l] };
        }
    }
    for (a, &v) in acc.iter_mut().zip(blocks.remainder()) {
        *a = if v > *a { v } else { *a };
    }
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            acc[i] = if acc[i + width] > acc[i] { acc[i + width] } else { acc[i] };
        }
        width /= 2;
    }
    acc[0]
}

/// `a * b + c`, fused where that is an instruction.
#[inline(always)]
pub(crate) fn fma<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}
