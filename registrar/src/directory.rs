//! The in-memory directory.
