use std::{
    thread,
    time::{Duration, Instant},
};

/// How long a condition may take to come true: far more than it needs, for a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);

const PAUSE: Duration = Duration::from_millis(20);

/// Waits until `probe` yields something, and returns it.
///
/// # Panics
/// When [`DEADLINE`] is over first; `what` says what was waited for.
#[track_caller]
#[allow(
    clippy::disallowed_methods,
    reason = "a deadline for real processes is wall-clock time"
)]
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            started.elapsed() < DEADLINE,
            "waited {DEADLINE:?} in vain: {what}"
        );
        thread::sleep(PAUSE);
    }
}

/// Waits until `condition` is true.
///
/// # Panics
/// As [`eventually`].
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    eventually(what, || condition().then_some(()));
}
