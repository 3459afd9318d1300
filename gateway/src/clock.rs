//! The wall clock, read here and nowhere else; cores are handed what it says.

use jiff::Timestamp;

/// Now.
#[allow(clippy::disallowed_methods)]
pub fn now() -> Timestamp {
    Timestamp::now()
}
