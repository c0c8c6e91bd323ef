//! Ctrl-C: the first ends the work after the current step, the second ends the program.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::report;

static ASKED: AtomicBool = AtomicBool::new(false);

/// The exit code of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// Listens for Ctrl-C from now on.
pub fn listen() {
    let heard = || {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(INTERRUPTED);
        }
        report::say("stopping after this step; press Ctrl-C again to stop at once");
    };
    // Where no handler can be set, Ctrl-C ends the program at once, as it does without one.
    let _ = ctrlc::set_handler(heard);
}

/// Whether to go on.
pub fn flow() -> ControlFlow<()> {
    if ASKED.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}
