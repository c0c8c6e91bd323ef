//! The memory this program may take: that of the machine, or less where a container or a limit says so.

use anyhow::{Result, bail};
use sysinfo::System;

use crate::limit::Limits;

/// Bytes the machine has, and could give now without swapping.
#[derive(Clone, Copy)]
struct Machine {
    memory: u64,
    swap: u64,
    available: u64,
}

impl Machine {
    /// This one, where the system says so.
    fn look() -> Option<Self> {
        let mut system = System::new();
        system.refresh_memory();
        let [memory, swap] = [system.total_memory(), system.total_swap()];
        (memory > 0).then(|| Self { memory, swap, available: system.available_memory() })
    }
}

/// That what a plan needs is there at all, used or not: the system would kill the program half way.
///
/// # Errors
/// When it needs a quarter more than there is, with `advice`.
pub fn check(needed: u64, advice: &str) -> Result<()> {
    check_in(Machine::look(), &Limits::read(), needed, advice)
}

fn check_in(machine: Option<Machine>, limits: &Limits, needed: u64, advice: &str) -> Result<()> {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let limit = limits.total(machine.map_or(0, |machine| machine.swap));
    let machine = machine.map(|machine| machine.memory + machine.swap);
    let Some(total) = [machine, limit].into_iter().flatten().min() else { return Ok(()) };
    // What is limited is killed at its limit; a machine has pages to spare that nobody looks at.
    let limited = Some(total) == limit && machine.is_none_or(|machine| total < machine);
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

/// Bytes the system could give now without swapping, where it says so.
pub fn available() -> Option<u64> {
    available_in(Machine::look(), &Limits::read())
}

fn available_in(machine: Option<Machine>, limits: &Limits) -> Option<u64> {
    [machine.map(|machine| machine.available), limits.free()].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::tests::system;

    const GB: u64 = 1 << 30;
    const MACHINE: Option<Machine> = Some(Machine { memory: 16 * GB, swap: 0, available: 8 * GB });

    #[test]
    fn this_machine_has_memory() {
        let machine = Machine::look().unwrap();
        assert!(machine.memory > 0 && machine.available <= machine.memory);
    }

    #[test]
    fn a_container_has_what_it_may_take() {
        let folder = system(&[
            ("proc/self/cgroup", "0::/box\n"),
            ("sys/fs/cgroup/box/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/box/memory.swap.max", "0\n"),
            ("sys/fs/cgroup/box/memory.current", "1610612736\n"),
            ("sys/fs/cgroup/box/memory.stat", "anon 1\ninactive_file 1073741824\n"),
        ]);
        let limited = Limits::read_below(folder.path());
        assert_eq!(available_in(MACHINE, &limited), Some(GB + GB / 2));
        for machine in [MACHINE, None] {
            check_in(machine, &limited, 2 * GB, "").unwrap();
            let message = check_in(machine, &limited, 2 * GB + 1, "take less").unwrap_err().to_string();
            assert!(message.contains("limited to 2.1 GB; take less"), "{message}");
        }

        let free = Limits::default();
        assert_eq!(available_in(MACHINE, &free), Some(8 * GB));
        check_in(MACHINE, &free, 20 * GB, "").unwrap();
        let message = check_in(MACHINE, &free, 21 * GB, "").unwrap_err().to_string();
        assert!(message.contains("machine has 17.2 GB"), "{message}");
    }
}
