//! What this machine can do, asked once.

use std::sync::OnceLock;

/// What `UNDERSTUDY_CPU` may hold kernels back to, narrowest first.
const PATHS: [&str; 5] = ["scalar", "avx2", "avx512", "avx512bf16", "amx"];

/// Whether `path` may be taken: none is wider than what `UNDERSTUDY_CPU` names, if it names one.
fn permitted(path: &str) -> bool {
    static WIDEST: OnceLock<usize> = OnceLock::new();
    let place = |path: &str| PATHS.iter().position(|known| *known == path);
    let widest = WIDEST.get_or_init(|| {
        let named = std::env::var("UNDERSTUDY_CPU").ok();
        named.and_then(|name| place(&name)).unwrap_or(PATHS.len())
    });
    place(path).is_some_and(|place| place <= *widest)
}

/// Vector instruction set of the elementwise kernels.
///
/// A value other than `Scalar` exists only if the machine has it: they come from [`Isa::best`] and
/// [`Isa::available`].
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    Scalar,
    Avx2,
    Avx512,
}

impl Isa {
    /// Every instruction set of this machine, narrowest first.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
    pub(crate) fn available() -> Vec<Isa> {
        let mut found = vec![Isa::Scalar];
        #[cfg(target_arch = "x86_64")]
        {
            if permitted("avx2") && is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                found.push(Isa::Avx2);
            }
            let avx512 = permitted("avx512")
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512bw");
            if avx512 && found.contains(&Isa::Avx2) {
                found.push(Isa::Avx512);
            }
        }
        found
    }

    /// The widest instruction set of this machine.
    pub(crate) fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Isa::available().pop().unwrap_or(Isa::Scalar))
    }
}

/// How a product of bf16 operands is computed.
///
/// As with [`Isa`], a value other than `Portable` exists only if the machine has the instructions.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bf16Path {
    Portable,
    Avx512,
    Amx,
}

impl Bf16Path {
    /// Every path of this machine, slowest first.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_mut))]
    pub(crate) fn available() -> Vec<Bf16Path> {
        let mut found = vec![Bf16Path::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            let avx512 = Isa::best() == Isa::Avx512 && permitted("avx512bf16");
            if avx512 && is_x86_feature_detected!("avx512bf16") {
                found.push(Bf16Path::Avx512);
                if permitted("amx") && amx_permitted() {
                    found.push(Bf16Path::Amx);
                }
            }
        }
        found
    }

    /// The fastest path of this machine.
    pub(crate) fn best() -> Bf16Path {
        static BEST: OnceLock<Bf16Path> = OnceLock::new();
        *BEST.get_or_init(|| Bf16Path::available().pop().unwrap_or(Bf16Path::Portable))
    }
}

/// Whether the processor has AMX-BF16 and the operating system lets this process use it.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn amx_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    const AMX_BF16_AND_TILE: u32 = (1 << 22) | (1 << 24);
    if std::arch::x86_64::__cpuid(0).eax < 7 {
        return false;
    }
    let leaf = std::arch::x86_64::__cpuid_count(7, 0);
    if leaf.edx & AMX_BF16_AND_TILE != AMX_BF16_AND_TILE {
        return false;
    }
    // SAFETY: a system call without pointers; it grants this process the tile registers, or fails and changes
    // nothing.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(all(target_arch = "x86_64", not(target_os = "linux")))]
fn amx_permitted() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_the_last_available() {
        assert_eq!(Isa::available().last(), Some(&Isa::best()));
        assert_eq!(Bf16Path::available().last(), Some(&Bf16Path::best()));
    }

    /// All tests of this crate once more for each narrower path, whose kernels the widest hides.
    #[test]
    fn every_test_passes_on_every_path() {
        if std::env::var_os("UNDERSTUDY_CPU").is_some() {
            return;
        }
        for path in &PATHS[..PATHS.len() - 1] {
            let mut tests = std::process::Command::new(std::env::current_exe().expect("a program"));
            let found = tests.env("UNDERSTUDY_CPU", path).output().expect("it can be run");
            assert!(found.status.success(), "{path}: {}", String::from_utf8_lossy(&found.stdout));
        }
    }
}
