//! The memory of this machine.

use anyhow::{Result, bail};

/// That what a plan needs is there at all, used or not: the system would kill the program half way.
///
/// # Errors
/// When it needs a quarter more than this machine has, with `advice`.
pub fn check(needed: u64, advice: &str) -> Result<()> {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    match total() {
        Some(total) if needed > total + total / 4 => bail!(
            "it needs about {:.1} GB of memory and this machine has {:.1} GB; {advice}",
            gigabytes(needed),
            gigabytes(total)
        ),
        _ => Ok(()),
    }
}

/// Bytes of memory and swap, where the system says so.
fn total() -> Option<u64> {
    let listing = std::fs::read_to_string("/proc/meminfo").ok()?;
    Some(in_listing(&listing, "MemTotal:")? + in_listing(&listing, "SwapTotal:").unwrap_or(0))
}

/// Bytes the system could give now without swapping, where it says so.
pub fn available() -> Option<u64> {
    in_listing(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// The bytes of an entry in a listing as Linux has it.
fn in_listing(listing: &str, entry: &str) -> Option<u64> {
    let line = listing.lines().find_map(|line| line.strip_prefix(entry))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_found_in_a_listing() {
        let listing = "MemTotal:       24000 kB\nMemFree:  10 kB\nMemAvailable:   20480 kB\nBuffers: 1 kB\n";
        assert_eq!(in_listing(listing, "MemAvailable:"), Some(20_971_520));
        assert_eq!(in_listing("MemTotal: 1 kB\n", "MemAvailable:"), None);
    }
}
