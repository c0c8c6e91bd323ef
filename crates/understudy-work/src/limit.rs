//! What Linux lets this process take of the machine's memory: its control groups, of either version and
//! however deep, and its own limits. `sysinfo`, which tells of the machine, leaves out limits of swap,
//! `memory.high`, pages that can be given back at once, and `ulimit`, and finds none where a container sees
//! the machine's path.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// A limit in bytes, and what is taken of it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Limit {
    most: u64,
    /// What may be swapped beyond it, if that is limited.
    swap: Option<u64>,
    taken: u64,
}

/// All limits that hold.
#[derive(Debug, Default)]
pub struct Limits(Vec<Limit>);

impl Limits {
    /// Those of this process.
    pub fn read() -> Self {
        Self::read_below(Path::new("/"))
    }

    /// Those of this process on the system whose files are below `root`.
    pub(crate) fn read_below(root: &Path) -> Self {
        let groups = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mut limits = Vec::new();
        for line in groups.lines() {
            // number:controllers:path
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            if controllers.is_empty() {
                let mounts = ["sys/fs/cgroup", "sys/fs/cgroup/unified"];
                limits.extend(
                    mounts.iter().flat_map(|mount| above(&root.join(mount), path)).filter_map(second),
                );
            } else if controllers.split(',').any(|own| own == "memory") {
                limits.extend(above(&root.join("sys/fs/cgroup/memory"), path).into_iter().filter_map(first));
            }
        }
        limits.extend(own(root));
        Self(limits)
    }

    /// The most that may be taken, swap included, of which the machine has `swap` bytes.
    pub fn total(&self, swap: u64) -> Option<u64> {
        let most = |limit: &Limit| limit.most.saturating_add(limit.swap.unwrap_or(swap).min(swap));
        self.0.iter().map(most).min()
    }

    /// What may still be taken without swapping.
    pub fn free(&self) -> Option<u64> {
        self.0.iter().map(|limit| limit.most.saturating_sub(limit.taken)).min()
    }
}

/// The folders of the group `path` and of all it is in. In a container the path may be that of the machine,
/// of which only the end of the way up is there.
fn above(mount: &Path, path: &str) -> Vec<PathBuf> {
    let path = Path::new(path.trim()).strip_prefix("/").unwrap_or(Path::new(""));
    path.ancestors().map(|group| mount.join(group)).collect()
}

fn number(file: &Path) -> Option<u64> {
    read_to_string(file).ok()?.trim().parse().ok()
}

/// What of a group's pages can be given back at once: files that were read and not lately.
fn reclaimable(folder: &Path, entry: &str) -> u64 {
    let listing = read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let found = listing.lines().find_map(|line| line.strip_prefix(entry)?.trim().parse().ok());
    found.unwrap_or(0)
}

/// A group of version 2: above `memory.high` it is slowed down until it hardly runs, at `memory.max` killed.
fn second(folder: PathBuf) -> Option<Limit> {
    let limits = ["memory.max", "memory.high"].into_iter().filter_map(|name| number(&folder.join(name)));
    let taken = number(&folder.join("memory.current")).unwrap_or(0);
    Some(Limit {
        most: limits.min()?,
        swap: number(&folder.join("memory.swap.max")),
        taken: taken.saturating_sub(reclaimable(&folder, "inactive_file ")),
    })
}

/// A group of version 1, where no limit is a number of pages that no machine has.
fn first(folder: PathBuf) -> Option<Limit> {
    const NONE: u64 = 1 << 60;
    let most = number(&folder.join("memory.limit_in_bytes")).filter(|&most| most < NONE)?;
    let both = number(&folder.join("memory.memsw.limit_in_bytes")).filter(|&most| most < NONE);
    let taken = number(&folder.join("memory.usage_in_bytes")).unwrap_or(0);
    Some(Limit {
        most,
        swap: both.map(|both| both.saturating_sub(most)),
        taken: taken.saturating_sub(reclaimable(&folder, "total_inactive_file ")),
    })
}

/// The limits of `ulimit`: of the space of addresses, and of what is not of files.
fn own(root: &Path) -> Vec<Limit> {
    let limits = read_to_string(root.join("proc/self/limits")).unwrap_or_default();
    let status = read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let limit = |(name, entry): (&str, &str)| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
        // The soft one comes first; "unlimited" is none.
        let most = line.split_whitespace().next()?.parse().ok()?;
        Some(Limit { most, swap: Some(0), taken: in_listing(&status, entry).unwrap_or(0) })
    };
    [("Max address space", "VmSize:"), ("Max data size", "VmData:")].into_iter().filter_map(limit).collect()
}

/// The bytes of an entry in a listing as Linux has it.
fn in_listing(listing: &str, entry: &str) -> Option<u64> {
    let line = listing.lines().find_map(|line| line.strip_prefix(entry))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1 << 10)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// The files of a system.
    pub fn system(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    fn of(files: &[(&str, &str)]) -> (Option<u64>, Option<u64>) {
        let limits = Limits::read_below(system(files).path());
        (limits.total(200), limits.free())
    }

    #[test]
    fn the_tightest_group_on_the_way_up_holds() {
        let deep = [
            ("proc/self/cgroup", "0::/a/b/c\n"),
            ("sys/fs/cgroup/a/memory.max", "4000"),
            ("sys/fs/cgroup/a/memory.current", "1000"),
            ("sys/fs/cgroup/a/b/memory.max", "max"),
            ("sys/fs/cgroup/a/b/c/memory.max", "9000"),
            ("sys/fs/cgroup/a/b/c/memory.current", "100"),
        ];
        assert_eq!(of(&deep), (Some(4200), Some(3000)));
        let high = [("proc/self/cgroup", "0::/\n"), ("sys/fs/cgroup/memory.high", "500")];
        assert_eq!(of(&high), (Some(700), Some(500)));
        let swap = [
            ("proc/self/cgroup", "0::/x\n"),
            ("sys/fs/cgroup/x/memory.max", "500"),
            ("sys/fs/cgroup/x/memory.swap.max", "100"),
        ];
        assert_eq!(of(&swap), (Some(600), Some(500)));
    }

    #[test]
    fn a_container_that_sees_the_machines_path_has_its_own_at_the_top() {
        let first = [
            ("proc/self/cgroup", "9:memory:/docker/4f\n3:cpu,cpuacct:/docker/4f\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "7000"),
            ("sys/fs/cgroup/memory/memory.memsw.limit_in_bytes", "8000"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "3000"),
            ("sys/fs/cgroup/memory/memory.stat", "cache 9\ntotal_inactive_file 2000\n"),
        ];
        assert_eq!(of(&first), (Some(7200), Some(6000)));
        let none = [
            ("proc/self/cgroup", "9:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712"),
        ];
        assert_eq!(of(&none), (None, None));
        assert_eq!(of(&[]), (None, None));
    }

    #[test]
    fn limits_of_the_shell_hold() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max data size             unlimited            unlimited            bytes     \n\
                      Max address space         4096000              unlimited            bytes     \n";
        let files = [("proc/self/limits", limits), ("proc/self/status", "Name: x\nVmSize:\t    1000 kB\n")];
        assert_eq!(of(&files), (Some(4_096_000), Some(3_072_000)));
    }
}
