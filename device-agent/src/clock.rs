use jiff::Timestamp;

/// The wall clock, for what people and other runs read; nothing is measured with it.
#[allow(
    clippy::disallowed_methods,
    reason = "the program around the core reads the clock here, and only here"
)]
pub(crate) fn now() -> Timestamp {
    Timestamp::now()
}
