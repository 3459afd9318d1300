//! End-to-end tests with real processes and real clients.

pub mod kit;
pub mod sim;
