//! Files as the rest of the program writes them.
//!
//! They appear whole or not at all ([`write_file`], [`write_directory`]), they tell when they are damaged
//! ([`seal`], [`Sealing`]), and one process writes them at a time ([`Lock`]). What a process that was killed
//! leaves behind is removed by the next that writes the same file, and never while somebody is writing it:
//! the system takes the lock of a temporary away with its process. Text that others write is read whatever
//! byte order mark it begins with ([`decoded`]).

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod atomic;
mod lock;
mod seal;
mod text;

pub use atomic::{check_creatable, parent, remove_leftovers, write_directory, write_file};
pub use lock::{Lock, LockError, is_same};
pub use seal::{Sealing, checksum, is_sealed, seal, seal_line, unseal, unseal_line};
pub use text::{Mark, decoded};
