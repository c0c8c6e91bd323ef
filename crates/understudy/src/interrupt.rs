//! Ctrl-C: the first ends the work after the current step, the second ends the program.

use understudy_work::Stop;

use crate::report;

/// The exit code of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// From now on Ctrl-C asks `stop`.
pub fn listen(stop: Stop) {
    // Where no handler can be set, Ctrl-C ends the program at once, as it does without one.
    let _ = ctrlc::set_handler(move || {
        if stop.ask() {
            std::process::exit(INTERRUPTED);
        }
        report::say("stopping after this step; press Ctrl-C again to stop at once");
    });
}
