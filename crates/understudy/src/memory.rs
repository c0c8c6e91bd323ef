//! The memory of this machine.

/// Bytes the system could give now without swapping, where it says so.
pub fn available() -> Option<u64> {
    in_listing(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// The available bytes in a listing as Linux has it.
fn in_listing(listing: &str) -> Option<u64> {
    let line = listing.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_found_in_a_listing() {
        let listing = "MemTotal:       24000 kB\nMemFree:  10 kB\nMemAvailable:   20480 kB\nBuffers: 1 kB\n";
        assert_eq!(in_listing(listing), Some(20_971_520));
        assert_eq!(in_listing("MemTotal: 1 kB\n"), None);
    }
}
