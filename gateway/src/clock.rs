//! The wall clock, read here and nowhere else; cores are handed what it says.

use jiff::Timestamp;

/// Now.
#[allow(
    clippy::disallowed_methods,
    reason = "the program around the cores reads the clock here, and only here"
)]
pub fn now() -> Timestamp {
    Timestamp::now()
}
