//! The memory this program may take: that of the machine, or less where a container or a limit says so.

use std::path::Path;

use anyhow::{Result, bail};

use crate::limit::Limits;

/// Where the system tells of itself.
const ROOT: &str = "/";

/// That what a plan needs is there at all, used or not: the system would kill the program half way.
///
/// # Errors
/// When it needs a quarter more than there is, with `advice`.
pub fn check(needed: u64, advice: &str) -> Result<()> {
    check_below(Path::new(ROOT), needed, advice)
}

fn check_below(root: &Path, needed: u64, advice: &str) -> Result<()> {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let machine = total(root);
    let limit = Limits::read(root).total(swap(root));
    let Some(total) = [machine, limit].into_iter().flatten().min() else { return Ok(()) };
    // What is limited is killed at its limit; a machine has pages to spare that nobody looks at.
    let limited = Some(total) == limit && limit < machine;
    let most = if limited { total } else { total + total / 4 };
    if needed <= most {
        return Ok(());
    }
    let who = if limited { "this process is limited to" } else { "this machine has" };
    bail!(
        "it needs about {:.1} GB of memory and {who} {:.1} GB; {advice}",
        gigabytes(needed),
        gigabytes(total)
    )
}

/// Bytes of memory and swap of the machine, where the system says so.
fn total(root: &Path) -> Option<u64> {
    Some(entry(root, "MemTotal:")? + swap(root))
}

fn swap(root: &Path) -> u64 {
    entry(root, "SwapTotal:").unwrap_or(0)
}

fn entry(root: &Path, name: &str) -> Option<u64> {
    in_listing(&std::fs::read_to_string(root.join("proc/meminfo")).ok()?, name)
}

/// Bytes the system could give now without swapping, where it says so.
pub fn available() -> Option<u64> {
    available_below(Path::new(ROOT))
}

fn available_below(root: &Path) -> Option<u64> {
    [entry(root, "MemAvailable:"), Limits::read(root).free()].into_iter().flatten().min()
}

/// The bytes of an entry in a listing as Linux has it.
pub(crate) fn in_listing(listing: &str, entry: &str) -> Option<u64> {
    let line = listing.lines().find_map(|line| line.strip_prefix(entry))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::tests::system;

    const GB: u64 = 1 << 30;

    #[test]
    fn available_memory_is_found_in_a_listing() {
        let listing = "MemTotal:       24000 kB\nMemFree:  10 kB\nMemAvailable:   20480 kB\nBuffers: 1 kB\n";
        assert_eq!(in_listing(listing, "MemAvailable:"), Some(20_971_520));
        assert_eq!(in_listing("MemTotal: 1 kB\n", "MemAvailable:"), None);
    }

    #[test]
    fn a_container_has_what_it_may_take() {
        let limited = system(&[
            ("proc/self/cgroup", "0::/box\n"),
            ("sys/fs/cgroup/box/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/box/memory.swap.max", "0\n"),
            ("sys/fs/cgroup/box/memory.current", "1610612736\n"),
            ("sys/fs/cgroup/box/memory.stat", "anon 1\ninactive_file 1073741824\n"),
        ]);
        assert_eq!(available_below(limited.path()), Some(GB + GB / 2));
        check_below(limited.path(), 2 * GB, "").unwrap();
        let message = check_below(limited.path(), 2 * GB + 1, "take less").unwrap_err().to_string();
        assert!(message.contains("limited to 2.1 GB; take less"), "{message}");

        let free = system(&[]);
        assert_eq!(available_below(free.path()), Some(8 * GB));
        check_below(free.path(), 20 * GB, "").unwrap();
        let message = check_below(free.path(), 21 * GB, "").unwrap_err().to_string();
        assert!(message.contains("machine has 17.2 GB"), "{message}");
    }
}
