//! The device's side of Homeport: finds the device's gateway and follows it when it changes.
pub mod core;
